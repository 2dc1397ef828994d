"""KuaiRand-Pure as ``twotower reproduce fit-exposures`` reads it: the standard log after each user's last 50 views.

The folder holds ``train_sequences_until_20220424.parquet`` beside the tables that ``twotower data get kuairand-pure
--from FOLDER`` reads: for each user the last 50 items shown before 25 April 2022, in order, and the time of the last.
They become events of label 1 a second apart, the last at its time; whether they were clicked is not known.

    python benchmarks/kuairand_exposures.py FOLDER --to runs/kuairand-exposures
"""

from __future__ import annotations

import argparse
from dataclasses import replace
from pathlib import Path

import duckdb

from twotower.data import sources
from twotower.data.prepare.prepare import prepare
from twotower.data.prepare.spec import Spec

SEQUENCES = "train_sequences_until_20220424.parquet"


def with_histories(folder: Path, to: Path) -> Path:
    """Write tables and spec in ``to``, and the prepared set beside it in ``TO-prepared``."""
    spec = Spec.from_toml(sources.get("kuairand-pure", to, from_path=folder))
    log, sequences = to / "interactions.parquet", folder / SEQUENCES
    joined = to / "joined.parquet"
    with duckdb.connect() as connection:
        connection.execute(f"""
            COPY (
                SELECT user_id, item_id, timestamp_ms, is_click::INTEGER AS is_click FROM read_parquet('{log}')
                UNION ALL
                SELECT user_id::VARCHAR, last_items[place]::VARCHAR,
                       last_timestamp_ms - 1000 * (len(last_items) - place), 1
                FROM read_parquet('{sequences}'), unnest(range(1, len(last_items) + 1)) AS places(place)
                WHERE user_id::VARCHAR IN (SELECT user_id FROM read_parquet('{log}'))
                ORDER BY user_id, timestamp_ms
            ) TO '{joined}' (FORMAT parquet, COMPRESSION zstd)""")
    joined.replace(log)
    return prepare(replace(spec, name="kuairand-exposures"), to.with_name(f"{to.name}-prepared"))


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("folder", type=Path)
    parser.add_argument("--to", type=Path, default=Path("runs/kuairand-exposures"))
    arguments = parser.parse_args()
    print(with_histories(arguments.folder, arguments.to))
