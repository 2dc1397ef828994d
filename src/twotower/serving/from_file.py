"""Neighbours of the rows of a file of items, among the catalogue or the file itself."""

from __future__ import annotations

from pathlib import Path

import torch

from twotower.core.errors import InputError, unknown_name
from twotower.core.records import UNKNOWN
from twotower.data.log import NO_ITEM
from twotower.serving.answer import Answer, Similar
from twotower.serving.filters.allowed import Allowed
from twotower.serving.finder import Finder, checked
from twotower.serving.neighbours import Neighbours
from twotower.serving.table import raw_columns, read_table

AMONG = ("catalogue", "file")


def similar_to_file(finder: Finder, path: Path, k: int, among: str, allowed: Allowed | None = None) -> list[Similar]:
    """Find the ``k`` items nearest to each row of a file: see `twotower.serving.retriever.Retriever.similar_table`.

    Raises:
        InputError: if the file cannot be read as items, its new rows tell the model nothing, ``among`` is neither,
            or ``k`` is below 1; if a filter is given where the neighbours come from the file.
    """
    if among not in AMONG:
        raise unknown_name("place for neighbours", among, AMONG)
    if allowed is not None and among == "file":
        raise InputError("a filter chooses among the catalogue; with neighbours from the file, leave it out")
    bundle = finder.bundle
    table = read_table(path, bundle, finder.neighbours)
    if among == "catalogue":
        most, leave_out = len(bundle.item_ids), table.rows.where(table.rows != UNKNOWN, NO_ITEM)
        mask = None if allowed is None else allowed.mask
        answers = finder.answers(finder.neighbours.of_vectors(table.vectors, checked(k, most), leave_out, mask))
    else:
        places = torch.arange(len(table.ids), device=bundle.device)
        found = Neighbours(table.vectors, places).of_ids(places, checked(k, len(places) - 1))
        known = bundle.item_vocabulary.records(table.rows[table.rows != UNKNOWN].tolist())
        stored = {item.id: item.columns for item in known}
        given = raw_columns(path, bundle)
        items = [(id, {**stored.get(id, {}), **own}) for id, own in zip(table.ids, given, strict=True)]
        answers = [
            [Answer(items[at][0], score, items[at][1]) for at, score in zip(*pair, strict=True)]
            for pair in zip(found.ids.tolist(), found.scores.tolist(), strict=True)
        ]
    return [Similar(id, part) for id, part in zip(table.ids, answers, strict=True)]
