"""What every benchmark shares: options, clocks that count CPU time and memory, the record of machine and versions.

Run one as ``python benchmarks/NAME.py``; it then finds this file by ``import common``::

    options = common.parse(common.parser(__doc__))
    with common.Clock() as clock:
        work()
    common.finish("training", options, settings={"batch": 256}, figures={"cpu_seconds": clock.cpu})
"""

from __future__ import annotations

import argparse
import contextlib
import datetime
import json
import os
import platform
import re
import resource
import subprocess
import sys
import time
from collections.abc import Iterator
from importlib import metadata
from pathlib import Path
from typing import Any

import torch

import twotower
from twotower.core.files import write_json

ROOT = Path(__file__).resolve().parents[1]
RESULTS = ROOT / "benchmarks" / "results"
SHARED_DATA = ROOT.parent / "shared" / "data"
"""Real data sets as Parquet, beside the checkout; absent on most machines."""

PACKAGES = ("torch", "numpy", "scipy", "scikit-learn", "duckdb", "faiss-cpu", "safetensors")


def parser(description: str | None) -> argparse.ArgumentParser:
    """A parser with the options that all benchmarks take; a benchmark adds its own."""
    made = argparse.ArgumentParser(description=(description or "").strip().split("\n")[0])
    made.add_argument("--quick", action="store_true", help="a small form, under a minute on two cores")
    made.add_argument("--json", action="store_true", help="print one JSON object on standard output and nothing else")
    made.add_argument("--out", type=Path, help="where to keep the result; a full run keeps it in benchmarks/results/")
    made.add_argument("--threads", type=int, default=1, help="threads that torch may use (default 1)")
    return made


def parse(made: argparse.ArgumentParser, arguments: list[str] | None = None) -> argparse.Namespace:
    """Read the options, and set the threads here and for processes that the benchmark starts."""
    options = made.parse_args(arguments)
    for variable in ("OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS"):
        os.environ[variable] = str(options.threads)
    torch.set_num_threads(options.threads)
    return options


def cpu_seconds() -> float:
    """CPU seconds so far, user and system, of this process and of the children it has waited for."""
    times = [resource.getrusage(who) for who in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN)]
    return sum(t.ru_utime + t.ru_stime for t in times)


class Clock:
    """Seconds of a ``with`` block: ``wall``, and ``cpu`` with the children that ended inside it.

    On a shared machine compare ``cpu``; for work on a GPU compare ``wall`` (the block ends when the GPU is done).
    """

    wall: float
    cpu: float

    def __enter__(self) -> Clock:
        _wait_for_gpu()
        self._start = time.perf_counter(), cpu_seconds()
        return self

    def __exit__(self, *_: object) -> None:
        _wait_for_gpu()
        self.wall, self.cpu = time.perf_counter() - self._start[0], cpu_seconds() - self._start[1]


@contextlib.contextmanager
def alone(wanted: bool = True) -> Iterator[None]:
    """Keep the core that this thread is on for itself in the block: no other program is let in between.

    Only for the superuser, and for blocks of seconds: others wait.
    """
    if not wanted:
        yield
        return
    try:
        os.sched_setscheduler(0, os.SCHED_FIFO, os.sched_param(1))
    except (AttributeError, PermissionError):
        sys.exit("--alone: this system lets nobody, or only the superuser, keep a core; leave it out")
    try:
        yield
    finally:
        os.sched_setscheduler(0, os.SCHED_OTHER, os.sched_param(0))


def _wait_for_gpu() -> None:
    if torch.cuda.is_initialized():
        torch.cuda.synchronize()


def peak_mib() -> float:
    """Most memory this process or one waited-for child has held, in MiB. It only grows: measure in a fresh process."""
    unit = 2**20 if sys.platform == "darwin" else 2**10
    child = resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss / unit
    status = Path("/proc/self/status")
    if status.is_file():  # ru_maxrss of a started process begins at its parent's size; VmHWM is its own
        own = float(re.search(r"VmHWM:\s+(\d+)", status.read_text())[1]) / 2**10  # type: ignore[index]
    else:
        own = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / unit
    return round(max(own, child), 1)


def hardware() -> dict[str, Any]:
    """Processor, cores, memory, GPU and its driver."""
    record: dict[str, Any] = {
        "processor": platform.processor() or platform.machine(),
        "cores": os.cpu_count(),
        "threads": torch.get_num_threads(),
        "memory_gib": round(os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / 2**30, 1),
        "system": f"{platform.system()} {platform.release()}",
    }
    info = Path("/proc/cpuinfo")
    if info.is_file() and (model := re.search(r"model name\s*:\s*(.+)", info.read_text())):
        record["processor"] = model[1]
    if torch.cuda.is_available():
        record["gpu"] = torch.cuda.get_device_name()
        record["gpus"] = torch.cuda.device_count()
        record["driver"] = _output("nvidia-smi", "--query-gpu=driver_version", "--format=csv,noheader")
    return record


def versions(*more: str) -> dict[str, str]:
    """Versions of Python, of this package with its revision, and of the libraries that are installed."""
    record = {"python": platform.python_version(), "twotower": twotower.__version__}
    if revision := _output("git", "-C", str(ROOT), "rev-parse", "--short", "HEAD"):
        record["revision"] = revision
    for package in (*PACKAGES, *more):
        try:
            record[package] = metadata.version(package)
        except metadata.PackageNotFoundError:
            continue
    if torch.version.cuda:
        record["cuda"] = torch.version.cuda
    return record


def finish(
    name: str,
    options: argparse.Namespace,
    *,
    settings: dict[str, Any],
    figures: dict[str, Any],
    packages: tuple[str, ...] = (),
) -> dict[str, Any]:
    """Print the figures, and keep them with hardware, versions and settings.

    A full run is kept as ``benchmarks/results/NAME.json``, a quick one only where ``--out`` says.

    Args:
        settings: what was run: sizes, seeds, repeats.
        figures: the results by name, with the unit in the name; raw repeats as lists.
        packages: further packages whose versions matter (peers).
    """
    about = {
        "benchmark": name,
        "made": datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds"),
        "quick": options.quick,
        "settings": settings,
        "hardware": hardware(),
        "versions": versions(*packages),
    }
    if taken := set(about) & set(figures):
        raise ValueError(f"figures may not be named {sorted(taken)}")
    record = {**figures, **about}
    target = options.out or (None if options.quick else RESULTS / f"{name}.json")
    if target is not None:
        write_json(target, record)
    if options.json:
        print(json.dumps(record, allow_nan=False))
    else:
        for key, value in figures.items():
            print(f"{key:40} {value:,.4g}" if isinstance(value, float) else f"{key:40} {value}")
        print(f"kept in {target}" if target else "a quick run: not kept (--out FILE keeps it)")
    return record


def _output(*command: str) -> str | None:
    try:
        return subprocess.run(command, capture_output=True, text=True, check=True).stdout.strip().split("\n")[0]
    except (OSError, subprocess.CalledProcessError):
        return None
