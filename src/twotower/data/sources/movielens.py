"""MovieLens of every size: 100K and 1M with users, 10M in the older text form, 20M, 25M and 32M as CSV."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

from twotower.data.prepare.spec import Spec
from twotower.data.sources.base import Archive, Reader, Source, find, need
from twotower.data.sources.tables import database, delimited, literal, spec, write

LICENCE = (
    "GroupLens, University of Minnesota: research use with acknowledgement; no commercial use and no passing on "
    "without permission; no endorsement may be implied. The README in the archive holds the full terms."
)
CITATION = (
    "F. Maxwell Harper and Joseph A. Konstan. 2015. The MovieLens Datasets: History and Context. "
    "ACM Transactions on Interactive Intelligent Systems 5, 4, 19:1-19:19. doi:10.1145/2827872"
)

GENRES_100K = (
    "unknown", "Action", "Adventure", "Animation", "Children's", "Comedy", "Crime", "Documentary", "Drama", "Fantasy",
    "Film-Noir", "Horror", "Musical", "Mystery", "Romance", "Sci-Fi", "Thriller", "War", "Western",
)  # fmt: skip
ITEM_FEATURES = {"title": "text", "genres": "multi_categorical", "year": "numeric"}
YEAR = r"TRY_CAST(regexp_extract(title, '.*\((\d{4})[^()]*\)', 1) AS INTEGER) AS year"
GENRES = (
    "CASE WHEN genres IN ('', '(no genres listed)') THEN []::VARCHAR[] ELSE string_split(genres, '|') END AS genres"
)
RATINGS = "SELECT user_id, item_id, rating::DOUBLE AS rating, timestamp::BIGINT AS timestamp FROM "


def read_100k(files: Path, out: Path, category: str | None) -> Spec:
    """Read tables from ``u.data``, ``u.user``, ``u.item``, or from the three atomic files of RecBole's example."""
    users = ("user_id", "age", "gender", "occupation", "zip_code")
    with database() as connection:
        if find(files, "u.data") is None and find(files, "ml-100k.inter") is not None:
            _write_recbole(connection, files, out)
        else:
            flags = ", ".join(f"CASE g{i} WHEN '1' THEN {literal(genre)} END" for i, genre in enumerate(GENRES_100K))
            columns = ("item_id", "title", "release_date", "video_date", "imdb", *(f"g{i}" for i in range(19)))
            items = delimited(need(files, "u.item"), columns, separator="|", encoding="latin-1", quote="")
            ratings = ("user_id", "item_id", "rating", "timestamp")
            write(connection, RATINGS + delimited(need(files, "u.data"), ratings, separator="\t"), _interactions(out))
            people = delimited(need(files, "u.user"), users, separator="|", quote="")
            write(connection, f"SELECT * REPLACE (age::INTEGER AS age) FROM {people}", out / "users.parquet")
            write(
                connection,
                f"SELECT item_id, trim(title) AS title, {YEAR}, {GENRES} "
                f"FROM (SELECT *, concat_ws('|', {flags}) AS genres FROM {items})",
                out / "items.parquet",
            )
    return spec_100k()


def spec_100k() -> Spec:
    """Return the spec of MovieLens 100K."""
    return spec(
        "ml-100k",
        time="timestamp",
        value="rating",
        users={"age": "numeric", "gender": "categorical", "occupation": "categorical"},
        items=ITEM_FEATURES,
        item_title="title",
    )


def _write_recbole(connection: Any, files: Path, out: Path) -> None:
    """The same tables from RecBole's copy: it split the year off the title and joined the genres by blanks."""

    def atomic(suffix: str) -> str:
        return delimited(need(files, f"ml-100k.{suffix}"), separator="\t", quote="")

    ratings = atomic("inter")
    write(
        connection,
        'SELECT "user_id:token" AS user_id, "item_id:token" AS item_id, "rating:float"::DOUBLE AS rating, '
        f'"timestamp:float"::BIGINT AS timestamp FROM {ratings}',
        _interactions(out),
    )
    write(
        connection,
        'SELECT "user_id:token" AS user_id, "age:token"::INTEGER AS age, "gender:token" AS gender, '
        f'"occupation:token" AS occupation, "zip_code:token" AS zip_code FROM {atomic("user")}',
        out / "users.parquet",
    )
    # The film without title or year is "unkonwn" there, "unknown" in the official file.
    title = (
        "CASE \"release_year:token\" WHEN 'unkonwn' THEN 'unknown' "
        "ELSE trim(\"movie_title:token_seq\") || ' (' || \"release_year:token\" || ')' END"
    )
    write(
        connection,
        f'SELECT item_id, title, {YEAR}, genres FROM (SELECT "item_id:token" AS item_id, {title} AS title, '
        f"string_split(trim(\"class:token_seq\"), ' ') AS genres FROM {atomic('item')})",
        out / "items.parquet",
    )


def read_1m(files: Path, out: Path, category: str | None) -> Spec:
    """Read tables from ``ratings.dat``, ``users.dat`` and ``movies.dat``."""
    columns = ("user_id", "gender", "age", "occupation", "zip_code")
    with database() as connection:
        _write_dat(connection, files, out)
        people = delimited(need(files, "users.dat"), columns, separator="::", encoding="latin-1", quote="")
        write(connection, f"SELECT * FROM {people}", out / "users.parquet")
    return spec_1m()


def spec_1m(*, clock: bool = True) -> Spec:
    """Return the spec of MovieLens 1M, whose ages are codes of seven groups.

    Without a clock ``position`` gives the order.
    """
    return spec(
        "ml-1m",
        time="timestamp" if clock else "position",
        unit="s" if clock else "order",
        value="rating",
        users={"gender": "categorical", "age": "categorical", "occupation": "categorical"},
        items=ITEM_FEATURES,
        item_title="title",
    )


def read_10m(files: Path, out: Path, category: str | None) -> Spec:
    """Read tables from ``ratings.dat`` and ``movies.dat``; this release has no data on users."""
    with database() as connection:
        _write_dat(connection, files, out, encoding="utf-8")
    return spec("ml-10m", time="timestamp", value="rating", items=ITEM_FEATURES, item_title="title")


def _write_dat(connection: Any, files: Path, out: Path, encoding: str = "latin-1") -> None:
    ratings = ("user_id", "item_id", "rating", "timestamp")
    write(
        connection,
        RATINGS + delimited(need(files, "ratings.dat"), ratings, separator="::", quote=""),
        _interactions(out),
    )
    movies = delimited(
        need(files, "movies.dat"), ("item_id", "title", "genres"), separator="::", encoding=encoding, quote=""
    )
    write(connection, f"SELECT item_id, title, {YEAR}, {GENRES} FROM {movies}", out / "items.parquet")


def read_csv(title: str, files: Path, out: Path) -> Spec:
    """Read tables from ``ratings.csv`` and ``movies.csv``."""
    with database() as connection:
        ratings = delimited(need(files, "ratings.csv"), needed=("userId", "movieId", "rating", "timestamp"))
        movies = delimited(need(files, "movies.csv"), needed=("movieId", "title", "genres"))
        write(
            connection,
            'SELECT "userId" AS user_id, "movieId" AS item_id, rating::DOUBLE AS rating, '
            f"timestamp::BIGINT AS timestamp FROM {ratings}",
            _interactions(out),
        )
        write(
            connection,
            f'SELECT "movieId" AS item_id, trim(title) AS title, {YEAR}, {GENRES} FROM {movies}',
            out / "items.parquet",
        )
    return spec(title, time="timestamp", value="rating", items=ITEM_FEATURES, item_title="title")


def _interactions(out: Path) -> Path:
    return out / "interactions.parquet"


def _source(identifier: str, title: str, size: int, md5: str, read: Reader | None = None) -> Source:
    def read_this(files: Path, out: Path, category: str | None) -> Spec:
        return read_csv(identifier, files, out)

    archive = Archive(
        f"{identifier}.zip", f"https://files.grouplens.org/datasets/movielens/{identifier}.zip", size, md5
    )
    home = f"https://grouplens.org/datasets/movielens/{identifier.removeprefix('ml-')}/"
    return Source(identifier, title, home, LICENCE, CITATION, read or read_this, (archive,), restricted=True)


SOURCES = (
    replace(_source("ml-100k", "MovieLens 100K: 100,000 ratings of 943 users, 1,682 films", 4_924_029,
                    "0e33842e24a9c977be4e0107933c0723", read_100k), in_registry=True),
    _source("ml-1m", "MovieLens 1M: 1,000,209 ratings of 6,040 users, 3,706 films", 5_917_549,
            "c4d9eecfca2ab87c1945afe126590906", read_1m),
    _source("ml-10m", "MovieLens 10M: 10,000,054 ratings of 69,878 users, 10,677 films", 65_566_137,
            "ce571fd55effeba0271552578f2648bd", read_10m),
    _source("ml-20m", "MovieLens 20M: 20,000,263 ratings of 138,493 users, 27,278 films", 198_702_078,
            "cd245b17a1ae2cc31bb14903e1204af3"),
    _source("ml-25m", "MovieLens 25M: 25,000,095 ratings of 162,541 users, 62,423 films", 261_978_986,
            "6b51fb2759a8657d3bfcbfc42b592ada"),
    _source("ml-32m", "MovieLens 32M: 32,000,204 ratings of 200,948 users, 87,585 films", 238_950_008,
            "d472be332d4daa821edc399621853b57"),
)  # fmt: skip
