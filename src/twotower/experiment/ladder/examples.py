"""A few users of a bundle: what each has seen last, and what is recommended."""

from __future__ import annotations

from pathlib import Path
from typing import Any, NamedTuple

from twotower.core.records import FIRST_KNOWN
from twotower.data.dataset import Dataset
from twotower.serving.columns import cell, telling
from twotower.serving.retriever import load

USERS, ITEMS = 10, 5


class Example(NamedTuple):
    """Hold one user, with items by their most informative column."""

    user: str
    events: int
    seen: list[str]
    """Latest first."""
    answers: list[str]
    """Best first."""


def examples(bundle: Path, dataset: Dataset, *, mask_seen: bool) -> list[Example]:
    """Choose ten users from those with the fewest events to those with the most, in even steps of their rank.

    Args:
        bundle: that answers.
        dataset: whose users are asked.
        mask_seen: whether what a user has seen is left out.
    """
    retriever = load(bundle, verify=False)
    lengths = dataset.log.lengths[FIRST_KNOWN:].cpu()
    order = lengths.argsort(stable=True)
    order = order[lengths[order] > 0]
    places = [round(place * (len(order) - 1) / max(1, USERS - 1)) for place in range(USERS)]
    rows = [int(order[place]) + FIRST_KNOWN for place in dict.fromkeys(places)]
    users = retriever.bundle.user_vocabulary.ids(rows)
    k = min(ITEMS, len(retriever.bundle.item_ids))
    answers = retriever.recommend_many(users, k=k, include_seen=not mask_seen)
    return [
        Example(
            user,
            int(dataset.log.lengths[row]),
            [_words(record.id, record.columns) for record in retriever.seen(user)[:ITEMS]],
            [_words(answer.id, answer.columns) for answer in given],
        )
        for user, row, given in zip(users, rows, answers, strict=True)
    ]


def _words(id: str, columns: dict[str, Any]) -> str:
    names = telling([columns], limit=1)
    text = cell(columns[names[0]]) if names else ""
    return f"{text} ({id})" if text else id
