"""Items that may come back for a filter and a list of ids, kept from one request to the next."""

from __future__ import annotations

import logging
import threading
from collections import OrderedDict
from collections.abc import Iterable
from typing import NamedTuple

import torch
from torch import Tensor

from twotower.core.conditions import Condition
from twotower.core.errors import shown
from twotower.serving.bundle import Bundle
from twotower.serving.filters.columns import ItemColumns
from twotower.serving.filters.evaluate import check, passing
from twotower.serving.filters.parse import parse

log = logging.getLogger(__name__)

KEPT = 32
"""Filters whose answers are kept: a byte an item each."""


class Allowed(NamedTuple):
    """Hold what alone may come back."""

    mask: Tensor
    """Of rows of items: bool [rows]."""
    number: int
    """Items that pass."""
    condition: Condition | None
    """What the mask says, where no list of ids is in it too."""


class Filters:
    """Find the items that pass filters; several threads may ask."""

    def __init__(self, bundle: Bundle) -> None:
        self._bundle = bundle
        self.columns = ItemColumns(bundle.item_vocabulary.path, bundle.schema.num_items)
        self._kept: OrderedDict[Condition, Allowed] = OrderedDict()
        self._lock = threading.Lock()

    def allowed(self, filter: str | None, only: Iterable[object] | None = None) -> Allowed | None:
        """Return what may come back; None: every item. Nothing that passes, and ids that are unknown, are a warning.

        Args:
            filter: an expression: see `twotower.serving.filters.parse.parse`.
            only: ids of items that alone may come back, such as those in stock.

        Raises:
            InputError: if the expression is none, or does not fit the columns of the items; names the place.
        """
        if filter is None and only is None:
            return None
        found = None if filter is None else self._of_condition(parse(filter))
        if only is not None:
            mask = self._listed(only)
            mask = mask if found is None else mask & found.mask
            found = Allowed(mask, int(mask.sum()), None)
        assert found is not None, "a filter or a list was given"
        if not found.number:
            log.warning("no item passes the filter, so that none comes back")
        return found

    def _of_condition(self, condition: Condition) -> Allowed:
        with self._lock:
            if condition in self._kept:
                self._kept.move_to_end(condition)
                return self._kept[condition]
        check(condition, self.columns)
        rows = torch.from_numpy(passing(condition, self.columns)).to(self._bundle.device)
        mask = torch.zeros_like(rows)
        mask[self._bundle.item_ids] = rows[self._bundle.item_ids]
        found = Allowed(mask, int(mask.sum()), condition)
        with self._lock:
            self._kept[condition] = found
            while len(self._kept) > KEPT:
                self._kept.popitem(last=False)
        return found

    def _listed(self, only: Iterable[object]) -> Tensor:
        vocabulary = self._bundle.item_vocabulary
        texts = list(dict.fromkeys(vocabulary.texts(only)))
        known = vocabulary.known(texts)
        if missing := [text for text in texts if text not in known]:
            log.warning(
                "%d of %d items that may come back are not in the catalogue, such as %s",
                len(missing),
                len(texts),
                shown(missing[0], 40),
            )
        mask = torch.zeros(self._bundle.schema.num_items, dtype=torch.bool, device=self._bundle.device)
        mask[torch.tensor(list(known.values()), dtype=torch.int64, device=mask.device)] = True
        return mask
