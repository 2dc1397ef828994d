"""Parquet folders that hold a public data set, recognised by their files and columns."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from twotower.data.prepare.database import parquet
from twotower.data.prepare.spec import Spec
from twotower.data.sources import amazon, kuairand, movielens
from twotower.data.sources.tables import database, spec, write

Writer = Callable[[Any, Path, Path], Spec]
"""Reads the folder through a connection, writes tables into the second folder, returns their spec."""

TEXT_IDS = "user_id::VARCHAR AS user_id, item_id::VARCHAR AS item_id"
MOVIES = {"title": "text", "genres": "multi_categorical", "year": "numeric"}


@dataclass(frozen=True)
class ParquetFolder:
    """Describe one known folder: its name, and the files and columns that identify it."""

    name: str
    tables: dict[str, tuple[str, ...]]
    """Columns that each file must have."""
    write: Writer
    category: str | None = None
    rows: dict[str, int] | None = None
    """Rows of files, for folders that differ only in their contents."""


def recognise(folder: Path) -> ParquetFolder | None:
    """Return the known folder that ``folder`` is, None when it is none."""
    present = {path.name for path in folder.glob("*.parquet")}
    if not present:
        return None
    with database() as connection:
        for known in FOLDERS:
            if set(known.tables) <= present and _matches(connection, folder, known):
                return known
    return None


def _matches(connection: Any, folder: Path, known: ParquetFolder) -> bool:
    for file, columns in known.tables.items():
        described = connection.execute(f"DESCRIBE SELECT * FROM {parquet(folder / file)}").fetchall()
        if not set(columns) <= {row[0] for row in described}:
            return False
    for file, rows in (known.rows or {}).items():
        if connection.execute(f"SELECT count(*) FROM {parquet(folder / file)}").fetchall() != [(rows,)]:
            return False
    return True


def _ml_100k(connection: Any, folder: Path, out: Path) -> Spec:
    _ratings(connection, folder, out)
    users = "user_id::VARCHAR AS user_id, age::INTEGER AS age, gender, occupation, zip_code"
    write(connection, f"SELECT {users} FROM {parquet(folder / 'users.parquet')}", out / "users.parquet")
    items = f"item_id::VARCHAR AS item_id, trim(title) AS title, {movielens.YEAR}, genres"
    write(connection, f"SELECT {items} FROM {parquet(folder / 'items.parquet')}", out / "items.parquet")
    return movielens.spec_100k()


def _ml_1m(connection: Any, folder: Path, out: Path) -> Spec:
    """The clock is known for half of the rows only, so the place in the user's order takes its part."""
    _ratings(connection, folder, out, more=", position")
    users = "user_id::VARCHAR AS user_id, gender, age::VARCHAR AS age, occupation::VARCHAR AS occupation, zip_code"
    write(connection, f"SELECT {users} FROM {parquet(folder / 'users.parquet')}", out / "users.parquet")
    items = "item_id::VARCHAR AS item_id, title, year::INTEGER AS year, genres, abstract"
    write(connection, f"SELECT {items} FROM {parquet(folder / 'items.parquet')}", out / "items.parquet")
    return movielens.spec_1m(clock=False)


def _ml_latest_small(connection: Any, folder: Path, out: Path) -> Spec:
    _ratings(connection, folder, out)
    items = f"item_id::VARCHAR AS item_id, title, {movielens.YEAR}, {movielens.GENRES}"
    write(connection, f"SELECT {items} FROM {parquet(folder / 'items.parquet')}", out / "items.parquet")
    return spec("ml-latest-small-2018", time="timestamp", value="rating", items=MOVIES, item_title="title")


def _kuairand(connection: Any, folder: Path, out: Path) -> Spec:
    log = parquet(folder / "log_standard_20220425_20220508.parquet")
    write(connection, f"SELECT {kuairand.event_columns('item_id', 'timestamp_ms')} FROM {log}", out / LOG)
    users = f"SELECT {kuairand.user_columns()} FROM {parquet(folder / 'users.parquet')}"
    write(connection, users, out / "users.parquet")
    items = f"SELECT {kuairand.item_columns('item_id')} FROM {parquet(folder / 'items.parquet')}"
    write(connection, items, out / "items.parquet")
    return kuairand.kuairand_spec("kuairand-pure")


def _amazon_beauty(connection: Any, folder: Path, out: Path) -> Spec:
    _positions(connection, folder, out)
    items = "SELECT item_id::VARCHAR AS item_id, asin AS title, attributes AS categories FROM "
    write(connection, items + parquet(folder / "items.parquet"), out / "items.parquet")
    kinds = {"categories": "multi_categorical"}
    return spec("amazon-reviews-beauty", time="position", unit="order", items=kinds, item_title="title")


def _amazon_musical_instruments(connection: Any, folder: Path, out: Path) -> Spec:
    _ratings(connection, folder, out, more=", summary")
    return amazon.amazon_spec("Musical_Instruments", with_products=False)


def _yelp(connection: Any, folder: Path, out: Path) -> Spec:
    _positions(connection, folder, out)
    items = "SELECT item_id::VARCHAR AS item_id, business_id, categories FROM "
    write(connection, items + parquet(folder / "items.parquet"), out / "items.parquet")
    return spec(
        "yelp-2019", time="position", unit="order", items={"categories": "multi_categorical"}, item_title="business_id"
    )


def _amazon_instruments(connection: Any, folder: Path, out: Path) -> Spec:
    _positions(connection, folder, out)
    return spec("amazon-instruments-2018", time="position", unit="order")


def _citeulike(connection: Any, folder: Path, out: Path) -> Spec:
    """No clock and no order: a random share of the events is held out."""
    write(connection, f"SELECT {TEXT_IDS} FROM {parquet(folder / LOG)}", out / LOG)
    items = f"SELECT item_id::VARCHAR AS item_id, tags FROM {parquet(folder / 'items.parquet')}"
    write(connection, items, out / "items.parquet")
    return spec("citeulike-a", items={"tags": "multi_categorical"}, split={"kind": "random-ratio"})


def _diginetica(connection: Any, folder: Path, out: Path) -> Spec:
    """A session is a user; the list of a session is its order."""
    places = "unnest(items)::VARCHAR AS item_id, unnest(range(len(items))) AS position"
    sessions = f"SELECT session_id::VARCHAR AS user_id, {places} FROM {parquet(folder / 'sessions.parquet')}"
    write(connection, sessions, out / LOG)
    return spec("sessions-diginetica", time="position", unit="order", split={"kind": "by-user"})


def _lastfm(connection: Any, folder: Path, out: Path) -> Spec:
    """No clock and no order: a random share of the events is held out. ``weight`` counts the plays."""
    write(connection, f"SELECT {TEXT_IDS}, weight FROM {parquet(folder / LOG)}", out / LOG)
    tags = (
        "SELECT item_id::VARCHAR AS item_id, list(tag_id::VARCHAR ORDER BY given DESC, tag_id) AS tags FROM "
        f"(SELECT item_id, tag_id, count(*) AS given FROM {parquet(folder / 'item_tags.parquet')} GROUP BY ALL) "
        "GROUP BY 1 ORDER BY 1"
    )
    write(connection, tags, out / "items.parquet")
    return spec(
        "lastfm-hetrec2011", value="weight", items={"tags": "multi_categorical"}, split={"kind": "random-ratio"}
    )


def _ratings(connection: Any, folder: Path, out: Path, *, more: str = "") -> None:
    columns = f"{TEXT_IDS}, rating::DOUBLE AS rating, timestamp::BIGINT AS timestamp{more}"
    write(connection, f"SELECT {columns} FROM {parquet(folder / 'ratings.parquet')}", out / LOG)


def _positions(connection: Any, folder: Path, out: Path) -> None:
    write(connection, f"SELECT {TEXT_IDS}, position FROM {parquet(folder / LOG)}", out / LOG)


LOG = "interactions.parquet"
RATED = ("user_id", "item_id", "rating", "timestamp")
PLACED = ("user_id", "item_id", "position")
FOLDERS = (
    ParquetFolder("ml-1m", {"ratings.parquet": (*RATED, "position"), "users.parquet": ("gender", "occupation"),
                            "items.parquet": ("title", "genres", "year")}, _ml_1m),
    ParquetFolder("ml-100k", {"ratings.parquet": RATED, "users.parquet": ("gender", "occupation"),
                              "items.parquet": ("title", "genres", "release_date")}, _ml_100k),
    ParquetFolder("ml-latest-small-2018", {"ratings.parquet": RATED, "items.parquet": ("title", "genres", "year")},
                  _ml_latest_small),
    ParquetFolder("kuairand-pure", {"log_standard_20220425_20220508.parquet": ("user_id", "item_id", "timestamp_ms"),
                                    "users.parquet": ("user_active_degree",), "items.parquet": ("author_id", "tag")},
                  _kuairand),
    ParquetFolder("amazon-reviews", {LOG: PLACED, "items.parquet": ("asin", "attributes")}, _amazon_beauty,
                  category="Beauty"),
    ParquetFolder("amazon-reviews", {"ratings.parquet": (*RATED, "summary", "review_text")},
                  _amazon_musical_instruments, category="Musical_Instruments"),
    ParquetFolder("yelp-2019", {LOG: PLACED, "items.parquet": ("business_id", "categories")}, _yelp),
    ParquetFolder("lastfm-hetrec2011", {LOG: ("user_id", "item_id", "weight"), "item_tags.parquet": ("tag_id",)},
                  _lastfm),
    ParquetFolder("citeulike-a", {LOG: ("user_id", "item_id"), "items.parquet": ("tags", "cites")}, _citeulike),
    ParquetFolder("sessions-diginetica", {"sessions.parquet": ("session_id", "items")}, _diginetica),
    ParquetFolder("amazon-instruments-2018", {LOG: PLACED}, _amazon_instruments),
)  # fmt: skip
"""The first that matches counts, so the ones with more files and columns come first."""
