"""One part of the recommendations of many users: what an engine runs, by the bundle's address and rows of users."""

from __future__ import annotations

import contextlib
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from twotower.core.engines.base import Task
from twotower.core.parts import writing_part
from twotower.core.records import TopK
from twotower.data.log import NO_ITEM
from twotower.data.prepare.database import database, literal, parquet
from twotower.serving.bundle import Bundle
from twotower.serving.loaded import loaded
from twotower.serving.pipeline import Pipeline
from twotower.serving.retriever import TILE, Retriever
from twotower.serving.second_stage import SecondStage


def recommend_part(task: Task) -> None:
    """Answer the users of one part and write them: the same rows wherever and however often it is run."""
    retriever = loaded(task["bundle"], task["digest"], task["device"])
    bundle = retriever.bundle
    rows = torch.arange(*task["users"]) if "users" in task else torch.tensor(task["listed"], dtype=torch.int64)
    second = _second(task, retriever)
    allowed = retriever.finder.filters.allowed(task.get("filter"), task.get("only"))
    depth = task["k"] if second is None else second.depth
    if allowed is not None:
        depth = min(depth, max(allowed.number, 1))
    banned = torch.tensor(task["banned"], dtype=torch.int64, device=bundle.device)
    tiles = rows.to(bundle.device).split(TILE)
    found = []
    for tile in tiles:
        first = retriever.finder.found_many(tile, depth, banned, include_seen=task["include_seen"], allowed=allowed)
        found.append(first if second is None else second.order(tile, first))
    counts = {"users": len(rows), "rows": 0, "unordered": 0 if second is None else second.unordered}
    with writing_part(task, counts) as path, _ids(bundle) as connection:
        counts["rows"] = _write(connection, path, rows, found)


def _second(task: Task, retriever: Retriever) -> SecondStage | None:
    if "then" not in task:
        return None
    then = task["then"]
    ranker = loaded(then["address"], then["bundle"], task["device"])
    return SecondStage(
        Pipeline(retriever, ranker, candidates=then["candidates"], weight=then["weight"]),
        task["k"],
    )


@contextlib.contextmanager
def _ids(bundle: Bundle) -> Iterator[Any]:
    """Open a connection that sees the outside ids of both sides."""
    with tempfile.TemporaryDirectory(prefix="twotower-") as name, database(Path(name)) as connection:
        for side in ("items", "users"):
            path = parquet(bundle.folder / "vocabulary" / f"{side}.parquet")
            connection.execute(f"CREATE VIEW {side} AS SELECT row, id FROM {path}")
        yield connection


def _write(connection: Any, path: Path, rows: Tensor, answers: list[TopK]) -> int:
    """Write the answers of these users, tile after tile, in outside ids; returns how many rows there are."""
    scores = torch.cat([tile.scores for tile in answers]).float().cpu()
    items = torch.cat([tile.ids for tile in answers]).cpu()
    there = items != NO_ITEM
    place, rank = there.nonzero(as_tuple=True)
    connection.register(
        "found",
        {
            "place": place.numpy(),
            "rank": rank.numpy() + 1,
            "user": rows[place].numpy(),
            "item": items[there].numpy(),
            "score": scores[there].numpy(),
        },
    )
    connection.execute(
        "COPY (SELECT users.id AS user, found.rank::INTEGER AS rank, items.id AS item, found.score FROM found "
        "JOIN users ON users.row = found.user JOIN items ON items.row = found.item ORDER BY place, rank) "
        f"TO {literal(path)} (FORMAT parquet, COMPRESSION zstd)"
    )
    return len(place)
