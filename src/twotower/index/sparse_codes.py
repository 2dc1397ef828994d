"""Sparse codes of item vectors, searched by their lists: the index of the name ``sparse_codes``."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import torch
from jaxtyping import Int
from safetensors.torch import load_file, save_file
from torch import Tensor

from twotower.core.errors import InputError
from twotower.core.files import replacing_file
from twotower.core.records import State, TopK
from twotower.core.states import rows
from twotower.index.checks import check_question, nothing
from twotower.index.postings import Postings
from twotower.index.postings_search import search_postings
from twotower.index.saved import saved_index, write_note
from twotower.index.scan import Scan, inner_product
from twotower.index.short_lists import WholeCatalogue, on_cpu
from twotower.ops.sparse_autoencoder import Directions, encode, fit_directions
from twotower.ops.topk import top_k

DIRECTIONS = "directions.safetensors"
CODES_A_NUMBER = 8
"""Codes by default, for each number of a vector."""


class SparseCodesIndex(Scan):
    """Search item vectors as a few numbers over many learned directions, and rank what comes out by the vectors.

    A sparse autoencoder, fitted to the items when they are indexed, turns each into ``active`` codes with a value; each
    code has a list of its items. A request reads the lists of the ``read`` directions with the largest inner product
    with the user: the sum over them is the inner product with the items as they are restored, as far as these
    directions carry it. The ``rerank`` · k largest sums are scored again by the vectors.

    A user whose lists hold fewer than k items that may come back is answered by a scan of all items, and so is a filter
    that lets few items through. Items that are added are encoded by the directions that are there.

    Source: CompresSAE (Kasalický et al., RecSys 2025); see `twotower.ops.sparse_autoencoder`. Difference: users are not
    encoded, since they are not where items are.

    Args:
        codes: directions; 0: eight for each number of a vector.
        active: codes of an item.
        read: lists that a request reads: its effort.
        rerank: items that are scored by their vectors, in multiples of k.
        seed: of the autoencoder.

    Raises:
        InputError: if a setting but ``codes`` and ``seed`` is below 1.
    """

    effort = "read"
    least_effort = 2

    def __init__(self, *, codes: int = 0, active: int = 16, read: int = 32, rerank: int = 4, seed: int = 0) -> None:
        super().__init__(inner_product)
        settings = {"codes": codes, "active": active, "read": read, "rerank": rerank, "seed": seed}
        for name, value in settings.items():
            least = 0 if name in ("codes", "seed") else 1
            if value < least:
                raise InputError(f"index.{name} = {value}: at least {least} is wanted")
        self._settings = settings
        self._directions: Directions | None = None
        self._lists: Postings | None = None
        self._items: WholeCatalogue | None = None

    @property
    def is_exact(self) -> bool:
        """Return False: an item that shares no code with a request is not found."""
        return False

    @property
    def settings(self) -> dict[str, Any]:
        """Return the settings it was called with, and the effort as it was last set."""
        return dict(self._settings)

    @property
    def lists(self) -> Postings | None:
        """Return the lists of the codes; None while there are no items."""
        return self._lists

    def set_effort(self, value: int) -> None:
        """Read another number of lists from the next call on; nothing is built again."""
        self._settings = self._settings | {self.effort: value}

    def most_effort(self) -> int:
        """Return how many lists there are."""
        return 1 if self._lists is None else self._lists.num_codes

    def build(self, item_states: State, ids: Int[Tensor, " items"]) -> None:
        """Fit directions to the items and index them under ``ids``, in place of what was there.

        Raises:
            InputError: if their numbers differ, an id comes twice or is below 0, or a vector is not finite.
        """
        super().build(item_states, ids)
        self._directions = None
        self._follow()

    def add(self, item_states: State, ids: Int[Tensor, " items"]) -> None:
        """Add items by the directions that are there; an id that is there is replaced.

        Raises:
            InputError: as `build` does; nothing has changed then.
        """
        directions = self._directions
        super().add(item_states, ids)
        if directions is not None:
            self._directions = directions
            self._follow()

    def remove(self, ids: Int[Tensor, " items"]) -> None:
        """Remove items.

        Raises:
            InputError: if an id is not there; nothing has changed then.
        """
        super().remove(ids)
        self._follow()

    def search(
        self,
        user_states: State,
        k: int,
        exclude: Int[Tensor, "users excluded"] | None = None,
        allow: Tensor | None = None,
    ) -> TopK:
        """Find the best ``k`` items a user, nearly; ``exclude`` and ``allow`` are those of `Index.search`.

        Raises:
            InputError: if ``k`` is below 1, ``exclude`` is not one row a user, or ``allow`` neither mask nor ids.
        """
        users, device = rows(user_states), self.ids.device
        check_question(users, k, exclude)
        if self._items is None or not users:
            return TopK(*nothing(users, k, device))
        found = self._items.answer(self._of_lists, user_states, k, exclude, allow)
        return TopK(found.scores.to(device), found.ids.to(device))

    def search_lists(self, user_states: State, k: int, exclude: Int[Tensor, "users excluded"] | None = None) -> TopK:
        """Find the best ``k`` items of each user's lists, fewer where they hold fewer.

        Raises:
            InputError: if it is not built.
        """
        if self._lists is None:
            raise InputError("index 'sparse_codes': there are no lists yet; build the index first")
        return self._of_lists(on_cpu(user_states), k, None if exclude is None else exclude.cpu(), None)

    def weights(self, user_states: Tensor) -> Tensor:
        """Return the inner product of each user with each direction: [users, codes].

        Raises:
            InputError: if it is not built.
        """
        if self._directions is None:
            raise InputError("index 'sparse_codes': there are no directions yet; build the index first")
        return user_states.float() @ self._directions.decoder.T

    def save(self, folder: Path) -> None:
        """Write vectors, directions and settings into ``folder``; lists are made of them when it is loaded."""
        super().save(folder)
        if self._directions is not None:
            with replacing_file(folder / DIRECTIONS) as partial:
                save_file({name: part.contiguous() for name, part in self._directions._asdict().items()}, partial)
        write_note(folder, type(self), self.settings, built=self._directions is not None)

    @classmethod
    def load(cls, folder: Path, *, device: torch.device | str = "cpu") -> SparseCodesIndex:
        """Read what `save` wrote.

        Raises:
            InputError: if a file is missing, cut short, or of another kind of index.
        """
        with saved_index(folder, cls) as note:
            index = cls(**note["settings"])
            index.restore(folder)
            if note["built"]:
                index._directions = Directions(**load_file(folder / DIRECTIONS))
            index._follow()
        index.to(device)
        return index

    def _follow(self) -> None:
        """Make the lists of the items as they now are, and the directions where there are none."""
        self._lists = self._items = None
        if self._states is None or not len(self.ids):
            return
        vectors, ids = on_cpu(self._states).float(), self.ids.cpu()
        if self._directions is None:
            codes = max(self._settings["codes"] or CODES_A_NUMBER * vectors.shape[1], 2)
            active = min(self._settings["active"], codes)
            self._directions = fit_directions(vectors, codes, active, seed=self._settings["seed"])
        number = len(self._directions.bias)
        codes, values = encode(vectors, self._directions, min(self._settings["active"], number))
        self._lists = lists_of(codes.numpy(), values.numpy(), ids.numpy(), number)
        self._items = WholeCatalogue(inner_product, on_cpu(self._states), ids, raised="index.read")

    def _of_lists(self, user_states: State, k: int, exclude: Tensor | None, allowed: Tensor | None) -> TopK:
        assert self._lists is not None, "searched once there are lists"
        assert self._items is not None
        weights = self.weights(user_states)
        read = weights.topk(min(self._settings["read"], weights.shape[1]), dim=1)
        wide = min(k * self._settings["rerank"], max(k, len(self._lists.ids)))
        codes = read.indices.masked_fill(read.values <= 0, -1)
        found = search_postings(self._lists, codes, read.values, wide, exclude=exclude, allowed=allowed).ids.sort(1)
        there = found.values >= 0
        places = torch.searchsorted(self._items.ids, found.values).clamp(max=len(self._items.ids) - 1)
        scores = (self._items.states[places] @ user_states[:, :, None])[:, :, 0].masked_fill(~there, -torch.inf)
        best = top_k(scores, k)
        ids = found.values.gather(1, best.ids.clamp(min=0)).masked_fill(best.ids < 0, -1)
        return TopK(best.scores, ids)


def lists_of(codes: Any, values: Any, ids: Any, number: int) -> Postings:
    """Return the lists of ``number`` codes, of items with ``ids`` and codes and values [items, active]."""
    real = values > 0
    places, listed = np.nonzero(real)[0], codes[real]
    order = np.lexsort((places, listed))
    offsets = np.searchsorted(listed[order], np.arange(number + 1)).astype(np.int64)
    scores = np.minimum(values[real][order], np.finfo(np.float16).max).astype(np.float16)
    flat = np.zeros(number, dtype=np.float32)
    return Postings(ids.copy(), offsets, places[order].astype(np.int32), scores, flat, flat + 1, max(1, len(ids)))
