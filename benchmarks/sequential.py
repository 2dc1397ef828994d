"""Every sequence tower and T2Diff's forms against SASRec: seconds an epoch, latency of asking, peak memory.

A cell is one tower beside SASRec, in turns, on the same device and data; figures are medians, CPU seconds on a CPU and
wall seconds on a GPU. Width 64, defaults else, full softmax with Adam; MovieLens-1M in windows of 200. On a GPU asking
is also measured as one CUDA graph, and of T2Diff compiled in one. Memory is that of asking and of one training step, by
length of history. Finished cells are kept, one line each, beside the result, which is written anew after each
(``unfinished`` until the last): a run that ends by its limit goes on when it is called again with the same data, sizes
and machine; delete the lines to measure anew. A log without a clock gets a drawn one. The quick form takes a generated
log, windows of 50, and neither memory nor ``t2diff_paper``.

    python benchmarks/sequential.py --device cuda --data PREPARED --limit 300 --out FILE.json
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import asdict
from pathlib import Path
from typing import Any

import torch

import common
import sequential_cells as cells
from sequential_cells import BASE, Deadline, OutOfTime, Sizes
from twotower.core.files import write_json
from twotower.data.dataset import Dataset

LENGTHS = (50, 100, 200, 500, 1_000)
FIRST = ("sasrec", "t2diff", "hstu", "mamba4rec", "lrurec")
"""Towers whose memory by length of history, and whose captured asking, are measured before that of the others."""
COMPILED = ("sasrec", "t2diff", "t2diff_mixed")
"""Towers whose request is also compiled, and then captured: that of the aim."""
MEMORY_BATCH = {"cpu": 16, "cuda": 64}
"""Rows of the step, and users that are asked about, where memory is measured."""
GPU_SECONDS = 5.0
"""What `Sizes.seconds` is on a GPU, where everything takes a fraction of a CPU's time."""
RESERVE = 0.05
"""Of the limit, for the step that goes on when it is reached."""

Cell = tuple[str, str, Callable[[Deadline], dict[str, Any]]]
"""Kind, tower, and what measures it."""


def fresh(tower: str, length: int) -> Callable[[Deadline], dict[str, Any]]:
    """Measure memory on the CPU, in a process of its own."""

    def measured(deadline: Deadline) -> dict[str, Any]:
        command = [sys.executable, __file__, "--one", json.dumps([tower, length])]
        try:
            told = subprocess.run(command, capture_output=True, text=True, timeout=max(0.1, deadline.left()))
        except subprocess.TimeoutExpired:
            raise OutOfTime from None
        if told.returncode:
            return {"history_length": length, "error": (told.stderr.strip() or "ended without a word")[-300:]}
        found: dict[str, Any] = json.loads(told.stdout)
        return found

    return measured


def planned(options: argparse.Namespace, sizes: Sizes) -> Iterator[Cell]:
    """Yield the cells, those that say most first."""
    dataset, real = cells.log_of(quick=options.quick, data=options.data)
    options.about = {"data": dataset.name, "real": real, "events": dataset.log.num_events}
    device = torch.device(options.device)
    here = dataset.to(device)

    def latency(
        tower: str, number: int, where: Dataset, *, graph: bool = False, fused: bool = False
    ) -> Callable[[Deadline], dict[str, Any]]:
        return lambda deadline: cells.latency(tower, where, sizes, deadline, number=number, graph=graph, fused=fused)

    def epoch(tower: str) -> Callable[[Deadline], dict[str, Any]]:
        return lambda deadline: cells.epoch(tower, here, sizes, deadline)

    def on_gpu(tower: str, length: int) -> Callable[[Deadline], dict[str, Any]]:
        return lambda _: cells.memory(tower, length, device, MEMORY_BATCH["cuda"])

    for tower in options.towers:
        yield f"latency_{sizes.asked}", tower, latency(tower, sizes.asked, here)
    for tower in options.towers:
        yield "epoch", tower, epoch(tower)
    for tower in options.towers:
        yield "latency_1", tower, latency(tower, 1, here)
    if options.quick:
        return
    if device.type == "cuda":
        for tower in options.towers:
            yield "latency_1_on_cpu", tower, latency(tower, 1, dataset)
    some, rest = (tuple(tower for tower in options.towers if (tower in FIRST) is first) for first in (True, False))
    for length in LENGTHS:
        for tower in some:
            yield f"memory_{length}", tower, (on_gpu if device.type == "cuda" else fresh)(tower, length)
    if device.type == "cuda":  # late, since a capture that fails may harm what follows
        for number in (sizes.asked, 1):
            for tower in (*some, *rest):
                yield f"latency_{number}_captured", tower, latency(tower, number, here, graph=True)
        for tower in (tower for tower in COMPILED if tower in options.towers):
            yield f"latency_{sizes.asked}_compiled", tower, latency(tower, sizes.asked, here, graph=True, fused=True)
    for length in LENGTHS:
        for tower in rest:
            yield f"memory_{length}", tower, (on_gpu if device.type == "cuda" else fresh)(tower, length)


class Kept:
    """Finished cells of the same settings: one JSON line each, in a file or nowhere."""

    def __init__(self, path: Path | None, settings: dict[str, Any]) -> None:
        self.path, self.settings = path, json.loads(json.dumps(settings))
        self.found: dict[tuple[str, str], dict[str, Any]] = {}
        if path is not None and path.is_file():
            for line in path.read_text().splitlines():
                read = json.loads(line)
                if read["settings"] == self.settings:
                    self.found[read["kind"], read["tower"]] = read["cell"]

    def keep(self, kind: str, tower: str, cell: dict[str, Any]) -> None:
        """Keep one more; one that failed is tried again by the next run, unless it had no memory."""
        self.found[kind, tower] = cell
        if self.path is not None and ("error" not in cell or kind.startswith("memory")):
            with self.path.open("a") as lines:
                lines.write(json.dumps({"kind": kind, "tower": tower, "cell": cell, "settings": self.settings}) + "\n")


def by_tower(kept: Kept, kind: str, figure: str) -> dict[str, float]:
    """Return one figure of one kind of cell."""
    return {tower: round(cell[figure], 6) for (of, tower), cell in kept.found.items() if of == kind and figure in cell}


def table(kept: Kept, sizes: Sizes, missing: list[str]) -> dict[str, Any]:
    """Return the figures: the two ratios first."""
    kinds = dict.fromkeys(kind for kind, _ in kept.found)
    found: dict[str, Any] = {
        "relative_epoch_time": by_tower(kept, "epoch", "relative"),
        "relative_latency": by_tower(kept, f"latency_{sizes.asked}", "relative"),
        "relative_latency_batch_1": by_tower(kept, "latency_1", "relative"),
        "epoch_seconds": by_tower(kept, "epoch", "seconds"),
        "parameters": by_tower(kept, "epoch", "parameters"),
    }
    for kind in kinds:
        if kind.startswith("latency"):
            found[f"{kind}_milliseconds_a_user"] = by_tower(kept, kind, "milliseconds_a_user")
    for kind in kinds:
        if kind.endswith(("_on_cpu", "_captured", "_compiled")):
            found[f"relative_{kind}"] = by_tower(kept, kind, "relative")
    for part in ("asking_mib", "training_mib"):
        lengths = {kind.removeprefix("memory_"): by_tower(kept, kind, part) for kind in kinds if "memory" in kind}
        if lengths:
            found[f"peak_{part}_by_history"] = lengths
    failed = {f"{kind} {tower}": cell["error"] for (kind, tower), cell in kept.found.items() if "error" in cell}
    repeats = {f"{kind} {tower}": cell["repeats"] for (kind, tower), cell in kept.found.items() if "repeats" in cell}
    return found | {"failed": failed, "not_done": missing, "raw_seconds": repeats}


def measure(options: argparse.Namespace, sizes: Sizes) -> tuple[Kept, list[str]]:
    """Measure what is not kept yet until the limit; what is then still missing."""
    deadline = Deadline(options.limit * (1 - RESERVE) - (time.monotonic() - options.begun))
    plan = list(planned(options, sizes))
    machine, software = common.hardware(), common.versions()
    settings = {
        **asdict(sizes),
        **options.about,
        "device": options.device,
        "machine": machine.get("gpu", machine["processor"]) if options.device == "cuda" else machine["processor"],
        "threads": options.threads,
        "torch": software["torch"],
    }
    out = options.out or common.RESULTS / f"{name_of(options)}.json"
    kept = Kept(None if options.quick else out.with_suffix(".jsonl"), settings)
    missing: list[str] = []
    for place, (kind, tower, work) in enumerate(plan):
        if (kind, tower) in kept.found:
            continue
        try:
            deadline.check()
            cell = work(deadline)
        except OutOfTime:
            missing.append(f"{kind} {tower}")
            continue
        except RuntimeError as error:
            if options.device != "cuda":  # where only a GPU's memory and captures may fail a cell
                raise
            cell = {"error": str(error).splitlines()[0][:200]}
        kept.keep(kind, tower, cell)
        cells.tidy(torch.device(options.device))
        print(kind, tower, {k: v for k, v in cell.items() if k != "repeats"}, file=sys.stderr, flush=True)
        if kept.path is not None:
            to_come = [f"{kind} {tower}" for kind, tower, _ in plan[place + 1 :] if (kind, tower) not in kept.found]
            write_json(out, table(kept, sizes, missing + to_come) | {"settings": settings, "unfinished": True})
    return kept, missing


def name_of(options: argparse.Namespace) -> str:
    """Return the result's name."""
    return "sequential" + ("_cuda" if options.device == "cuda" else "")


def main(arguments: list[str] | None = None) -> int:
    """Measure, print, keep."""
    begun = time.monotonic()
    made = common.parser(__doc__)
    made.add_argument("--data", type=Path, help="prepared MovieLens-1M; default: the shared copy, or a random log")
    made.add_argument("--device", choices=("cpu", "cuda"), default="cpu")
    made.add_argument("--towers", nargs="+", choices=list(cells.towers()), help="default: all")
    made.add_argument("--limit", type=float, default=540.0, help="seconds for all; what is not done is said")
    made.add_argument("--one", help="memory of one tower at one length, in this process (used by the benchmark)")
    options = common.parse(made, arguments)
    if options.one:
        tower, length = json.loads(options.one)
        print(json.dumps(cells.memory(tower, length, torch.device("cpu"), MEMORY_BATCH["cpu"])))
        return 0
    if options.device == "cuda" and not torch.cuda.is_available():
        made.error("no GPU here; --device cpu needs none")
    if options.limit <= 0:
        made.error(f"--limit must be above 0 seconds, got {options.limit:g}")
    options.begun = begun
    every = [tower for tower in cells.towers() if not (options.quick and tower in cells.DEAR)]
    options.towers = options.towers or every
    sizes = cells.QUICK if options.quick else Sizes(seconds=GPU_SECONDS) if options.device == "cuda" else Sizes()
    kept, missing = measure(options, sizes)
    settings = kept.settings | {
        "base": BASE,
        "forms": {name: settings for name, (_, settings) in cells.towers().items() if settings},
        "memory_batch": MEMORY_BATCH[options.device],
        "limit": options.limit,
        "seconds_of_all": round(time.monotonic() - begun, 1),
    }
    common.finish(name_of(options), options, settings=settings, figures=table(kept, sizes, missing))
    return 0


if __name__ == "__main__":
    sys.exit(main())
