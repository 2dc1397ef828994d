"""Small files in the layout of Deezer's cold-start users, for tests."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

import duckdb

FEATURES = {
    "svd": "age_embedding0 DOUBLE, country_embedding0 DOUBLE, age_value INTEGER, nb_favorite_songs BIGINT",
    "mf": "age_embedding0 DOUBLE, age_embedding1 FLOAT, country_embedding0 DOUBLE, country_embedding1 FLOAT, "
    "age_value INTEGER",
}
"""Columns of a user's features, in file order: a file of UT-ALS has wider embeddings than one of TT-SVD."""


def write_deezer(
    folder: Path, heard: Mapping[str, Sequence[Sequence[int]]], songs: int, spaces: Sequence[str] = ("svd",)
) -> Path:
    """Write the files of the named spaces: under each fold every user's songs; users are numbered on over the folds."""
    folder.mkdir()
    connection = duckdb.connect()
    connection.execute(
        "COPY (SELECT i AS song_index, [i, 1.5, 0] AS features_svd, [0.25, -i] AS features_mf "
        f"FROM range({songs}) t(i)) TO '{folder}/song_embeddings.parquet'"
    )
    connection.execute(
        f"COPY (SELECT 0 AS user_index, [1, 2, 3] AS svd_embeddings, [7, 8] AS mf_embeddings) "
        f"TO '{folder}/user_embeddings.parquet'"
    )
    for space in spaces:
        first = 0
        for fold, lists in heard.items():
            connection.execute(f"CREATE TABLE users (user_index BIGINT, d1d30_songs BIGINT[], {FEATURES[space]})")
            people = [(first + i, list(one), *features(space, i)) for i, one in enumerate(lists)]
            connection.executemany(f"INSERT INTO users VALUES ({', '.join('?' * len(people[0]))})", people)
            connection.execute(f"COPY users TO '{folder}/user_features_{fold}_{space}.parquet'; DROP TABLE users")
            first += len(lists)
    return folder


def features(space: str, place: int) -> list[float | None]:
    """Return the features of a fold's user at that place; the first one's country is not known."""
    country = 2.0 + place % 4 if place else None
    if space == "svd":
        return [place % 4 + 0.5, country, 30.0, float(place)]
    return [place % 4 + 0.125, -1.0, country, country, 30.0]
