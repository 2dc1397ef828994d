"""Explanations of recommendations in outside ids."""

from __future__ import annotations

from collections.abc import Sequence

import torch

from twotower.core.records import FIRST_KNOWN, Users
from twotower.models.base import Model
from twotower.serving.asking import item_rows
from twotower.serving.bundle import Bundle
from twotower.serving.why import Cause, Why, shares_of


def explained(bundle: Bundle, model: Model, users: Users, names: Sequence[str]) -> list[Why]:
    """Return why each of these items has its score for one user: see `Retriever.explain`.

    Raises:
        InputError: if an item is unknown.
    """
    rows = item_rows(bundle, names)
    order = bundle.item_ids.argsort()
    places = order[torch.searchsorted(bundle.item_ids[order], rows)]
    found = shares_of(model, users, bundle.item_states, places)
    read = [(at, row) for at, row in enumerate(found.history.tolist()) if row >= FIRST_KNOWN]
    records = bundle.item_vocabulary.records([row for _, row in read])
    told = []
    for place, (name, score) in enumerate(zip(names, found.scores.tolist(), strict=True)):
        shares = found.shares[:, place].tolist()
        causes = [
            Cause(record.id, shares[at], record.columns)
            for (at, _), record in zip(read, records, strict=True)
            if shares[at] != 0.0
        ]
        told.append(Why(name, score, found.exact, sorted(causes, key=lambda cause: -cause.share)))
    return told
