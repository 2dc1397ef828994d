"""Finding of rows: a bundle's model and index, prepared once for all threads, and their answers in outside ids."""

from __future__ import annotations

import logging
import threading
from collections.abc import Iterable
from functools import cached_property
from typing import SupportsIndex

import numpy as np
import torch
from torch import Tensor

from twotower.core.errors import InputError, shown
from twotower.core.records import PADDING, State, TopK, Users
from twotower.data.log import NO_ITEM
from twotower.index.abilities import FiltersColumns
from twotower.index.base import AnyIndex
from twotower.index.brute_force import BruteForceIndex
from twotower.index.exact import ExactIndex
from twotower.models.base import Model, prepare_serving
from twotower.ops.topk import top_k
from twotower.serving.answer import Answer, Answers
from twotower.serving.asking import Asker, excluded_rows, seen
from twotower.serving.bundle import Bundle
from twotower.serving.filters.allowed import Allowed, Filters
from twotower.serving.neighbours import Neighbours, directions

log = logging.getLogger(__name__)


class Finder:
    """Find rows of the catalogue for users, by the bundle's index, its model and the cosine of its states."""

    def __init__(self, bundle: Bundle) -> None:
        self.bundle = bundle
        self._lock = threading.RLock()

    @property
    def model(self) -> Model:
        """Return the bundle's model, with what no request changes computed."""
        with self._lock:  # of several threads one prepares, and the others wait for it
            return self._prepared_model

    @property
    def index(self) -> AnyIndex:
        """Return the bundle's index; where it holds none, an exact one over its item states."""
        with self._lock:
            return self._built_index

    @property
    def neighbours(self) -> Neighbours:
        """Return what finds items by the cosine of their states."""
        with self._lock:
            return self._built_neighbours

    @cached_property
    def filters(self) -> Filters:
        """Return what finds the items that pass a filter."""
        return Filters(self.bundle)

    def limit(self, k: int, allowed: Allowed | None = None) -> int:
        """Return how many items may come back for ``k``: all of them, with a warning, where there are fewer.

        Raises:
            InputError: if ``k`` is no whole number or below 1.
        """
        return checked(k, len(self.bundle.item_ids) if allowed is None or not allowed.number else allowed.number)

    def keeps_seen(self, include_seen: bool | None) -> bool:
        """Return whether users get what they have seen, too; None: as the bundle was evaluated."""
        return not self.bundle.mask_seen if include_seen is None else include_seen

    def found_for(
        self,
        asker: Asker,
        k: int,
        exclude: Iterable[object] = (),
        *,
        include_seen: bool | None = None,
        allowed: Allowed | None = None,
    ) -> TopK:
        """Return the rows of the best ``k`` items for one request, without the items of these ids.

        Raises:
            InputError: if ``k`` is below 1.
        """
        banned = excluded_rows(self.bundle, exclude)[None]
        banned = banned if self.keeps_seen(include_seen) else torch.cat([banned, asker.seen], dim=1)
        return self.found(asker.users, self.limit(k, allowed), banned, allowed)

    def found_many(
        self,
        users: Tensor,
        k: int,
        excluded: Tensor,
        *,
        include_seen: bool | None = None,
        allowed: Allowed | None = None,
    ) -> TopK:
        """Return the rows of the best ``k`` items of many known users.

        Args:
            users: rows of known users, int64 [users].
            k: as `limit` returned it.
            excluded: rows that nobody gets, int64 [excluded].
            include_seen: whether users get what they have seen, too; None: as the bundle was evaluated.
            allowed: what alone may come back, as `Filters.allowed` returned it.
        """
        banned = excluded.expand(len(users), -1)
        if not self.keeps_seen(include_seen):
            banned = torch.cat([banned, seen(self.bundle, users)], dim=1)
        return self.found(self.bundle.users(users), k, banned, allowed)

    @torch.inference_mode()
    def state_of(self, row: int) -> tuple[State, Tensor]:
        """Return a known user's state, and the rows seen, padded with -1: int64 [1, most]."""
        rows = torch.tensor([row], dtype=torch.int64, device=self.bundle.device)
        return self.model.encode_users(self.bundle.users(rows)), seen(self.bundle, rows)

    @torch.inference_mode()
    def nearest(self, states: State, k: int, banned: Tensor) -> TopK:
        """Return the rows of the best ``k`` items by these user states.

        Args:
            states: of users.
            k: as `limit` returned it.
            banned: rows that each user does not get, int64 [users, most], -1 where there are no more.
        """
        return self.index.search(states, k, banned)

    @torch.inference_mode()
    def found(self, users: Users, k: int, banned: Tensor, allowed: Allowed | None = None) -> TopK:
        """Return the rows of the best ``k`` items a user, without the ``banned`` ones (int64 [users, n])."""
        states, index = self.model.encode_users(users), self.index
        if allowed is None or not allowed.number:
            return index.search(states, k, banned, None if allowed is None else allowed.mask)
        if allowed.condition is not None and isinstance(index, FiltersColumns) and index.answers(allowed.condition):
            return index.search_where(states, k, banned, allowed.condition)
        return index.search(states, k, banned, allowed.mask)

    @torch.inference_mode()
    def ordered(self, asker: Asker, items: Tensor, k: int) -> TopK:
        """Return the best ``k`` of these item rows (int64 [candidates], no two alike) for one request.

        Raises:
            InputError: if nothing is known of the user, or ``k`` is below 1.
        """
        if not self.bundle.schema.user_features and not (asker.users.history != PADDING).any():
            raise InputError("nothing is known of this user: no history, and the data has no user features; give one")
        k = checked(k, len(items))
        items = items.sort().values
        rows, model = torch.searchsorted(self.bundle.item_ids, items), self.model
        best = top_k(model.score_among(model.encode_users(asker.users), self.bundle.item_states, rows).float(), k)
        return TopK(best.scores, items[best.ids])

    def answers(self, found: TopK) -> list[list[Answer]]:
        """Return what was found in outside ids, a list a user, without the places that stayed empty."""
        ids = found.ids.tolist()
        wanted = sorted({row for rows in ids for row in rows if row != NO_ITEM})
        items = dict(zip(wanted, self.bundle.item_vocabulary.records(wanted), strict=True))
        answers: list[list[Answer]] = []
        for rows, scores in zip(ids, found.scores.tolist(), strict=True):
            pairs = ((items[row], score) for row, score in zip(rows, scores, strict=True) if row in items)
            answers.append(Answers(Answer(item.id, score, item.columns) for item, score in pairs))
        return answers

    @cached_property
    def _prepared_model(self) -> Model:
        prepare_serving(self.bundle.model)
        return self.bundle.model

    @cached_property
    def _built_index(self) -> AnyIndex:
        bundle = self.bundle
        if bundle.index is not None:
            return bundle.index
        index: AnyIndex = ExactIndex() if bundle.model.inner_product else BruteForceIndex(bundle.model)
        index.build(bundle.item_states, bundle.item_ids)
        return index

    @cached_property
    def _built_neighbours(self) -> Neighbours:
        states = self.bundle.model.item_store.whole(self.bundle.item_states)
        return Neighbours(directions(states), self.bundle.item_ids)


def checked(k: int, most: int) -> int:
    """Return how many items may come back for ``k`` of ``most``: all of them, with a warning, where there are fewer.

    Raises:
        InputError: if ``k`` is no whole number or below 1, or there is no item.
    """
    if not isinstance(k, SupportsIndex | float | np.floating) or k % 1 != 0:
        raise InputError(f"k is a whole number, got {shown(k)}")
    if k < 1:
        raise InputError(f"k must be at least 1, got {k}")
    if most < 1:
        raise InputError("there is no other item to choose from")
    if k > most:
        log.warning("k = %d, but there are %d items to choose from: all of them come back", k, most)
    return min(int(k), most)
