"""What a run costs, by formula: memory and time by users, items, dimensions and devices, against what was measured.

The formulas have few constants, each fitted by hand to the results in benchmarks/results and rounded. The program
reads these results again and prints, for every point, what the formula says over what was measured; the page
docs/concepts/cost.md holds the same table. Nothing is run but by --measure: it trains at sizes and dimensions that no
constant was fitted to and keeps their peaks as benchmarks/results/cost_checks.json.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
from pathlib import Path
from typing import Any, NamedTuple

RESULTS = Path(__file__).resolve().parent / "results"
MIB = 2**20

FACTORS = {"MiB": 1.25, "bytes": 1.25, "s": 2.0, "ms": 2.0, "us": 2.0}
"""How far a formula may be from a measure, either way, by its unit."""

PROCESS_MIB = 325.0
"""A process that trains, before its data: Python, PyTorch, this package."""
SERVER_MIB = 460.0
"""One that serves: with the web server, its threads and 2,000 users."""
PREPARER_MIB = 320.0
"""One that prepares: with DuckDB."""
COPIES = 5
"""Of every number of a table, with Adam: weight, two moments, and a gradient each from histories and from items."""
SCORE_COPIES = 2.32
"""Of the matrix of in-batch scores, at the worst moment of a step."""
ROW_BYTES = 50_000
"""Of a two-tower row with a history of 20 and one hidden layer of 128, forward and back."""
POSITION_BYTES = 9_700
"""Of a position of SASRec, 64 wide, 2 blocks, forward and back."""
CHUNK_MIB = 2 * 256.0
"""Logits of a chunk of a full softmax on a GPU, and their gradient."""
EVENT_BYTES = 64
"""Of an event of the log on a device: ids, counts, known positives."""
ITEM_BYTES = 1_800
"""Of an item in a full softmax of a two-tower with one hidden layer of 128: its tower goes over all items."""
LAUNCH_MS = 6.7
"""Of a step on a GPU, at least: the processor starts kernels one by one."""
CAPTURED_MS, CAPTURED_ROW_US = 0.45, 0.07
"""Of a captured step of a two-tower with one hidden layer of 128: its kernels, however small, and each row."""
SCORE_PS, POSITION_NS = 39.5, 107.0
"""Picoseconds a score in a batch; nanoseconds a position of SASRec: one H200, forward and back, Adam."""
TABLE_PS = 16.0
"""Of a number of a dense table in a step of Adam, gradient included: one H200."""
WAIT_MS = 0.6
"""For each message between two devices in a short step."""
SCAN_GB_S = 8.0
"""That one core reads from memory in an exact search for one user."""
SCORED_US, SCORED_PS = 20.0, 88.0
"""Of a user in a batch of users on one core, and for each number of each item."""
INDEX_BYTES = {"exact": (4, 50), "hnsw": (8, 210), "ivf_flat": (8, 65), "ivf_pq": (4, 106)}
"""Of an item in memory: for each number of its vector, and beside it."""
ROW_US, ROW_PREPARE_BYTES = 2.4, 60
"""CPU microseconds of a row that is prepared from Parquet by one process, and bytes in DuckDB up to its limit."""


BATCH, STEPS = 512, 6
CHECKS = ((500_000, 32), (300_000, 128), (100_000, 256), (2_000_000, 64))
"""Items and dimensions of the trainings of --measure."""


class Point(NamedTuple):
    """One measured number and what the formula says."""

    what: str
    unit: str
    measured: float
    formula: float

    @property
    def ratio(self) -> float:
        """The formula over the measure."""
        return self.formula / self.measured

    @property
    def holds(self) -> bool:
        """Whether they are as near as the page says."""
        return 1 / FACTORS[self.unit] <= self.ratio <= FACTORS[self.unit]


def dense_mib(items: float, dim: int) -> float:
    """A table whose every number has a gradient and moments; each device holds all of it."""
    return COPIES * 4 * items * dim / MIB


def full_softmax_mib(items: float, batch: float) -> float:
    """States of all items through a two-tower's tower, and the logits that are held at once."""
    return ITEM_BYTES * items / MIB + min(CHUNK_MIB, 2 * 4 * batch * items / MIB)


def sharded_mib(items: float, dim: int, devices: int) -> float:
    """A device's share of a sharded table with row-wise Adagrad: a vector and one number a row."""
    return 4 * items * (dim + 1) / devices / MIB


def in_batch_mib(batch: float, devices: int) -> float:
    """Scores of a device's rows against the items of the whole batch, and what its rows keep."""
    rows = batch / devices
    return (SCORE_COPIES * 4 * rows * batch + ROW_BYTES * rows) / MIB


def log_mib(events: float) -> float:
    """The log on a device."""
    return EVENT_BYTES * events / MIB


def step_ms(work_ms: float, messages: int = 0) -> float:
    """A step: what the device computes, or the time to start it; and messages between devices, where it is short."""
    return max(work_ms, LAUNCH_MS) + (WAIT_MS * messages if work_ms < 2 * LAUNCH_MS else 0.0)


def captured_ms(batch: float, work_ms: float = 0.0) -> float:
    """A step that is one CUDA graph: nothing waits for the processor, so that all of it adds up."""
    return CAPTURED_MS + batch * CAPTURED_ROW_US / 1e3 + work_ms


def search_ms(items: float, dim: int) -> float:
    """Exact search for one user on one core: the table is read once."""
    return items * dim * 4 / SCAN_GB_S / 1e6


def scored_us(items: float, dim: int) -> float:
    """A user's list among all items, in a batch of users on one core."""
    return SCORED_US + items * dim * SCORED_PS / 1e6


def index_bytes(kind: str, dim: int) -> float:
    """An item in the memory of an index."""
    a_number, beside = INDEX_BYTES[kind]
    return a_number * dim + beside


def prepared_mib(rows: float, limit_mib: float = 1e9 / MIB) -> float:
    """The process that prepares a log: DuckDB keeps what it is allowed to."""
    return PREPARER_MIB + min(limit_mib, ROW_PREPARE_BYTES * rows / MIB)


def points() -> list[Point]:
    """All measured points of the results."""
    return [
        *_training_on_cpu(),
        *_checks(),
        *_training_on_gpus(),
        *_captured(),
        *_catalogues(),
        *_indexes(),
        *_serving(),
        *_scoring(),
        *_parts_scored(),
        *_preparing(),
    ]


def _read(name: str) -> dict[str, Any]:
    record: dict[str, Any] = json.loads((RESULTS / f"{name}.json").read_text(encoding="utf-8"))
    return record


def _training_on_cpu() -> list[Point]:
    record = _read("scale_quick")
    dim = record["settings"]["memory"]["dim"]
    return [
        Point(f"train on a CPU, {int(items):,} items", "MiB", peak, PROCESS_MIB + dense_mib(int(items), dim))
        for items, peak in record["peak_mib"].items()
    ]


def _checks() -> list[Point]:
    return [
        Point(
            f"train on a CPU, {run['items']:,} items of {run['dim']} numbers (not fitted to)",
            "MiB",
            run["peak_mib"],
            PROCESS_MIB + dense_mib(run["items"], run["dim"]),
        )
        for run in _read("cost_checks")["runs"]
    ]


def measure(options: argparse.Namespace) -> None:
    """Train at the sizes of `CHECKS`, each in a process of its own, and keep the peaks."""
    import common

    runs = []
    for items, dim in CHECKS:
        words = [sys.executable, __file__, "--peak", str(items), str(dim)]
        peak = float(subprocess.run(words, capture_output=True, text=True, check=True).stdout)
        runs.append({"items": items, "dim": dim, "peak_mib": peak})
    settings = {"batch": BATCH, "steps": STEPS, "drawn negatives": 1024}
    common.finish("cost_checks", options, settings=settings, figures={"runs": runs})


def peak_here(items: int, dim: int) -> float:
    """MiB at most of a training in this process, as benchmarks/scale.py does it."""
    import scale

    scale.DIM = dim
    return scale.peak_here(items, BATCH, STEPS)


def _training_on_gpus() -> list[Point]:
    found = []
    messages = {"sasrec": 2, "two_tower": 5, "sharded": 9}
    for name, cell in _read("two_devices").items():
        kind, _, size = name.rpartition("_")
        if kind not in messages:
            continue
        batch, items = int(size), cell["about"]["items"]
        for devices, side in ((1, cell["one"]), (2, cell["many"])):
            rows = batch / devices
            if kind == "sasrec":
                positions = rows * cell["about"]["window_length"]
                mib = dense_mib(items, 64) + log_mib(1e6) + CHUNK_MIB + POSITION_BYTES * positions / MIB
                work = positions * POSITION_NS / 1e6
            else:
                table = dense_mib(items, 64) if kind == "two_tower" else sharded_mib(items, 64, devices)
                mib = table + log_mib(4e6) + in_batch_mib(batch, devices)
                work = rows * batch * SCORE_PS / 1e9
            about = f"{kind}, batch {batch:,}, {devices} GPU{'s' if devices > 1 else ''}"
            found.append(Point(f"memory of a GPU: {about}", "MiB", max(side["peak_mib"]), mib))
            formula = step_ms(work, messages[kind] if devices > 1 else 0)
            found.append(Point(f"a step: {about}", "ms", side["step_milliseconds"], formula))
    return found


def _captured() -> list[Point]:
    """Captured steps of a two-tower with in-batch negatives, 10,000 items."""
    record = _read("scale_gpu")
    work = 10_000 * record["settings"]["dim"] * TABLE_PS / 1e9
    return [
        Point(
            f"a captured step: in-batch, 10,000 items, batch {run['batch']:,}",
            "ms",
            run["median"]["as it comes"] * 1e3,
            captured_ms(run["batch"], work + run["batch"] ** 2 * SCORE_PS / 1e9),
        )
        for run in record["steps"]
    ]


def _catalogues() -> list[Point]:
    """Sampled and full softmax of a two-tower on one GPU; memory beyond that of 10,000 items."""
    record = _read("scale_gpu")
    dim, cases = record["settings"]["dim"], {(case["softmax"], case["items"]): case for case in record["catalogues"]}
    found = []
    for way, about in (("sampled", "1,024 drawn items"), ("tiles", "full softmax")):

        def mib(items: float, batch: int, full: bool = way == "tiles") -> float:
            return dense_mib(items, dim) + (full_softmax_mib(items, batch) if full else 0.0)

        # The very first case found 64 MiB less left over than all others did, its own in bfloat16 included.
        least = max(cases[kind, 10_000]["peak_mib"] for kind in (way, f"{way}, bfloat16"))
        for (kind, items), case in sorted(cases.items()):
            if kind != way:
                continue
            batch, name = case["batch"], f"{about}, {items:,} items, batch {case['batch']:,}"
            if items > 10_000:
                more = case["peak_mib"] - least
                formula = mib(items, batch) - mib(10_000, batch)
                found.append(Point(f"memory of a GPU beyond that at 10,000 items: {name}", "MiB", more, formula))
            measured = case["step_seconds"] * 1e3
            if way == "sampled":
                formula = captured_ms(batch, items * dim * TABLE_PS / 1e9 + batch * 1024 * SCORE_PS / 1e9)
                found.append(Point(f"a captured step: {name}", "ms", measured, formula))
            else:
                found.append(Point(f"a step: {name}", "ms", measured, step_ms(items * batch * SCORE_PS / 1e9)))
    return found


def _indexes() -> list[Point]:
    found = []
    for name in ("index_cost", "index_cost_50k"):
        record = _read(name)
        for kind in INDEX_BYTES:
            measured = record[kind]["memory_bytes_an_item"]
            about = f"an item in {kind}, of {record['settings']['items']:,}"
            found.append(Point(about, "bytes", measured, index_bytes(kind, record["settings"]["dim"])))
    return found


def _serving() -> list[Point]:
    record = _read("serving")
    items, dim = record["settings"]["items"], record["settings"]["dim"]
    found = [
        Point(
            f"a server, {kind}, {items:,} items",
            "MiB",
            record[kind]["mib"],
            SERVER_MIB + items * index_bytes(kind, dim) / MIB,
        )
        for kind in ("exact", "hnsw")
    ]
    found.append(
        Point(f"exact search, {items:,} items", "ms", record["exact"]["alone"]["p50_ms"], search_ms(items, dim))
    )
    for name in ("index_cost_50k", "index_cost"):
        record = _read(name)
        items = record["settings"]["items"]
        formula = search_ms(items, record["settings"]["dim"])
        found.append(Point(f"exact search, {items:,} items", "ms", record["exact"]["p50_cpu_ms"], formula))
    return found


def _scoring() -> list[Point]:
    found = []
    for name in ("serving_batch_100k", "serving_batch_1m"):
        record = _read(name)
        items, dim = record["settings"]["items"], record["settings"]["dim"]
        for run in record["batch"]:
            about = f"a list of one of {run['users']:,} users, {items:,} items"
            found.append(Point(about, "us", run["cpu_us_a_user"], scored_us(items, dim)))
    return found


def _parts_scored() -> list[Point]:
    record = _read("scale_parts")
    return [
        Point(
            f"a list of one of {run['users']:,} users, {record['settings']['items']:,} items",
            "us",
            run["cpu_seconds"] / run["users"] * 1e6,
            scored_us(record["settings"]["items"], 64),
        )
        for run in record["runs"]
        if run["what"] == "score" and run["workers"] == 1
    ]


def _preparing() -> list[Point]:
    found = []
    runs = [run for run in _read("preparing")["runs"] if run["format"] == "parquet"]
    runs += [
        run
        for run in _read("scale_parts")["runs"]
        if run["what"] == "prepare"
        and run["workers"] == 1
        and run.get("format") == "parquet"
        and run["memory_limit"] == "1GB"
        and "failed" not in run
    ]
    for run in runs:
        about = f"prepare {run['rows']:,} rows"
        found.append(Point(about, "s", run["cpu_seconds"], run["rows"] * ROW_US / 1e6))
        found.append(Point(about, "MiB", run["peak_mib"], prepared_mib(run["rows"])))
    return found


def table(found: list[Point]) -> str:
    """The points as a table of Markdown."""
    lines = ["| what | measured | by formula | formula / measured |", "|---|---|---|---|"]
    lines += [
        f"| {one.what} | {one.measured:,.{_digits(one.measured)}f} {one.unit} | "
        f"{one.formula:,.{_digits(one.formula)}f} | {one.ratio:.2f} |"
        for one in found
    ]
    return "\n".join(lines)


def _digits(value: float) -> int:
    return 0 if value >= 100 else 1 if value >= 10 else 2


def main() -> None:
    """Print the table, or measure."""
    import common

    parser = common.parser(__doc__)
    parser.add_argument("--measure", action="store_true", help="train at sizes that no constant was fitted to")
    parser.add_argument("--peak", type=int, nargs=2, metavar=("ITEMS", "DIM"), help="one of them (used by --measure)")
    options = common.parse(parser)
    if options.peak:
        print(peak_here(*options.peak))
    elif options.measure:
        measure(options)
    elif options.json:
        print(json.dumps([{**one._asdict(), "ratio": round(one.ratio, 4), "holds": one.holds} for one in points()]))
    else:
        print(table(points()))


if __name__ == "__main__":
    main()
