"""Work in parts on this machine: preparing a log of several files and scoring every user, by 1 and 2 processes.

A log is drawn with a fixed seed into 8 files of CSV: text ids, item popularity with a long tail, times out of order,
ten events a user. It is prepared by 1 process and by 2 (each file a part; DuckDB uses every core within one process
too, so that the second adds little where there are two cores), and the folders are compared to the byte. Then a
two-tower bundle of it, untrained, answers every user (k = 20, exact search) by 1 and 2 processes, and the rows are
compared. ``peak_mib`` is that of the largest process, ``wall_seconds`` has the start of all of them. A quick run takes
100,000 rows; 50 million are ``--rows 50000000``.
"""

from __future__ import annotations

import json
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

import common

ROWS = (1_000_000, 10_000_000)
FILES, ITEMS, WORKERS = 8, 20_000, (1, 2)
SPEC = """name = "drawn"
[interactions]
path = "log-*.csv"
user = "user_id"
item = "item_id"
time = "timestamp"
"""


def draw(folder: Path, rows: int) -> Path:
    """Write a log of that many rows and its spec."""
    import duckdb

    uniform = "(hash(i, 2) % 1000003) / 1000003.0"
    for number in range(FILES):
        duckdb.sql(
            f"COPY (SELECT 'user-' || (hash(i, 1) % {rows // 10}) AS user_id, "
            f"'item-' || floor({ITEMS} * power({uniform}, 3))::BIGINT AS item_id, "
            f"1500000000 + hash(i, 4) % 100000000 AS timestamp "
            f"FROM range({number * rows // FILES}, {(number + 1) * rows // FILES}) log(i)) "
            f"TO '{folder / f'log-{number}.csv'}' (HEADER)"
        )
    (folder / "spec.toml").write_text(SPEC, encoding="utf-8")
    return folder / "spec.toml"


def bundle(prepared: Path, to: Path) -> Path:
    """Write the bundle of an untrained model of the prepared log."""
    from twotower.data.dataset import Dataset
    from twotower.models.encode import encode_known_items
    from twotower.models.registry import build_model
    from twotower.serving.bundle import Contents, write_bundle

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


def run(*words: object) -> dict[str, float]:
    """The same in a process of its own."""
    command = [sys.executable, __file__, "--here", *map(str, words)]
    told = subprocess.run(command, check=True, capture_output=True, text=True).stdout
    found: dict[str, float] = json.loads(told.rpartition("took ")[2])
    return found


def measure(rows: int) -> list[dict[str, Any]]:
    """Prepare and score one size by each number of workers."""
    import duckdb

    from twotower.core.files import hash_folder

    runs: list[dict[str, Any]] = []
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        spec = draw(folder, rows)
        for workers in WORKERS:
            took = run("data", "prepare", spec, "--to", folder / f"prepared-{workers}", "--workers", workers)
            runs.append({"what": "prepare", "rows": rows, "workers": workers, **took})
            runs[-1]["rows_per_second"] = round(rows / took["wall_seconds"])
        same = [hash_folder(folder / f"prepared-{workers}", leave_out=()) for workers in WORKERS]
        assert same[0] == same[1], "the folders differ"
        run("bundle", folder / "prepared-1", folder / "bundle")
        users = json.loads((folder / "prepared-1" / "manifest.json").read_text(encoding="utf-8"))["counts"]["users"]
        for workers in WORKERS:
            to = folder / f"lists-{workers}.parquet"
            took = run("recommend", folder / "bundle", "--all", "-k", 20, "--to", to, "--workers", workers, "--json")
            runs.append({"what": "score", "rows": rows, "users": users, "workers": workers, **took})
            runs[-1]["users_per_second"] = round(users / took["wall_seconds"])
        lists = [f"SELECT * FROM '{folder / f'lists-{workers}.parquet'}'" for workers in WORKERS]
        assert not duckdb.sql(f"({lists[0]}) EXCEPT ALL ({lists[1]})").fetchall(), "the answers differ"
    return runs


def main() -> None:
    """Measure and report."""
    if sys.argv[1:2] == ["--here"]:
        here(sys.argv[2:])
        return
    parser = common.parser(__doc__)
    parser.add_argument("--rows", type=int, nargs="+", help="of the logs (default 1 and 10 million)")
    options = common.parse(parser)
    sizes = options.rows or ([100_000] if options.quick else list(ROWS))
    runs = [one for rows in sizes for one in measure(rows)]
    common.finish(
        "scale_parts",
        options,
        settings={"rows": sizes, "files": FILES, "items": ITEMS, "users": "rows / 10", "k": 20, "workers": WORKERS},
        figures={"runs": runs},
    )


if __name__ == "__main__":
    main()
