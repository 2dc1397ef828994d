"""Answers by popularity, for users with the same score for every item."""

from __future__ import annotations

import logging

import torch
from jaxtyping import Int
from torch import Tensor

from twotower.core.records import TopK
from twotower.index.checks import allowed_among

log = logging.getLogger(__name__)


class Popular:
    """Hold how many events each item has, and put the items with most of them in answers that say nothing.

    Args:
        events: of each item, by its id; an id beyond them has none.
    """

    def __init__(self, events: Int[Tensor, " ids"]) -> None:
        self.events = events.cpu()
        self._said = False

    def replace(
        self, found: TopK, empty: Tensor, ids: Int[Tensor, " items"], exclude: Tensor | None, allow: Tensor | None
    ) -> None:
        """Put the most popular items, equal ones by the lower id, in rows of ``found`` whose scores are all the same.

        Says so once. Scores stay as the model gave them.

        Args:
            found: on the CPU; changed.
            empty: bool [users]: rows that are looked at.
            ids: of the items, ascending.
            exclude: ids that each user does not get.
            allow: items that alone may come back.
        """
        alike = empty & (found.scores[:, 0] == found.scores[:, -1]) & (found.ids[:, -1] >= 0)
        if not bool(alike.any()):
            return
        if not self._said:
            self._said = True
            log.warning(
                "the lists of %d of %d users hold no item and the model scores all items alike: such users get the "
                "most popular items (said once); were all scores 0 in training?",
                int(alike.sum()),
                len(alike),
            )
        there = ids if allow is None else ids[allowed_among(ids, allow.cpu())]
        known = there < len(self.events)
        events = torch.where(known, self.events[torch.where(known, there, 0)], 0)
        order = there[events.argsort(descending=True, stable=True)]
        for user in alike.nonzero()[:, 0].tolist():
            fresh = order if exclude is None else order[~torch.isin(order, exclude[user].cpu())]
            found.ids[user] = fresh[: found.ids.shape[1]]
