"""Prepared data sets in a temporary folder that lives as long as the data set in memory."""

from __future__ import annotations

import contextlib
import shutil
import tempfile
import weakref
from collections.abc import Iterator, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch

from twotower.data.dataset import Dataset
from twotower.data.prepare.log import Progress
from twotower.data.prepare.prepare import prepare
from twotower.data.prepare.spec import Spec


class TemporaryFolder:
    """A folder that is removed when nothing refers to this object any more, or when Python ends."""

    def __init__(self) -> None:
        self.path = Path(tempfile.mkdtemp(prefix="twotower-"))
        self.remove = weakref.finalize(self, shutil.rmtree, self.path, ignore_errors=True)

    def __deepcopy__(self, memo: dict[int, Any]) -> TemporaryFolder:
        return self


@contextlib.contextmanager
def target_folder(to: Path | str | None) -> Iterator[tuple[Path, TemporaryFolder | None]]:
    """Yield the folder to write: ``to``, or a temporary one and what keeps it; a failure removes the temporary one."""
    if to is not None:
        yield Path(to), None
        return
    keeper = TemporaryFolder()
    try:
        yield keeper.path / "data", keeper
    except BaseException:
        keeper.remove()
        raise


def prepare_dataset(
    spec: Spec | Mapping[str, Any] | Path | str,
    to: Path | str | None,
    *,
    device: torch.device | str,
    memory_limit: str,
    progress: Progress | None,
) -> Dataset:
    """Prepare a spec and load what it gave; see `Dataset.prepare`."""
    if isinstance(spec, Mapping):
        spec = Spec.from_dict(dict(spec))
    with target_folder(to) as (folder, keeper):
        prepare(spec, folder, memory_limit=memory_limit, progress=progress)
        return replace(Dataset.load(folder, device=device, verify=False), keeper=keeper)
