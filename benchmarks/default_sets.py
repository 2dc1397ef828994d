"""Twelve real logs for judging defaults: from shared Parquet copies, ids alone, users drawn where a log is large."""

from __future__ import annotations

import argparse
from dataclasses import dataclass
from pathlib import Path

import duckdb

import common
import twotower

SEED = 17


@dataclass(frozen=True)
class Log:
    """Where a log lies, what its columns are called, and how many of its users are drawn."""

    file: str
    select: str
    """SQL columns user, item and, where there is an order, time."""
    unit: str = "s"
    users: int = 0
    """Drawn at random; 0: all."""


RATED = "user_id AS user, item_id AS item, timestamp AS time"
PLACED = "user_id AS user, item_id AS item, position AS time"
LOGS = {
    "ml-100k": Log("ml-100k/ratings", RATED),
    "ml-1m": Log("ml-1m/ratings", PLACED, "order", 2000),
    "ml-latest-small": Log("ml-latest-small-2018/ratings", RATED),
    "beauty": Log("amazon-beauty-5core/interactions", PLACED, "order", 10_000),
    "instruments-5core": Log("amazon-musical-instruments-5core/ratings", RATED),
    "amazon-hin": Log("amazon-hin/ratings", RATED),
    "instruments-2018": Log("amazon-instruments-2018/interactions", PLACED, "order", 8_000),
    "yelp": Log("yelp-2019/interactions", PLACED, "order", 8_000),
    "diginetica": Log(
        "sessions-diginetica/sessions",
        "session_id AS user, unnest(items) AS item, unnest(range(len(items))) AS time",
        "order",
        20_000,
    ),
    "kuairand": Log(
        "kuairand-pure/log_standard_20220425_20220508",
        "user_id AS user, item_id AS item, timestamp_ms AS time",
        "ms",
        8_000,
    ),
    "lastfm": Log("lastfm-hetrec2011/interactions", "user_id AS user, item_id AS item", ""),
    "citeulike": Log("citeulike-a/interactions", "user_id AS user, item_id AS item", "", 3_000),
}
CLOCKLESS = ("lastfm", "citeulike")


def prepare(name: str, to: Path) -> None:
    """Prepare one log into ``to``, with the users who have at least three events."""
    log = LOGS[name]
    path = common.SHARED_DATA / f"{log.file}.parquet"
    chosen = f"SELECT user FROM rows GROUP BY user HAVING count(*) >= 3 ORDER BY hash(user::VARCHAR || '{SEED}')"
    if log.users:
        chosen += f" LIMIT {log.users}"
    order = "ORDER BY user, time" if "time" in log.select else "ORDER BY hash(user::VARCHAR || item::VARCHAR)"
    rows = f"WITH rows AS (SELECT {log.select} FROM '{path}')"
    kept = duckdb.sql(f"{rows} SELECT * FROM rows WHERE user IN ({chosen}) {order}").fetchnumpy()
    columns = {key: list(map(str, value)) if key != "time" else list(map(int, value)) for key, value in kept.items()}
    more = {"time": "time", "unit": log.unit} if log.unit else {}
    twotower.Dataset.from_frames(columns, user="user", item="item", name=name, to=to, **more)


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("to", type=Path)
    arguments = parser.parse_args()
    for name in LOGS:
        if not (arguments.to / name).is_dir():
            prepare(name, arguments.to / name)
        print(twotower.Dataset.load(arguments.to / name))
