"""An engine by what ``--engine`` says."""

from __future__ import annotations

import contextlib
import re
from collections.abc import Iterator

from twotower.core.engines.base import Engine
from twotower.core.engines.local import Processes, ThisProcess
from twotower.core.errors import InputError, shown


@contextlib.contextmanager
def open_engine(address: str = "local", workers: int = 1) -> Iterator[Engine]:
    """Open an engine for a while.

    Args:
        address: "local", ``dask://host:port`` or ``ray://host:port``.
        workers: processes of "local"; 1 is this process itself. A cluster has its own.

    Raises:
        InputError: if there is no such engine, its package is missing, or ``workers`` is below 1 or not for it.
        ConnectionError: if a cluster does not answer.
    """
    if workers < 1:
        raise InputError(f"workers must be at least 1, got {workers}")
    if address == "local":
        if workers == 1:
            yield ThisProcess()
            return
        processes = Processes(workers, stay=True)
        try:
            yield processes
        finally:
            processes.close()
        return
    if not re.fullmatch(r"(dask|ray)://[^\s/@:]+:\d{1,5}", address):
        raise InputError(f"no engine {shown(address)}: write local, dask://host:port or ray://host:port")
    if workers > 1:
        raise InputError(f"--workers is for --engine local: {address} has its own")
    if address.startswith("dask"):
        from twotower.core.engines.dask import Dask as Cluster
    else:
        from twotower.core.engines.ray import Ray as Cluster  # type: ignore[assignment]
    cluster = Cluster(address)
    try:
        yield cluster
    finally:
        cluster.close()
