"""Recommendations of many users as one Parquet file: in bounded memory, and resumed where a run was stopped."""

from __future__ import annotations

import contextlib
import hashlib
import json
import logging
import shutil
import tempfile
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import Any, NamedTuple

import torch
from torch import Tensor

from twotower.core.errors import InputError
from twotower.core.files import read_json, replacing_file, write_json
from twotower.core.lock import writing_alone
from twotower.core.records import FIRST_KNOWN, TopK
from twotower.data.log import NO_ITEM
from twotower.data.prepare.database import as_pattern, database, literal
from twotower.serving.bundle import Bundle
from twotower.serving.filters.allowed import Allowed
from twotower.serving.listed import listed_rows
from twotower.serving.pipeline import Pipeline
from twotower.serving.retriever import TILE, Retriever
from twotower.serving.second_stage import SecondStage

log = logging.getLogger(__name__)

PART = 16 * TILE
"""Users of a part: what a stopped run loses at most."""


class Written(NamedTuple):
    """Hold what was written: users and rows of the file, and the users that an earlier, stopped run had done."""

    users: int
    rows: int
    resumed: int


def write_recommendations(
    retriever: Retriever,
    to: Path | str,
    *,
    users: Path | str | None = None,
    k: int = 10,
    exclude: Iterable[object] = (),
    include_seen: bool | None = None,
    then: Pipeline | None = None,
    filter: str | None = None,
    only: Iterable[object] | None = None,
    part: int = PART,
    on_progress: Callable[[int, int], None] | None = None,
) -> Written:
    """Write the best ``k`` items of every known user to a Parquet file.

    One row an item: ``user``, ``rank`` (from 1), ``item``, ``score``.

    Users are answered ``part`` at a time. Each part is written whole into a folder ``.NAME.parts`` beside the target;
    the target itself comes last, and the folder goes. A run that was stopped leaves the folder, and the next one with
    the same bundle and the same question goes on from there.

    Args:
        retriever: of the bundle.
        to: Parquet file, replaced whole.
        users: file of user ids: a text file (``.txt``) with one a line, or a table with the id's column; None: all
            known users. Ids that the bundle does not know are left out with a warning; one named twice counts once.
        k: items of a user, at most; fewer where the rest is seen or excluded.
        exclude: items that nobody gets.
        include_seen: whether users get what they have seen, too; None: as the bundle was judged.
        then: two stages that answer in place of ``retriever``, which is the first of them.
        filter: expression on columns of the items that alone may come back: see `Retriever.recommend`.
        only: ids of items that alone may come back.
        part: users of a part.
        on_progress: called with the users that are done, and all of them.

    Raises:
        InputError: if the file's name does not end in .parquet, another process writes it, no user is known, ``k`` is
            below 1 or above the candidates of ``then``, its second stage does not know a user, or the filter is none.
    """
    to = Path(to)
    if to.suffix.lower() != ".parquet":
        raise InputError(f"{to}: name it *.parquet")
    if to.is_dir():
        raise InputError(f"{to}: a folder; name a file to write")
    bundle = retriever.bundle
    names = bundle.item_vocabulary.texts(exclude)
    allowed = retriever.allowed(filter, only)
    most, banned = retriever.checked(k, allowed), retriever.excluded(names)
    keeps = retriever.keeps_seen(include_seen)
    second = None if then is None else SecondStage(then, most)
    with writing_alone(to):
        rows = (
            torch.arange(FIRST_KNOWN, bundle.schema.num_users)
            if users is None
            else listed_rows(bundle, Path(users), "user")
        )
        if not len(rows):
            raise InputError(f"{bundle.folder}: the bundle knows no users; there is nobody to recommend to")
        if second is not None:
            second.check_users(rows)
        plan = {
            "bundle": bundle.manifest["digest"],
            "k": most,
            "exclude": sorted(set(names)),
            "include_seen": keeps,
            **_then(then),
            **_allowed(filter, allowed),
            "users": len(rows),
            "users_sha256": hashlib.sha256(rows.numpy().tobytes()).hexdigest(),
            "part": part,
        }
        folder = to.with_name(f".{to.name}.parts")
        _prepare(folder, plan)
        resumed = 0
        paths = [folder / f"{number:06d}.parquet" for number in range(-(-len(rows) // part))]
        done = 0
        with _ids(bundle) as connection:
            for path, chunk in zip(paths, rows.split(part), strict=True):
                if path.is_file():
                    resumed += len(chunk)
                else:
                    tiles = chunk.to(bundle.device).split(TILE)
                    depth = most if second is None else second.depth
                    if allowed is not None:
                        depth = min(depth, allowed.number)
                    found = (
                        retriever.found_many(tile, depth, banned, include_seen=keeps, allowed=allowed) for tile in tiles
                    )
                    if second is not None:
                        found = (second.order(tile, first) for tile, first in zip(tiles, found, strict=True))
                    _write_part(connection, path, chunk, found)
                done += len(chunk)
                if on_progress is not None:
                    on_progress(done, len(rows))
            number = _join(connection, paths, to, plan)
        shutil.rmtree(folder)
    if second is not None:
        second.tell()
    return Written(len(rows), number, resumed)


def _then(then: Pipeline | None) -> dict[str, Any]:
    """What the plan says of a second stage."""
    if then is None:
        return {}
    digest = then.ranker.bundle.manifest["digest"]
    return {"then": {"bundle": digest, "candidates": then.candidates, "weight": then.weight}}


def _allowed(filter: str | None, allowed: Allowed | None) -> dict[str, Any]:
    """What the plan says of a filter: the expression, how many items pass, and a hash of which."""
    if allowed is None:
        return {}
    passing = hashlib.sha256(allowed.mask.cpu().numpy().tobytes()).hexdigest()
    return {"filter": filter, "passing": allowed.number, "passing_sha256": passing}


def _prepare(folder: Path, plan: dict[str, Any]) -> None:
    """Keep the parts of the same plan; those of another one go."""
    file = folder / "plan.json"
    if folder.is_dir():
        if file.is_file() and read_json(file) == plan:
            return
        log.warning("%s: parts of a stopped run with another bundle or question; they are removed", folder)
        shutil.rmtree(folder)
    write_json(file, plan)


@contextlib.contextmanager
def _ids(bundle: Bundle) -> Iterator[Any]:
    """Open a connection that has the outside ids of both sides, on disk where they are many."""
    with tempfile.TemporaryDirectory(prefix="twotower-") as name, database(Path(name)) as connection:
        for side in ("items", "users"):
            path = as_pattern(bundle.folder / "vocabulary" / f"{side}.parquet")
            connection.execute(f"CREATE TABLE {side} AS SELECT row, id FROM read_parquet({path})")
        yield connection


def _write_part(connection: Any, path: Path, rows: Tensor, found: Iterable[TopK]) -> None:
    """Write the answers of these users, tile after tile, in outside ids."""
    with replacing_file(path) as partial:
        tiles = list(found)
        scores = torch.cat([tile.scores for tile in tiles]).float().cpu()
        items = torch.cat([tile.ids for tile in tiles]).cpu()
        there = items != NO_ITEM
        place, rank = there.nonzero(as_tuple=True)
        answers = {
            "place": place.numpy(),
            "rank": rank.numpy() + 1,
            "user": rows.cpu()[place].numpy(),
            "item": items[there].numpy(),
            "score": scores[there].numpy(),
        }
        connection.register("found", answers)
        connection.execute(
            "COPY (SELECT users.id AS user, found.rank::INTEGER AS rank, items.id AS item, found.score FROM found "
            "JOIN users ON users.row = found.user JOIN items ON items.row = found.item ORDER BY place, rank) "
            f"TO {literal(partial)} (FORMAT parquet, COMPRESSION zstd)"
        )
        connection.unregister("found")


def _join(connection: Any, parts: list[Path], to: Path, plan: dict[str, Any]) -> int:
    """Write the parts as one file, in their order, with what was asked in its metadata; return its rows."""
    listed = "[" + ", ".join(as_pattern(path) for path in parts) + "]"
    said = json.dumps({name: value for name, value in plan.items() if name != "part"}, ensure_ascii=False)
    with replacing_file(to) as partial:
        connection.execute(
            f"COPY (SELECT * FROM read_parquet({listed})) TO {literal(partial)} "
            f"(FORMAT parquet, COMPRESSION zstd, KV_METADATA {{twotower: {literal(said)}}})"
        )
    (number,) = connection.execute(f"SELECT count(*) FROM read_parquet({as_pattern(to)})").fetchone()
    return int(number)
