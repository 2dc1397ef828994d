"""Data sets of ``twotower reproduce leaderboard``, in the forms that others report, ids alone.

    python benchmarks/leaderboard_sets.py FOLDER --to runs/leaderboard-sets

FOLDER holds the Parquet copies that ``twotower data get --from`` reads: ml-1m, amazon-beauty-5core,
sessions-diginetica.

*MovieLens-1M.* A user's events stand by time, and those of one second as in ``ratings.dat``, where the clock of all of
the user's events is known; else by their place in the copy, where seconds cannot be told apart. The column ``moment``
is the time of the former and the place of the latter, so that it says which events tie: an order, not a clock. The
table reads no times. *Diginetica.* Training sessions by number, then every click of a test session but its first as a
session of its own, with what precedes it: ``by-user`` with ``held_out = "last"`` cuts there.
"""

from __future__ import annotations

import argparse
from dataclasses import replace
from pathlib import Path

import duckdb

from twotower.data.dataset import Dataset
from twotower.data.prepare.prepare import prepare
from twotower.data.prepare.spec import Spec
from twotower.data.sources.tables import spec

FILMS = """
    SELECT user_id::VARCHAR AS user_id, item_id::VARCHAR AS item_id,
        CASE WHEN known THEN timestamp ELSE position END AS moment
    FROM (SELECT *, count(*) OVER mine = count(timestamp) OVER mine AS known FROM
        read_parquet('{folder}/ml-1m/ratings.parquet') WINDOW mine AS (PARTITION BY user_id))
    ORDER BY user_id, moment, file_row"""
BEAUTY = """
    SELECT user_id::VARCHAR AS user_id, item_id::VARCHAR AS item_id, position AS moment
    FROM read_parquet('{folder}/amazon-beauty-5core/interactions.parquet') ORDER BY user_id, moment"""
SESSIONS = """
    WITH kept AS (SELECT * FROM read_parquet('{folder}/sessions-diginetica/sessions.parquet')),
    asked AS (
        SELECT format('a{{:07d}}', session_id) AS user_id, items FROM kept WHERE split = 'train'
        UNION ALL SELECT format('b{{:07d}}-{{:03d}}', session_id, clicks), items[:clicks]
        FROM (SELECT *, unnest(range(2, len(items) + 1)) AS clicks FROM kept WHERE split = 'test'))
    SELECT user_id, unnest(items)::VARCHAR AS item_id, unnest(range(len(items))) AS moment FROM asked
    ORDER BY user_id, moment"""
SETS = {
    "ml-1m-3706": (FILMS, "s", 1),
    "ml-1m-3416": (FILMS, "s", 5),
    "amazon-beauty-5core": (BEAUTY, "order", 1),
    "sessions-diginetica": (SESSIONS, "order", 1),
}
"""The events, the unit of ``moment``, and the least events of an item."""


def make(name: str, folder: Path, to: Path) -> Path:
    """Write the events and their spec in ``TO/NAME-raw``, and the prepared set in ``TO/NAME``."""
    query, unit, least = SETS[name]
    raw = to / f"{name}-raw"
    raw.mkdir(parents=True, exist_ok=True)
    events = raw / "interactions.parquet"
    duckdb.sql(f"COPY ({query.format(folder=folder)}) TO '{events}' (FORMAT parquet)")
    made = spec(name, time="moment", unit=unit)
    made = replace(made, interactions=replace(made.interactions, min_item_events=least), folder=raw)
    made.to_toml(raw / "spec.toml")
    return prepare(Spec.from_toml(raw / "spec.toml"), to / name)


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=Path)
    parser.add_argument("--to", type=Path, default=Path("runs/leaderboard-sets"))
    parser.add_argument("--only", action="append", choices=sorted(SETS), help="again for more (default: all)")
    given = parser.parse_args()
    for name in given.only or SETS:
        print(Dataset.load(make(name, given.folder, given.to)))
