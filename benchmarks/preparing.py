"""Preparing a log of 1, 3 and 10 million rows: rows per second, and peak memory against the size of the log.

Logs are drawn with a fixed seed: text ids, item popularity with a long tail, times out of order. Each is prepared in a
process of its own, from CSV and from Parquet. ``growth_of_memory`` is the peak of the largest over the smallest,
``growth_of_data`` the same of the rows. A quick run takes a tenth of the rows.
"""

from __future__ import annotations

import json
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

import common

ROWS = (1_000_000, 3_000_000, 10_000_000)
ITEMS = 20_000
FORMATS = ("csv", "parquet")


def draw(path: Path, rows: int) -> None:
    """Write a log of that many rows; the format is the extension's."""
    import duckdb

    uniform = "(hash(i, {salt}) % 1000003) / 1000003.0"
    duckdb.sql(
        f"COPY (SELECT 'user-' || (hash(i, 1) % {rows // 50}) AS user_id, "
        f"'item-' || floor({ITEMS} * power({uniform.format(salt=2)}, 3))::BIGINT AS item_id, "
        f"1 + hash(i, 3) % 5 AS rating, 1500000000 + hash(i, 4) % 100000000 AS timestamp FROM range({rows}) log(i)) "
        f"TO '{path}'" + (" (HEADER)" if path.suffix == ".csv" else "")
    )


def prepare_one(log: Path, memory_limit: str) -> dict[str, float]:
    """Prepare in this process and tell what it took."""
    from twotower.data.prepare.prepare import prepare
    from twotower.data.prepare.spec import Interactions, Source, Spec

    before = common.peak_mib()
    columns = Interactions(Source((str(log),)), user="user_id", item="item_id", time="timestamp", value="rating")
    with common.Clock() as clock:
        prepare(Spec("drawn", columns), log.parent / "prepared", memory_limit=memory_limit)
    return {
        "wall_seconds": clock.wall,
        "cpu_seconds": clock.cpu,
        "peak_mib": common.peak_mib(),
        "peak_mib_before": before,
    }


def measure(rows: int, kind: str, memory_limit: str) -> dict[str, Any]:
    """Draw a log and prepare it in a fresh process."""
    with tempfile.TemporaryDirectory() as folder:
        log = Path(folder) / f"log.{kind}"
        draw(log, rows)
        command = [sys.executable, __file__, "--one", str(log), "--memory-limit", memory_limit]
        told = subprocess.run(command, check=True, capture_output=True, text=True).stdout
        figures: dict[str, Any] = json.loads(told)
        size = log.stat().st_size / 2**20
    return {
        "format": kind,
        "rows": rows,
        "file_mib": round(size, 1),
        **{name: round(value, 2) for name, value in figures.items()},
        "rows_per_second": round(rows / figures["wall_seconds"]),
        "rows_per_cpu_second": round(rows / figures["cpu_seconds"]),
    }


def main() -> None:
    """Run."""
    parser = common.parser(__doc__)
    parser.add_argument("--memory-limit", default="1GB", help="given to prepare (default 1GB)")
    parser.add_argument("--one", type=Path, help="prepare this log and print what it took (used by the benchmark)")
    options = common.parse(parser)
    if options.one:
        print(json.dumps(prepare_one(options.one, options.memory_limit)))
        return
    sizes = [rows // 10 for rows in ROWS] if options.quick else list(ROWS)
    runs = [measure(rows, kind, options.memory_limit) for kind in FORMATS for rows in sizes]
    figures: dict[str, Any] = {"growth_of_data": sizes[-1] / sizes[0]}
    for kind in FORMATS:
        mine = [run for run in runs if run["format"] == kind]
        prefix = "" if kind == FORMATS[0] else f"{kind}_"
        figures |= {
            f"{prefix}growth_of_memory": mine[-1]["peak_mib"] / mine[0]["peak_mib"],
            f"{prefix}rows_per_second": mine[-1]["rows_per_second"],
            f"{prefix}rows_per_cpu_second": mine[-1]["rows_per_cpu_second"],
            f"{prefix}peak_mib": mine[-1]["peak_mib"],
        }
    settings = {"rows": sizes, "items": ITEMS, "users": "rows / 50", "memory_limit": options.memory_limit}
    common.finish("preparing", options, settings=settings, figures={**figures, "runs": runs})


if __name__ == "__main__":
    main()
