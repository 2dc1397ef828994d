"""Common part of the FAISS indexes: building, growth, removal and files; a subclass gives the structure."""

from __future__ import annotations

from pathlib import Path
from typing import Any, ClassVar, Literal

import numpy as np
import torch
from jaxtyping import Int
from torch import Tensor

from twotower.core.errors import InputError, shown
from twotower.core.files import replacing_file
from twotower.core.records import State, TopK
from twotower.index.approximate_rows import plain_vectors
from twotower.index.approximate_search import FEW, SHARE, Search
from twotower.index.checks import allowed_among, check_question, check_there, nothing, sorted_ids
from twotower.index.engine import engine, one_thread
from twotower.index.saved import saved_index, write_note

STRUCTURE = "index.faiss"
TOO_MANY = 2**31
"""FAISS holds settings in 32 bits."""


class ApproximateIndex(Search):
    """Find most of the best inner products through a FAISS structure, and score them by the stored vectors.

    Rows of the structure are numbered as they came; ids, removed rows and the float32 vectors stand beside it. Filters
    and exclusions are those of `twotower.index.approximate_search.Search`. One thread builds and searches, so that the
    same calls give the same answers.

    Attributes:
        effort: name of the setting that trades recall for time in a search.
    """

    least_effort: ClassVar[int] = 1
    """Where a search for the right effort begins."""
    least: ClassVar[dict[str, int]] = {}
    """Least value of a setting where it is not 1."""

    def __init__(self, settings: dict[str, int]) -> None:
        for name, value in settings.items():
            least = self.least.get(name, 1)
            if value < least:
                raise InputError(f"index.{name} = {value}: at least {least} is wanted")
            if value >= TOO_MANY:
                raise InputError(f"index.{name} = {shown(value)}: a number below {TOO_MANY:,} is wanted")
        self._settings = settings
        self._device = torch.device("cpu")
        self._hold(np.zeros((0, 0), np.float32), torch.zeros(0, dtype=torch.int64), None)

    def __len__(self) -> int:
        """Return how many items there are."""
        alive, count = self._counted
        if alive is not self._alive:
            alive = self._alive
            count = int(alive.sum())
            self._counted = alive, count
        return count

    @property
    def is_exact(self) -> bool:
        """Return False: some of the best may be missed."""
        return False

    @property
    def settings(self) -> dict[str, Any]:
        """Return the settings it was called with, defaults included, and the effort as it was last set."""
        return dict(self._settings)

    def set_effort(self, value: int) -> None:
        """Search with another effort from the next call on; nothing is built again."""
        self._settings = self._settings | {self.effort: value}

    def most_effort(self) -> int:
        """Return the effort beyond which a search finds nothing more, or a scan is quicker."""
        return self._most() if len(self) else 1

    def build(self, item_states: State, ids: Int[Tensor, " items"]) -> None:
        """Index ``item_states`` under ``ids``, in place of what was there.

        Raises:
            InputError: if the states are no finite vectors, their number is not that of the ids, an id comes twice or
                is below 0.
        """
        vectors = plain_vectors(item_states, "item")
        ids, order = sorted_ids(item_states, ids)
        self._build(vectors[order.cpu().numpy()], ids.cpu())
        self._device = ids.device

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
        queries = plain_vectors(user_states, "user")
        check_question(len(queries), k, exclude)
        allowed = self._alive if allow is None else self._alive & allowed_among(self._ids, allow.cpu())
        count = len(self) if allow is None else int(allowed.sum())
        if not count or not len(queries):
            return TopK(*nothing(len(queries), k, self._device))
        self._check_width(queries, "user")
        exclude = None if exclude is None else exclude.cpu()
        if count <= max(FEW if allow is not None else 0, SHARE * len(self._ids)):
            found = self._scan(queries, allowed, k, exclude)
        else:
            with one_thread():
                found = self._search(queries, allowed, count, k, exclude)
        return TopK(found.scores.to(self._device), found.ids.to(self._device))

    def add(self, item_states: State, ids: Int[Tensor, " items"]) -> None:
        """Add items; an id that is there is replaced. The structure is rebuilt once it has doubled.

        Raises:
            InputError: as `build` does, or if the vectors are of another width; nothing has changed then.
        """
        if not len(self):
            return self.build(item_states, ids)
        vectors = plain_vectors(item_states, "item")
        self._check_width(vectors, "item")
        ids, order = sorted_ids(item_states, ids)
        vectors, ids = vectors[order.cpu().numpy()], ids.cpu()
        stays = self._alive & ~torch.isin(self._ids, ids)
        self._vectors = np.concatenate([self._vectors, vectors])
        self._ids = torch.cat([self._ids, ids])
        self._alive, self._by_id = torch.cat([stays, torch.ones(len(ids), dtype=torch.bool)]), None
        if len(self._ids) > 2 * self._built or not self._tidied():
            self._build(*self._living())
            return None
        with one_thread():
            self._writable().add(vectors)
        return None

    def remove(self, ids: Int[Tensor, " items"]) -> None:
        """Remove items: their rows are masked, and the structure is rebuilt once a quarter of it is dead.

        Raises:
            InputError: if an id is not there; nothing has changed then.
        """
        ids = ids.cpu()
        check_there(ids, self._ids[self._alive])
        self._alive, self._by_id = self._alive & ~torch.isin(self._ids, ids), None
        if not self._tidied():
            self._build(*self._living())

    def save(self, folder: Path) -> None:
        """Write structure, vectors, ids and settings into ``folder``."""
        faiss = engine()
        parts = {"vectors": self._vectors, "ids": self._ids.numpy(), "alive": self._alive.numpy()}
        for name, part in parts.items():
            with replacing_file(folder / f"{name}.npy") as partial, partial.open("wb") as file:
                np.save(file, part)
        if self._structure is not None:
            with replacing_file(folder / STRUCTURE) as partial:
                faiss.write_index(self._structure, str(partial))
        else:
            (folder / STRUCTURE).unlink(missing_ok=True)
        write_note(folder, type(self), self.settings, built=self._built)

    @classmethod
    def load(cls, folder: Path, *, device: torch.device | str = "cpu") -> ApproximateIndex:
        """Map what `save` wrote into memory: pages are read as searches need them.

        Raises:
            InputError: if a file is missing or is not of this kind of index.
        """
        faiss = engine()
        with saved_index(folder, cls) as note:
            index = cls(**note["settings"])
            mode: Literal["r"] | None = "r" if note["built"] else None
            vectors = np.asarray(np.load(folder / "vectors.npy", mmap_mode=mode, allow_pickle=False))
            ids, alive = (torch.from_numpy(np.load(folder / f"{name}.npy")) for name in ("ids", "alive"))
            if note["built"] and not (folder / STRUCTURE).is_file():
                raise FileNotFoundError(2, "", str(folder / STRUCTURE))
            mapped = getattr(faiss, "IO_FLAG_MMAP_IFC", 0)  # since FAISS 1.10
            structure = faiss.read_index(str(folder / STRUCTURE), mapped) if note["built"] else None
            if not len(vectors) == len(ids) == len(alive) == (0 if structure is None else structure.ntotal):
                raise ValueError("its files hold different numbers of items")
        index._hold(vectors, ids, structure)
        index._alive, index._built, index._mapped = alive, note["built"], structure is not None
        index.to(device)
        return index

    def to(self, device: torch.device | str) -> None:
        """Return answers on ``device`` from now on; the structure itself is searched on the CPU."""
        self._device = torch.device(device)
