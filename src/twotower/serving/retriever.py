"""Retriever: requests and answers in outside ids, from a bundle's model, index and vocabulary."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from twotower.core.errors import InputError, shown
from twotower.core.records import State, TopK
from twotower.data.log import NO_ITEM
from twotower.models.base import SumsOverHistory
from twotower.serving.answer import Answer, Similar
from twotower.serving.asking import asker_of, item_rows, seen, user_rows
from twotower.serving.bundle import Bundle
from twotower.serving.explaining import explained
from twotower.serving.finder import Finder, checked
from twotower.serving.from_file import similar_to_file
from twotower.serving.vocabulary import Record
from twotower.serving.why import Why, similar_by_sum

__all__ = ["TILE", "Answer", "Retriever", "Similar", "load"]

TILE = 1024
"""Users encoded and searched at a time."""


class Retriever:
    """Answer requests from a bundle. Loaded once, it serves several threads.

    An inner-product model is searched through the bundle's index, exactly if it holds none; any other model scores the
    whole catalogue.

    Attributes:
        bundle: what it answers from.
        finder: searches by rows of the bundle, for callers that hold rows.
    """

    def __init__(self, bundle: Bundle) -> None:
        self.bundle = bundle
        self.finder = Finder(bundle)

    def __repr__(self) -> str:
        name, items = self.bundle.manifest["model"]["name"], len(self.bundle.item_ids)
        return f"Retriever({name} on {self.bundle.manifest['data']}, {items:,} items)"

    def preload(self) -> None:
        """Load at once what the first requests would wait for: a server calls it before it listens."""
        self.bundle.user_vocabulary.preload()
        self.bundle.item_vocabulary.preload()
        self.recommend(
            history=self.bundle.item_vocabulary.ids(self.bundle.item_ids[:1].tolist()), k=1, include_seen=True
        )

    def recommend(
        self,
        user: object = None,
        *,
        history: Iterable[object] | None = None,
        features: Mapping[str, Any] | None = None,
        k: int = 10,
        exclude: Iterable[object] = (),
        include_seen: bool | None = None,
        filter: str | None = None,
        only: Iterable[object] | None = None,
    ) -> list[Answer]:
        """Find the best ``k`` items, best first, for a known user or for a history of item ids (oldest first).

        With both, the history is what the user did since the bundle was written: it follows the stored one. A user who
        is not known is then left aside with a warning.

        Ids are texts or numbers, alone or in any list: NumPy arrays and columns of data frames too. Items of the
        history or of ``exclude`` that the catalogue no longer has are left aside with a warning.

        What the user has seen (`Log.seen`: events of whatever label) is left out unless ``include_seen``; None: as the
        model was judged (``evaluation.mask_seen`` of its run). ``exclude``
        names further items to leave out. Fewer than ``k`` come back when the catalogue has no more. A history that is
        typed in takes place, for a model that reads the clock, at the time of the latest stored event; ``features`` are
        the raw columns of somebody who is not known, by name (None: missing), beside a history or alone.

        ``filter`` is an expression on columns of the items, such as ``genre = 'Comedy' and year >= 1990``
        (`twotower.serving.filters.parse.parse`); ``only`` are ids of items that alone may come back, such as those in
        stock.

        Raises:
            InputError: if neither ``user``, ``history`` nor ``features`` is given, ``k`` is below 1, the user is
                unknown and there is neither history nor features, the history of one who is not known is empty or
                holds nothing known and no features say more, or the filter is no expression on these columns.
        """
        allowed = self.finder.filters.allowed(filter, only)
        asker = asker_of(self.bundle, user, history, features)
        return self._answers(self.finder.found_for(asker, k, exclude, include_seen=include_seen, allowed=allowed))

    def recommend_many(
        self,
        users: Iterable[object],
        *,
        k: int = 10,
        include_seen: bool | None = None,
        filter: str | None = None,
        only: Iterable[object] | None = None,
    ) -> list[list[Answer]]:
        """Recommend for many known users at once: one list a user, in order.

        Raises:
            InputError: if a user is unknown, ``k`` is below 1, or the filter is none.
        """
        rows, allowed = user_rows(self.bundle, users), self.finder.filters.allowed(filter, only)
        most, nothing = self.finder.limit(k, allowed), rows[:0]
        answers: list[list[Answer]] = []
        for tile in rows.split(TILE) if len(rows) else ():
            found = self.finder.found_many(tile, most, nothing, include_seen=include_seen, allowed=allowed)
            answers += self.finder.answers(found)
        return answers

    def rank(
        self,
        user: object = None,
        candidates: Iterable[object] = (),
        *,
        history: Iterable[object] | None = None,
        features: Mapping[str, Any] | None = None,
        k: int | None = None,
    ) -> list[Answer]:
        """Rank candidates (None: all) for a known user or a history by the whole model; return the best ``k``.

        Equal scores keep the order of the catalogue.

        Raises:
            InputError: as `recommend`; if nothing is known of the user, a candidate is unknown or named twice, there is
                none, or ``k`` is below 1.
        """
        names = self.bundle.item_vocabulary.texts(candidates)
        items = item_rows(self.bundle, names)
        if not len(items):
            raise InputError("the list of candidates is empty; name at least one item")
        if len(items.unique()) < len(items):
            twice = next(name for name in names if names.count(name) > 1)
            raise InputError(f"candidate {shown(twice)} is named more than once; name each candidate once")
        asker = asker_of(self.bundle, user, history, features)
        return self._answers(self.finder.ordered(asker, items, len(items) if k is None else k))

    def similar(
        self, item: object, *, k: int = 10, filter: str | None = None, only: Iterable[object] | None = None
    ) -> list[Answer]:
        """Find the ``k`` items whose states have the largest cosine with a known item's, itself left out.

        A model that sums over the history (`twotower.models.base.SumsOverHistory`, such as ``item_cosine`` and
        ``ease``) has no such states: the score is then what the item adds to the other one's when it is in a history.
        Items to which it adds nothing are left out, so that fewer than ``k`` may come back. ``filter`` and ``only``
        are those of `recommend`.

        Raises:
            InputError: if the item is unknown, ``k`` is below 1, the filter is none, or the model's states are single
                numbers.
        """
        row, most = item_rows(self.bundle, [item]), checked(k, len(self.bundle.item_ids) - 1)
        allowed, model = self.finder.filters.allowed(filter, only), self.finder.model
        allow = None if allowed is None else allowed.mask
        if isinstance(model, SumsOverHistory):
            return self._answers(similar_by_sum(model, int(row), self.bundle.item_ids, most, allow))
        return self._answers(self.finder.neighbours.of_ids(row, most, allow))

    def explain(
        self,
        user: object = None,
        items: Iterable[object] = (),
        *,
        history: Iterable[object] | None = None,
        features: Mapping[str, Any] | None = None,
    ) -> list[Why]:
        """Return why each of ``items`` has its score for a user or a history: the share of each item of the history.

        The shares of a model that sums over the history (``item_cosine``, ``ease``, ``item_lists``) are exact and add
        up to the score. Any other model is asked again without each item of the history that it reads: a share is how
        much the score falls then.

        Args:
            user: a known user, as for `recommend`.
            items: ids of known items, such as those that `recommend` found.
            history: item ids, oldest first, as for `recommend`.
            features: as for `recommend`.

        Raises:
            InputError: as `recommend`; if an item is unknown, or none is named.
        """
        names = self.bundle.item_vocabulary.texts(items)
        if not names:
            raise InputError("the list of items is empty; name those to explain")
        asker = asker_of(self.bundle, user, history, features)
        return explained(self.bundle, self.finder.model, asker.users, names)

    def similar_table(
        self,
        path: Path | str,
        *,
        k: int = 20,
        among: str = "catalogue",
        filter: str | None = None,
        only: Iterable[object] | None = None,
    ) -> list[Similar]:
        """Find the ``k`` items nearest to each row of a file of items, in the file's order.

        The file is CSV, TSV, JSON lines or Parquet.

        The file has the columns of the raw item table that the model was trained on. A row whose id is in the catalogue
        has its stored state; any other is encoded as an unknown item with its columns. ``among`` says where neighbours
        come from: the "catalogue", or the "file" itself, whose columns then come with the answers. No item is its own
        neighbour. ``filter`` and ``only`` are those of `recommend`, for neighbours of the catalogue.

        Raises:
            InputError: if the file cannot be read as items, its new rows tell the model nothing, ``among`` is neither,
                ``k`` is below 1, or the filter is none.
        """
        return similar_to_file(self.finder, Path(path), k, among, self.finder.filters.allowed(filter, only))

    def seen(self, user: object) -> list[Record]:
        """Return what a known user has seen: items of all stored events, of whatever label, latest first, each once.

        Raises:
            InputError: if the user is unknown.
        """
        history = seen(self.bundle, user_rows(self.bundle, [user]))[0]
        return self.bundle.item_vocabulary.records(
            [row for row in dict.fromkeys(history.flip(0).tolist()) if row != NO_ITEM]
        )

    def items(self, ids: Iterable[object]) -> list[Record]:
        """Return what is known of these items, in order.

        Raises:
            InputError: if an id is unknown.
        """
        return self.bundle.item_vocabulary.records(self.bundle.item_vocabulary.rows(ids))

    def item_vectors(self) -> tuple[list[str], NDArray[np.float32]]:
        """Return the ids of all items and their vectors, float32 [items, dim], in the order of the catalogue.

        Raises:
            InputError: if the model's item states are no vectors.
        """
        return self.bundle.item_vocabulary.ids(self.bundle.item_ids.tolist()), self._vectors(self.bundle.item_states)

    @torch.inference_mode()
    def user_vectors(self, users: Iterable[object]) -> tuple[list[str], NDArray[np.float32]]:
        """Return the ids of known users and their vectors, float32 [users, dim], in the order given.

        Raises:
            InputError: if a user is unknown, none is named, or the model's user states are no vectors.
        """
        ids = self.bundle.user_vocabulary.texts(users)
        if not ids:
            raise InputError("the list of users is empty; name at least one")
        rows = user_rows(self.bundle, ids)
        tiles = [self._vectors(self.finder.model.encode_users(self.bundle.users(tile))) for tile in rows.split(TILE)]
        return ids, np.concatenate(tiles)

    def _vectors(self, states: State) -> NDArray[np.float32]:
        if not isinstance(states, Tensor) or states.ndim != 2:
            name = self.bundle.manifest["model"]["name"]
            raise InputError(f"model '{name}' has no vectors: its states are not one list of numbers a row")
        return states.float().cpu().numpy()

    def _answers(self, found: TopK) -> list[Answer]:
        return self.finder.answers(found)[0]


def load(folder: Path | str, device: torch.device | str = "cpu", *, verify: bool = True) -> Retriever:
    """Load the retriever of a bundle; also known as ``twotower.load``.

    Raises:
        InputError: if the folder is not a bundle, is of a newer format, or, with ``verify``, has a changed file.
    """
    return Retriever(Bundle.load(folder, device, verify=verify))
