"""Common part of the engines that keep vectors: ids, exclusions, filters, padding; a subclass speaks to one."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from jaxtyping import Int
from numpy.typing import NDArray
from torch import Tensor

from twotower.core.conditions import Condition, columns_of
from twotower.core.errors import InputError
from twotower.core.records import State, TopK
from twotower.index.abilities import ItemColumn
from twotower.index.approximate_rows import plain_vectors
from twotower.index.approximate_search import FEW, SHARE
from twotower.index.checks import allowed_among, check_question, check_there, nothing, sorted_ids
from twotower.index.saved import saved_index, write_note
from twotower.index.store_answers import BATCH, SPARE, Scored, Where, excluded_ids, put_best

IDS = "ids.npy"


class StoreIndex(ABC):
    """Find inner products through an engine that stores ids, vectors and columns.

    Args:
        settings: as its class was called.
        columns: names of the item columns that the engine filters by itself, with commas between.

    Attributes:
        effort: name of the setting that trades recall for time in a search.
        least_effort: where a search for the right effort begins.
    """

    effort = "ef_search"
    least_effort = 8

    def __init__(self, settings: dict[str, Any], columns: str) -> None:
        for name, value in settings.items():
            if isinstance(value, int) and value < 1:
                raise InputError(f"index.{name} = {value}: at least 1 is wanted")
        self._settings = settings
        self._names = tuple(name for part in columns.split(",") if (name := part.strip()))
        self._ids = torch.zeros(0, dtype=torch.int64)
        self._bare = self._ids
        self._kinds: dict[str, tuple[str, bool]] = {}
        self._dim = 0
        self._device = torch.device("cpu")

    @abstractmethod
    def _create(self, dim: int) -> None:
        """Begin an empty store for vectors of this width."""

    @abstractmethod
    def _put(self, ids: list[int], vectors: NDArray[np.float32]) -> None:
        """Store vectors under ids; one that is there is replaced, and its columns go."""

    @abstractmethod
    def _finish(self) -> None:
        """Wait until what was put is indexed."""

    @abstractmethod
    def _drop(self, ids: list[int]) -> None:
        """Remove items that are there."""

    @abstractmethod
    def _fill(self, ids: list[int], columns: Mapping[int, ItemColumn]) -> None:
        """Store columns, by their place among the names, and index them."""

    @abstractmethod
    def _ask(self, query: list[float], k: int, where: Where) -> Scored:
        """Return at most ``k`` ids and scores."""

    @abstractmethod
    def _takes(self, condition: Condition, kinds: Mapping[str, tuple[str, bool]]) -> bool:
        """Return whether the engine can answer a condition on columns of these kinds."""

    @abstractmethod
    def _keep(self, folder: Path) -> dict[str, Any]:
        """Write the store, if it is a file; return what finds it again."""

    @abstractmethod
    def _find(self, folder: Path, note: Mapping[str, Any]) -> None:
        """Open what `_keep` wrote."""

    def __len__(self) -> int:
        """Return how many items there are."""
        return len(self._ids)

    @property
    def is_exact(self) -> bool:
        """Return False: some of the best may be missed."""
        return False

    @property
    def settings(self) -> dict[str, Any]:
        """Return the settings it was called with, defaults included."""
        return dict(self._settings)

    def set_effort(self, value: int) -> None:
        """Search with another effort from the next call on; nothing is built again."""
        self._settings = self._settings | {self.effort: value}

    def most_effort(self) -> int:
        """Return the effort beyond which a scan is quicker."""
        return max(self.least_effort, len(self) // 4)

    @property
    def columns(self) -> tuple[str, ...]:
        """Return the names of the columns that it wants."""
        return self._names

    def build(self, item_states: State, ids: Int[Tensor, " items"]) -> None:
        """Index ``item_states`` under ``ids``, in place of what was there.

        Raises:
            InputError: if the states are no finite vectors, their number is not that of the ids, an id comes twice or
                is below 0; or if the engine does not answer.
        """
        vectors = plain_vectors(item_states, "item")
        self._device = ids.device
        ids, order = sorted_ids(item_states, ids)
        self._ids, self._bare, self._kinds = ids.cpu(), ids.cpu(), {}
        self._dim = vectors.shape[1]
        self._create(self._dim)
        self._send(self._ids, vectors[order.cpu().numpy()])

    def add(self, item_states: State, ids: Int[Tensor, " items"]) -> None:
        """Add items; an id that is there is replaced.

        Raises:
            InputError: as `build` does, or if the vectors are of another width; nothing has changed then.
        """
        if not len(self):
            return self.build(item_states, ids)
        vectors = plain_vectors(item_states, "item")
        self._check_width(vectors, "item")
        ids, order = sorted_ids(item_states, ids)
        ids = ids.cpu()
        self._send(ids, vectors[order.cpu().numpy()])
        self._ids = torch.cat([self._ids, ids]).unique()
        self._bare = torch.cat([self._bare, ids]).unique()
        return None

    def remove(self, ids: Int[Tensor, " items"]) -> None:
        """Remove items.

        Raises:
            InputError: if an id is not there; nothing has changed then.
        """
        ids = ids.cpu()
        check_there(ids, self._ids)
        self._drop(ids.tolist())
        self._ids = self._ids[~torch.isin(self._ids, ids)]
        self._bare = self._bare[~torch.isin(self._bare, ids)]

    def set_columns(self, ids: Int[Tensor, " items"], columns: Mapping[str, ItemColumn]) -> None:
        """Take the columns of these items, which are there.

        Raises:
            InputError: if an id is not there.
        """
        ids = ids.cpu()
        check_there(ids, self._ids)
        self._kinds |= {name: (column.kind, column.is_list) for name, column in columns.items()}
        self._fill(ids.tolist(), {self._names.index(name): column for name, column in columns.items()})
        self._bare = self._bare[~torch.isin(self._bare, ids)]

    def answers(self, condition: Condition) -> bool:
        """Return whether `search_where` can answer a condition: every item has its columns, and the engine takes it."""
        there = columns_of(condition) <= set(self._kinds) and not len(self._bare)
        return there and self._takes(condition, self._kinds)

    def search(
        self,
        user_states: State,
        k: int,
        exclude: Int[Tensor, "users excluded"] | None = None,
        allow: Tensor | None = None,
    ) -> TopK:
        """Find the best ``k`` items a user, nearly; ``exclude`` and ``allow`` are those of `Index.search`.

        Raises:
            InputError: if ``k`` is below 1, ``exclude`` is not one row a user, ``allow`` neither mask nor ids, or the
                user states are no finite vectors of the items' width.
        """
        if allow is None:
            return self._search(user_states, k, exclude, Where(), len(self))
        passes = allowed_among(self._ids, allow.cpu())
        count = int(passes.sum())
        if count > len(self) // 2:
            where = Where(without=self._ids[~passes].tolist())
        else:
            exact = count <= max(FEW, SHARE * len(self))
            where = Where(among=self._ids[passes].tolist(), exact=exact)
        return self._search(user_states, k, exclude, where, count)

    def search_where(
        self, user_states: State, k: int, exclude: Int[Tensor, "users excluded"] | None, condition: Condition
    ) -> TopK:
        """Find the best ``k`` items a user among those that a condition lets through; else as `search`."""
        return self._search(user_states, k, exclude, Where(condition), len(self))

    def save(self, folder: Path) -> None:
        """Write ids, settings and what finds the store again into ``folder``; never an address or a token."""
        np.save(folder / IDS, self._ids.numpy())
        kept = self._keep(folder) if self._dim else {}
        more = {"columns": self._kinds, "bare": self._bare.tolist()}
        write_note(folder, type(self), self.settings, dim=self._dim, kept=kept, **more)

    @classmethod
    def load(cls, folder: Path, *, device: torch.device | str = "cpu") -> StoreIndex:
        """Open what `save` wrote.

        Raises:
            InputError: if a file is missing or is not of this kind of index, or the engine does not answer.
        """
        with saved_index(folder, cls) as note:
            index = cls(**note["settings"])
            index._ids = torch.from_numpy(np.load(folder / IDS, allow_pickle=False))
            index._bare = torch.tensor(note["bare"], dtype=torch.int64)
            index._kinds = {name: (kind, is_list) for name, (kind, is_list) in note["columns"].items()}
            index._dim, kept = int(note["dim"]), dict(note["kept"])
        if index._dim:
            index._find(folder, kept)
        index.to(device)
        return index

    def to(self, device: torch.device | str) -> None:
        """Return answers on ``device`` from now on."""
        self._device = torch.device(device)

    def _send(self, ids: Tensor, vectors: NDArray[np.float32]) -> None:
        for start in range(0, len(ids), BATCH):
            part = slice(start, start + BATCH)
            self._put(ids[part].tolist(), vectors[part])
        self._finish()

    def _check_width(self, vectors: NDArray[np.float32], side: str) -> None:
        if vectors.shape[1] != self._dim:
            raise InputError(
                f"index: {side} vectors of {vectors.shape[1]} numbers, but it holds vectors of {self._dim}"
            )

    def _search(self, states: State, k: int, exclude: Tensor | None, where: Where, most: int) -> TopK:
        """Ask for one user after the other; where fewer than may be come back, once more without the graph."""
        queries = plain_vectors(states, "user")
        check_question(len(queries), k, exclude)
        answers = TopK(*nothing(len(queries), k, torch.device("cpu")))
        if most and len(queries):
            self._check_width(queries, "user")
        for user, query in enumerate(queries.tolist() if most else ()):
            asked = replace(where, without=[*where.without, *excluded_ids(exclude, user)])
            wanted = min(k, most)
            found = self._known(self._ask(query, wanted + SPARE, asked))
            if len(found) < wanted and not where.exact:
                found = self._known(self._ask(query, wanted + SPARE, replace(asked, exact=True)))
            put_best(answers, user, found)
        return TopK(answers.scores.to(self._device), answers.ids.to(self._device))

    def _known(self, found: Scored) -> Scored:
        """Leave out what another holder of the same store has added."""
        there = torch.isin(torch.tensor([id for id, _ in found], dtype=torch.int64), self._ids).tolist()
        return [pair for pair, here in zip(found, there, strict=True) if here]
