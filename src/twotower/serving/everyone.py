"""Recommendations of many users as Parquet, part by part: in bounded memory, by any engine, resumed after a stop."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any, NamedTuple

import torch
from torch import Tensor

from twotower.core.engines.base import Engine
from twotower.core.engines.local import ThisProcess
from twotower.core.errors import InputError
from twotower.core.parts import Job, prepare_parts, run_parts
from twotower.core.records import FIRST_KNOWN
from twotower.core.store import local_file
from twotower.serving.asking import excluded_rows
from twotower.serving.everyone_part import recommend_part
from twotower.serving.filters.allowed import Allowed
from twotower.serving.listed import listed_rows
from twotower.serving.loaded import address_of, holding
from twotower.serving.pipeline import Pipeline
from twotower.serving.retriever import TILE, Retriever
from twotower.serving.second_stage import SecondStage
from twotower.serving.targets import end_parts, parquet_file, parts_of

PART = 16 * TILE
"""Users of a part: what a stopped run loses at most."""


class Written(NamedTuple):
    """Hold what was written: users and rows, and the users that an earlier, stopped run had done."""

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
    engine: Engine | None = None,
    on_progress: Callable[[int, int], None] | None = None,
) -> Written:
    """Write the best ``k`` items of every known user to a Parquet file, or to a folder of them.

    One row an item: ``user``, ``rank`` (from 1), ``item``, ``score``.

    Users are answered ``part`` at a time. Each part is written whole: into a folder ``.NAME.parts`` beside a file,
    which comes last, in one step, when the folder goes; or into the folder that is named, where ``manifest.json`` comes
    last.
    A run that was stopped leaves its parts, and the next one with the same bundle and the same question goes on.

    Args:
        retriever: of the bundle.
        to: Parquet file, replaced whole; or a folder of parts, named without an ending or by an fsspec address.
        users: file of user ids, or its address: a text file (``.txt``) with one a line, or a table with the id's
            column; None: all known users. Ids that the bundle does not know are left out with a warning; one named
            twice counts once.
        k: items of a user, at most; fewer where the rest is seen or excluded.
        exclude: items that nobody gets.
        include_seen: whether users get what they have seen, too; None: as the bundle was judged.
        then: two stages that answer in place of ``retriever``, which is the first of them.
        filter: expression on columns of the items that alone may come back: see `Retriever.recommend`.
        only: ids of items that alone may come back.
        part: users of a part.
        engine: runs the parts; None: this process. Its workers read the bundle, and write the parts, by the same paths
            or addresses as this process.
        on_progress: called with the users that are done, and all of them.

    Raises:
        InputError: if the name is neither of a Parquet file nor of a folder, another process writes it, it holds
            something else, no user is known, ``k`` is below 1 or above the candidates of ``then``, its second stage
            does not know a user, or the filter is none.
        ConnectionError: if the engine or an address cannot be reached.
    """
    file = parquet_file(to)
    bundle = retriever.bundle
    names = bundle.item_vocabulary.texts(exclude)
    stocked = None if only is None else bundle.item_vocabulary.texts(only)
    allowed = retriever.finder.filters.allowed(filter, stocked)
    most, banned = retriever.finder.limit(k, allowed), excluded_rows(bundle, names)
    second = None if then is None else SecondStage(then, most)
    with parts_of(to, file) as store:
        rows = _rows(retriever, users)
        if second is not None:
            second.check_users(rows)
        plan = {
            "bundle": bundle.manifest["digest"],
            "k": most,
            "exclude": sorted(set(names)),
            "include_seen": retriever.finder.keeps_seen(include_seen),
            **_then(then),
            **_allowed(filter, allowed),
            "users": len(rows),
            "users_sha256": hashlib.sha256(rows.numpy().tobytes()).hexdigest(),
            "part": part,
        }
        passing: dict[str, Any] = {} if filter is None else {"filter": filter}
        if stocked is not None:
            known = bundle.item_vocabulary.known(stocked)
            passing["only"] = [id for id in stocked if id in known]
        tasks = _tasks(retriever, then, plan | passing, rows, banned, part, everyone=users is None)
        prepare_parts(store, plan)

        def tell(parts: int) -> None:
            if on_progress is not None:
                on_progress(min(parts * part, len(rows)), len(rows))

        held = (retriever,) if then is None else (retriever, then.ranker)
        with holding(*held):
            notes, before = run_parts(store, Job(plan, recommend_part, tasks), engine or ThisProcess(), tell)
        end_parts(store, plan, notes, file)
    if second is not None:
        second.unordered = sum(note["unordered"] for note in notes)
        second.tell()
    return Written(len(rows), sum(note["rows"] for note in notes), min(before * part, len(rows)))


def _rows(retriever: Retriever, users: Path | str | None) -> Tensor:
    """The rows of the users to answer."""
    bundle = retriever.bundle
    if users is None:
        rows = torch.arange(FIRST_KNOWN, bundle.schema.num_users)
    else:
        with local_file(str(users)) as path:
            rows = listed_rows(bundle, path, "user")
    if not len(rows):
        raise InputError(f"{bundle.folder}: the bundle knows no users; there is nobody to recommend to")
    return rows


def _tasks(
    retriever: Retriever,
    then: Pipeline | None,
    plan: dict[str, Any],
    rows: Tensor,
    banned: Tensor,
    part: int,
    *,
    everyone: bool,
) -> list[dict[str, Any]]:
    """The arguments of each part."""
    same: dict[str, Any] = {
        "bundle": address_of(retriever),
        "digest": plan["bundle"],
        "device": str(retriever.bundle.device),
        "k": plan["k"],
        "banned": banned.tolist(),
        "include_seen": plan["include_seen"],
    }
    same |= {name: plan[name] for name in ("filter", "only") if name in plan}
    if then is not None:
        same["then"] = {**plan["then"], "address": address_of(then.ranker)}
    chunks = rows.split(part)
    return [
        {**same, "users": [int(chunk[0]), int(chunk[-1]) + 1]} if everyone else {**same, "listed": chunk.tolist()}
        for chunk in chunks
    ]


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
