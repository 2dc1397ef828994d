"""Deezer's cold-start users: what 100,000 people did on the day they registered and heard in the month after it."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

from twotower.core.errors import InputError
from twotower.data.prepare.database import parquet
from twotower.data.prepare.spec import Spec
from twotower.data.sources.base import Archive, Source, find, need
from twotower.data.sources.tables import database, name, spec, write

LICENCE = "Deezer Research, Zenodo record 5121674: research use with citation; read the terms on its page."
CITATION = (
    "Léa Briand, Guillaume Salha-Galvan, Walid Bendada, Mathieu Morlon and Viet-Anh Tran. 2021. A Semi-Personalized "
    "System for User Cold Start Recommendation on Music Streaming Apps. KDD 2021. doi:10.1145/3447548.3467110"
)
FOLDS = ("train", "validation", "test")
NOT_FEATURES = ("user_index", "d1d30_songs")


def read(files: Path, out: Path, category: str | None) -> Spec:
    """Read tables from the TT-SVD files (the UT-ALS ones where only they are there).

    An event is a song heard in the 30 days after the first; there is no clock. All other columns of a user, missing
    ones as 0, make one vector in file order, as in the authors' code. ``fold`` keeps their partition; no split uses it,
    since a split draws users from the log and reads no column of theirs. The vectors that the authors gave to users
    with history are in ``warm_users.parquet`` and not in the spec: they know the answers.
    """
    space, songs = ("svd", "svd") if find(files, "user_features_train_svd.parquet") else ("mf", "mf")
    tables = {fold: need(files, f"user_features_{fold}_{space}.parquet") for fold in FOLDS}
    with database() as connection:
        heard = " UNION ALL ".join(
            f"SELECT user_index::VARCHAR AS user_id, unnest(d1d30_songs)::VARCHAR AS item_id FROM {parquet(path)}"
            for path in tables.values()
        )
        write(connection, heard, out / "interactions.parquet")
        people = " UNION ALL ".join(
            f"SELECT user_index::VARCHAR AS user_id, '{fold}' AS fold, {_vector(connection, path)} AS registration "
            f"FROM {parquet(path)}"
            for fold, path in tables.items()
        )
        write(connection, people, out / "users.parquet")
        write(
            connection,
            f"SELECT song_index::VARCHAR AS item_id, features_{songs}::FLOAT[] AS embedding "
            f"FROM {parquet(need(files, 'song_embeddings.parquet'))}",
            out / "items.parquet",
        )
        if (warm := find(files, "user_embeddings.parquet")) is not None:
            query = (
                f"SELECT user_index::VARCHAR AS user_id, {space}_embeddings::FLOAT[] AS embedding FROM {parquet(warm)}"
            )
            write(connection, query, out / "warm_users.parquet")
    return spec(
        "deezer-cold-start",
        users={"registration": "vector"},
        items={"embedding": "vector"},
        split={"kind": "cold-users"},
    )


def _vector(connection: Any, path: Path) -> str:
    """SQL for all numeric columns of one row as a list of floats, null as 0."""
    described = connection.execute(f"DESCRIBE SELECT * FROM {parquet(path)}").fetchall()
    columns = [row[0] for row in described if row[0] not in NOT_FEATURES and not re.match(r"__index|level_0$", row[0])]
    texts = [row[0] for row in described if row[0] in columns and row[1] == "VARCHAR"]
    if texts:
        raise InputError(f"{path}: column '{texts[0]}' is text, expected numbers only")
    return "list_value(" + ", ".join(f"coalesce({name(column)}, 0)::FLOAT" for column in columns) + ")"


def _archives() -> tuple[Archive, ...]:
    names = ["song_embeddings", "user_embeddings", *(f"user_features_{fold}_svd" for fold in FOLDS)]
    address = "https://zenodo.org/records/5121674/files/"
    return tuple(Archive(f"{name}.parquet", f"{address}{name}.parquet") for name in names)


SOURCES = (
    Source(
        "deezer-cold-start",
        "Deezer user cold start: 100,000 users, 50,000 songs, registration-day features",
        "https://zenodo.org/records/5121674",
        LICENCE,
        CITATION,
        read,
        _archives(),
    ),
)
