"""What an index costs: time to build, bytes an item on disk and in memory, time of a search, and filters.

Vectors lie about 400 centres and have norm one, as those of a trained tower do. Each kind builds in a process of its
own and is loaded in a fresh one, so that memory is what serving adds: resident memory after 200 searches less that
before the load. Times of a search are of one thread, CPU and wall, one user at a time.
"""

from __future__ import annotations

import argparse
import json
import os
import resource
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

import common
from twotower.core.conditions import Condition
from twotower.core.records import TopK
from twotower.index.abilities import FiltersColumns, ItemColumn
from twotower.index.exact import ExactIndex
from twotower.index.registry import index_class
from twotower.serving.filters.parse import parse

KINDS = ("exact", "hnsw", "ivf_flat", "ivf_pq", "qdrant_edge")
SHARES = (0.5, 0.05, 0.001)
"""Shares of items that pass a filter."""
K, USERS = 10, 200


def vectors(rows: int, dim: int, seed: int) -> Tensor:
    generator = torch.Generator().manual_seed(seed)
    centres = torch.randn(400, dim, generator=torch.Generator().manual_seed(9))
    spread = 0.7 * torch.randn(rows, dim, generator=generator)
    return torch.nn.functional.normalize(centres[torch.randint(400, (rows,), generator=generator)] + spread)


def places(items: int) -> list[int]:
    """A column of items: a number from 0 to 999 each, drawn at random."""
    return torch.randint(1000, (items,), generator=torch.Generator().manual_seed(5)).tolist()


def build(kind: str, items: int, dim: int, folder: Path) -> dict[str, float]:
    settings = {"columns": "place"} if kind == "qdrant_edge" else {}
    index = index_class(kind)(**settings)
    states, ids = vectors(items, dim, 0), torch.arange(items)
    with common.Clock() as clock:
        index.build(states, ids)
        if settings:
            index.set_columns(ids, {"place": ItemColumn("number", False, places(items))})
    folder.mkdir()
    index.save(folder)
    stored = sum(path.stat().st_blocks * 512 for path in folder.rglob("*") if path.is_file())
    return {"build_cpu_seconds": clock.cpu, "build_wall_seconds": clock.wall, "disk_bytes_an_item": stored / items}


def measure(kind: str, items: int, dim: int, folder: Path) -> dict[str, Any]:
    users = vectors(USERS, dim, 1)
    small = index_class(kind)()  # its library is loaded, and is no cost of an item
    small.build(users, torch.arange(USERS))
    for user in users.split(1):
        small.search(user, K)
    before = resident()
    index = index_class(kind).load(folder)
    for user in users.split(1):
        index.search(user, K)  # nothing of it is kept
    figures: dict[str, Any] = {"memory_bytes_an_item": (resident() - before) / items}
    found = timed(lambda user: index.search(user, K), users)
    figures |= found.figures
    exact = ExactIndex()
    exact.build(vectors(items, dim, 0), torch.arange(items))
    figures["recall"] = found.recall(exact.search(users, K))
    column = torch.tensor(places(items))
    figures["filters"] = {}
    for share in SHARES:
        mask = column < 1000 * share
        condition = parse(f"place < {1000 * share}")
        told = timed(lambda user, mask=mask: index.search(user, K, allow=mask), users)
        row = told.figures | {"recall": told.recall(exact.search(users, K, allow=mask))}
        if isinstance(index, FiltersColumns):
            row = {"by_ids": row} | by_column(index, condition, users, exact.search(users, K, allow=mask))
        figures["filters"][str(share)] = row
    return figures


def by_column(index: Any, condition: Condition, users: Tensor, true: TopK) -> dict[str, float]:
    told = timed(lambda user: index.search_where(user, K, None, condition), users)
    return told.figures | {"recall": told.recall(true)}


class Timed:
    def __init__(self, ids: Tensor, cpu: list[float], wall: list[float]) -> None:
        self.ids = ids
        self.figures = {"p50_cpu_ms": 1e3 * statistics.median(cpu), "p50_wall_ms": 1e3 * statistics.median(wall)}

    def recall(self, true: TopK) -> float:
        pairs = zip(self.ids.tolist(), true.ids.tolist(), strict=True)
        return sum(len(set(a) & set(b) - {-1}) for a, b in pairs) / int((true.ids >= 0).sum())


def timed(search: Callable[[Tensor], TopK], users: Tensor) -> Timed:
    cpu, wall, ids = [], [], []
    search(users[:1])
    for user in users.split(1):
        before, start = time.process_time(), time.perf_counter()
        ids.append(search(user).ids)
        cpu.append(time.process_time() - before)
        wall.append(time.perf_counter() - start)
    return Timed(torch.cat(ids), cpu, wall)


def resident() -> int:
    return int(Path("/proc/self/statm").read_text().split()[1]) * resource.getpagesize()


def child(step: str, kind: str, options: argparse.Namespace, folder: Path) -> dict[str, Any]:
    words = [sys.executable, __file__, "--step", step, "--kind", kind, "--folder", str(folder)]
    sizes = ["--items", str(options.items), "--dim", str(options.dim), "--threads", str(options.threads)]
    done = subprocess.run([*words, *sizes], check=True, capture_output=True, text=True, env=dict(os.environ))
    return dict(json.loads(done.stdout))


def main() -> None:
    made = common.parser(__doc__)
    made.add_argument("--items", type=int, default=0, help="items; default 20,000, quick 2,000")
    made.add_argument("--dim", type=int, default=64)
    made.add_argument("--kinds", default=",".join(KINDS), help="which indexes, with commas between")
    for hidden in ("--step", "--kind", "--folder"):
        made.add_argument(hidden, default="", help=argparse.SUPPRESS)
    options = common.parse(made)
    options.items = options.items or (2_000 if options.quick else 20_000)
    if options.step:
        step = build if options.step == "build" else measure
        print(json.dumps(step(options.kind, options.items, options.dim, Path(options.folder))))
        return
    figures = {}
    with tempfile.TemporaryDirectory() as name:
        for kind in options.kinds.split(","):
            if kind == "qdrant_edge" and find_spec("qdrant_edge") is None:
                continue
            folder = Path(name) / kind
            figures[kind] = child("build", kind, options, folder) | child("measure", kind, options, folder)
            print(f"{kind}: done", file=sys.stderr)
    settings = {"items": options.items, "dim": options.dim, "k": K, "users": USERS, "load": os.getloadavg()}
    common.finish("index_cost", options, settings=settings, figures=figures)


if __name__ == "__main__":
    main()
