"""Work in parts on this machine: preparing logs of several sizes and scoring every user, by 1 and 2 processes.

A log is drawn with a fixed seed into 8 files: text ids, item popularity with a long tail, times out of order, ten
events a user. It is prepared by 1 process and by 2 (each file a part, then each share of the users), and the folders
are compared to the byte. For logs up to a million rows a two-tower bundle, untrained, then answers every user (k = 20,
exact search) by 1 and 2 processes, and the rows are compared. ``peak_mib`` is that of the largest process,
``together_mib`` of all at a time, sampled; ``wall_seconds`` has the start of all of them. --generate draws planted logs
of a million users and ten million items. What is done is kept after each step, and --seconds ends it early. A quick run
takes 100,000 rows.
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import common
from tree_memory import TreeMemory
from twotower.core.files import write_json

ROWS = (1_000_000, 10_000_000, 50_000_000)
FILES, ITEMS, WORKERS = 8, 20_000, (1, 2)
MOST_SCORED = 1_000_000
"""Rows of a log, at most, whose users are all scored."""
PLANTED = {"users": 1_000_000, "items": 10_000_000}
SPEC = """name = "drawn"
[interactions]
path = "log-*.{kind}"
user = "user_id"
item = "item_id"
time = "timestamp"
"""


def draw(folder: Path, rows: int, kind: str) -> Path:
    """Write a log of that many rows and its spec."""
    import duckdb

    uniform = "(hash(i, 2) % 1000003) / 1000003.0"
    for number in range(FILES):
        duckdb.sql(
            f"COPY (SELECT 'user-' || (hash(i, 1) % {rows // 10}) AS user_id, "
            f"'item-' || floor({ITEMS} * power({uniform}, 3))::BIGINT AS item_id, "
            f"1500000000 + hash(i, 4) % 100000000 AS timestamp "
            f"FROM range({number * rows // FILES}, {(number + 1) * rows // FILES}) log(i)) "
            f"TO '{folder / f'log-{number}.{kind}'}'" + (" (HEADER)" if kind == "csv" else "")
        )
    (folder / "spec.toml").write_text(SPEC.format(kind=kind), encoding="utf-8")
    return folder / "spec.toml"


def bundle(prepared: Path, to: Path) -> Path:
    """Write the bundle of an untrained model of the prepared log."""
    from twotower.data.dataset import Dataset
    from twotower.models.encode import encode_known_items
    from twotower.models.registry import build_model
    from twotower.serving.contents import Contents, write_bundle

    dataset, parameters = Dataset.load(prepared), {"dim": 64, "hidden": [128]}
    model = build_model("two_tower", dataset.schema, parameters)
    items = encode_known_items(model, dataset)
    more: dict[str, Any] = {"run_toml": "", "metrics": {}, "histories": dataset.log}
    contents = Contents(
        model=model, model_name="two_tower", model_parameters=parameters, dataset=dataset, items=items, **more
    )
    write_bundle(to, contents)
    return to


def here(words: list[str]) -> None:
    """Run one command in this process and print what it took."""
    with common.Clock() as clock:
        if words[0] == "bundle":
            bundle(Path(words[1]), Path(words[2]))
        else:
            from twotower.cli.main import main as command

            try:
                command(words)
            except SystemExit as stop:
                if stop.code:
                    raise
    took = {"wall_seconds": clock.wall, "cpu_seconds": clock.cpu, "peak_mib": common.peak_mib()}
    print("took " + json.dumps(took))


def run(*words: object, end: float = float("inf")) -> dict[str, float]:
    """The same in a process of its own; ChildProcessError where it fails, TimeoutExpired when ``end`` comes first."""
    command = [sys.executable, __file__, "--here", *map(str, words)]
    pipe = subprocess.PIPE
    process = subprocess.Popen(command, stdout=pipe, stderr=pipe, text=True, start_new_session=True)
    with process, TreeMemory(process) as memory:
        try:
            told, errors = process.communicate(
                timeout=None if end == float("inf") else max(0.1, end - time.monotonic())
            )
        except BaseException:
            os.killpg(process.pid, 9)
            raise
    if process.returncode:
        raise ChildProcessError((errors.strip().splitlines() or ["no word"])[-1])
    found: dict[str, float] = json.loads(told.rpartition("took ")[2])
    return {**found, "together_mib": round(max(memory.together_mib, found["peak_mib"]), 1)}


def prepare(folder: Path, rows: int, kind: str, limit: str, keep: Any, end: float) -> None:
    """Prepare one log by each number of workers."""
    from twotower.core.files import hash_folder

    spec, same = draw(folder, rows, kind), []
    for workers in WORKERS:
        to = folder / f"prepared-{workers}"
        words = ("data", "prepare", spec, "--to", to, "--workers", workers, "--memory-limit", limit)
        about = {"what": "prepare", "format": kind, "memory_limit": limit, "rows": rows, "workers": workers}
        try:
            took = run(*words, end=end)
        except ChildProcessError as failed:
            keep({**about, "failed": str(failed)})
            continue
        keep({**about, **took, "rows_per_second": round(rows / took["wall_seconds"])})
        same.append(hash_folder(to, leave_out=()))
        assert same[0] == same[-1], "the folders differ"
        if workers > 1 or rows > MOST_SCORED:
            shutil.rmtree(to)


def score(folder: Path, rows: int, keep: Any, end: float) -> None:
    """Score every user of the log that ``prepare`` left, by each number of workers."""
    import duckdb

    run("bundle", folder / "prepared-1", folder / "bundle", end=end)
    users = json.loads((folder / "prepared-1" / "manifest.json").read_text(encoding="utf-8"))["counts"]["users"]
    for workers in WORKERS:
        to = folder / f"lists-{workers}.parquet"
        words = ("recommend", folder / "bundle", "--all", "-k", 20, "--to", to, "--workers", workers, "--json")
        took = run(*words, end=end)
        keep(
            {"what": "score", "rows": rows, "users": users, "workers": workers, **took}
            | {"users_per_second": round(users / took["wall_seconds"])}
        )
    lists = [f"SELECT * FROM '{folder / f'lists-{workers}.parquet'}'" for workers in WORKERS]
    assert not duckdb.sql(f"({lists[0]}) EXCEPT ALL ({lists[1]})").fetchall(), "the answers differ"


def generate(folder: Path, events: int, keep: Any, end: float) -> None:
    """Draw a planted log."""
    sizes = [word for name, size in PLANTED.items() for word in (f"--{name}", size)]
    took = run("data", "generate", *sizes, "--events", events, "--to", folder / "planted", "--json", end=end)
    disk = sum(path.stat().st_size for path in (folder / "planted").rglob("*.parquet")) / 2**20
    about = {"what": "generate", **PLANTED, "events": events, "disk_mib": round(disk, 1)}
    keep({**about, **took, "events_per_second": round(events / took["wall_seconds"])})


def measure(rows: int) -> list[dict[str, Any]]:
    """Prepare and score one size by each number of workers."""
    runs: list[dict[str, Any]] = []
    with tempfile.TemporaryDirectory() as name:
        prepare(Path(name), rows, "csv", "1GB", runs.append, float("inf"))
        if rows <= MOST_SCORED:
            score(Path(name), rows, runs.append, float("inf"))
    return runs


def all_runs(options: argparse.Namespace, sizes: list[int], keep: Any) -> None:
    """Measure what the options say, until the time is over."""
    end = time.monotonic() + options.seconds
    for rows in sizes:
        with tempfile.TemporaryDirectory(dir=options.work) as name:
            prepare(Path(name), rows, options.format, options.memory_limit, keep, end)
            if rows <= MOST_SCORED and not options.no_score:
                score(Path(name), rows, keep, end)
    for events in options.generate or []:
        with tempfile.TemporaryDirectory(dir=options.work) as name:
            generate(Path(name), events, keep, end)


def join(files: list[Path]) -> None:
    """Keep the runs of several files, of one machine, as one result."""
    records = [json.loads(file.read_text(encoding="utf-8")) for file in files]
    whole = next(record for record in records if "hardware" in record)
    rows = sorted({run["rows"] for record in records for run in record["runs"] if "rows" in run})
    whole |= {"runs": [run for record in records for run in record["runs"]]}
    whole["settings"] |= {"rows": rows}
    write_json(common.RESULTS / "scale_parts.json", whole)


def main() -> None:
    """Measure and report."""
    if sys.argv[1:2] == ["--here"]:
        here(sys.argv[2:])
        return
    parser = common.parser(__doc__)
    parser.add_argument("--rows", type=int, nargs="*", help="of the logs (default 1, 10 and 50 million)")
    parser.add_argument("--format", choices=("csv", "parquet"), default="csv", help="of the logs (default csv)")
    parser.add_argument("--memory-limit", default="1GB", help="given to prepare (default 1GB)")
    parser.add_argument("--no-score", action="store_true", help="prepare only")
    parser.add_argument("--generate", type=int, nargs="*", help="draw planted logs of so many events")
    parser.add_argument("--seconds", type=float, default=float("inf"), help="end before the next step after so long")
    parser.add_argument("--work", type=Path, help="folder for temporary files")
    parser.add_argument(
        "--join", type=Path, nargs="+", help="keep the runs of these results as one, and measure nothing"
    )
    options = common.parse(parser)
    if options.join:
        join(options.join)
        return
    sizes = ([100_000] if options.quick else list(ROWS)) if options.rows is None else options.rows
    runs: list[dict[str, Any]] = []
    settings = {"rows": sizes, "files": FILES, "items": ITEMS, "users": "rows / 10", "k": 20, "workers": WORKERS}
    settings["bound_to_cores"] = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else None

    def keep(one: dict[str, Any]) -> None:
        runs.append(one)
        print(json.dumps(one), file=sys.stderr)
        if options.out:
            options.out.write_text(json.dumps({"runs": runs}), encoding="utf-8")

    try:
        all_runs(options, sizes, keep)
    except subprocess.TimeoutExpired as stop:
        print(f"the time is over: {stop}", file=sys.stderr)
    common.finish("scale_parts", options, settings=settings, figures={"runs": runs})


if __name__ == "__main__":
    main()
