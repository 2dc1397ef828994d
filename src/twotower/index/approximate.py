"""Common part of the FAISS indexes: rows, exclusions, filters, removal, files; a subclass gives the structure."""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from pathlib import Path
from typing import Any, ClassVar, Literal

import numpy as np
import torch
from jaxtyping import Int
from numpy.typing import NDArray
from torch import Tensor

from twotower.core.errors import InputError
from twotower.core.files import read_json, replacing_file, write_json
from twotower.core.records import State, TopK
from twotower.index.checks import allowed_among, check_question, check_there, nothing, sorted_ids
from twotower.index.engine import engine, one_thread
from twotower.index.exact import ExactIndex

STRUCTURE, NOTE = "index.faiss", "index.json"
FEW, SHARE = 2_000, 0.05
"""A scan is quicker than a filtered search when at most so many items, or this share of them, may come back."""
MOST_BEYOND = 200
"""Exclusions of a user up to which so many more rows are asked for, in place of a mask over all rows."""
MANY = 0.1
"""Share of the items at which a user's exclusions, which are near what is asked for, make a scan surer."""
MOST_DEAD = 0.25
"""Share of removed rows at which the structure is built anew."""
TILE = 256
"""Users searched at a time."""
_NOTHING = np.zeros(0, np.int64)


class ApproximateIndex(ABC):
    """Find most of the best inner products through a FAISS structure, and score them by the stored vectors.

    Rows of the structure are numbered as they came; ids, removed rows and the float32 vectors stand beside it. Removed
    and forbidden rows are masked while the structure is searched, with an effort raised by the share that is masked. If
    fewer than k come back though more are allowed, the effort grows, and in the end the allowed vectors are scanned.
    One thread builds and searches, so that the same calls give the same answers.

    Attributes:
        effort: name of the setting that trades recall for time in a search.
    """

    effort: ClassVar[str]
    least_effort: ClassVar[int] = 1
    """Where a search for the right effort begins."""
    least: ClassVar[dict[str, int]] = {}
    """Least value of a setting where it is not 1."""
    _vectors: NDArray[np.float32]
    _ids: Tensor
    _alive: Tensor
    """Replaced by every change, and never changed in place."""
    _counted: tuple[Tensor, int]
    """An ``_alive``, and how many rows it has."""
    _built: int
    _mapped: bool
    _structure: Any
    _by_id: tuple[Tensor, Tensor] | None
    _unfiltered: dict[int, Any]
    """Parameters of the latest unfiltered search, by effort: to make them costs as much as scoring what it finds."""

    def __init__(self, settings: dict[str, int]) -> None:
        for name, value in settings.items():
            least = self.least.get(name, 1)
            if value < least:
                raise InputError(f"index.{name} = {value}: at least {least} is wanted")
        self._settings = settings
        self._device = torch.device("cpu")
        self._hold(np.zeros((0, 0), np.float32), torch.zeros(0, dtype=torch.int64), None)

    @abstractmethod
    def _made(self, vectors: NDArray[np.float32]) -> Any:
        """Return a FAISS structure that holds ``vectors``, of which there is at least one."""

    @abstractmethod
    def _parameters(self, effort: int, selector: Any) -> Any:
        """Return the FAISS search parameters of one search."""

    @abstractmethod
    def _widened(self, effort: int, excluded: int) -> int:
        """Return the effort that gets past so many excluded items, which may be the very best."""

    @abstractmethod
    def _most(self) -> int:
        """Return the effort beyond which more finds nothing more, or a scan is quicker."""

    def _fetched(self, k: int, excluded: int) -> int:
        """Return how many rows the structure is asked for, to be scored again."""
        return k

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
        vectors = _vectors(item_states, "item")
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
        queries = _vectors(user_states, "user")
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
        vectors = _vectors(item_states, "item")
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
        write_json(folder / NOTE, {"class": type(self).__name__, "settings": self.settings, "built": self._built})

    @classmethod
    def load(cls, folder: Path, *, device: torch.device | str = "cpu") -> ApproximateIndex:
        """Map what `save` wrote into memory: pages are read as searches need them.

        Raises:
            InputError: if a file is missing or is not of this kind of index.
        """
        faiss = engine()
        if not (folder / NOTE).is_file():
            raise InputError(f"{folder / NOTE}: no such file, so this folder holds no index of this kind")
        try:
            note = read_json(folder / NOTE)
            if note["class"] != cls.__name__:
                raise ValueError(f"it is a {note['class']}")
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
        except FileNotFoundError as error:
            raise InputError(f"{error.filename}: no such file, so this folder holds no whole index") from None
        except (RuntimeError, KeyError, TypeError, ValueError) as error:
            why = str(error).splitlines()[0]
            raise InputError(f"{folder}: not an index of this kind ({why})") from None
        index._hold(vectors, ids, structure)
        index._alive, index._built, index._mapped = alive, note["built"], structure is not None
        index.to(device)
        return index

    def to(self, device: torch.device | str) -> None:
        """Return answers on ``device`` from now on; the structure itself is searched on the CPU."""
        self._device = torch.device(device)

    def _hold(self, vectors: NDArray[np.float32], ids: Tensor, structure: Any) -> None:
        self._vectors, self._ids, self._structure = vectors, ids, structure
        self._alive = torch.ones(len(ids), dtype=torch.bool)
        self._counted = self._alive, len(ids)
        self._built, self._mapped = len(ids), False
        self._by_id, self._unfiltered = None, {}

    def _build(self, vectors: NDArray[np.float32], ids: Tensor) -> None:
        with one_thread():
            self._hold(vectors, ids, self._made(vectors) if len(ids) else None)

    def _living(self) -> tuple[NDArray[np.float32], Tensor]:
        """Return the vectors and ids that are left, by id."""
        rows = self._alive.nonzero()[:, 0]
        rows = rows[self._ids[rows].argsort()]
        return self._vectors[rows.numpy()], self._ids[rows]

    def _tidied(self) -> bool:
        return len(self._ids) - len(self) <= MOST_DEAD * len(self._ids)

    def _writable(self) -> Any:
        """Return the structure, copied into memory first if it is mapped from a file."""
        faiss = engine()
        if self._mapped:
            self._structure = faiss.deserialize_index(faiss.serialize_index(self._structure))
            self._mapped = False
        return self._structure

    def _rows_of(self, ids: Tensor) -> Tensor:
        """Return the living rows of those ids that are there."""
        if self._by_id is None:
            rows = self._alive.nonzero()[:, 0]
            self._by_id = self._ids[rows].sort()[0], rows[self._ids[rows].argsort()]
        known, rows = self._by_id
        places = torch.searchsorted(known, ids.contiguous()).clamp(max=len(known) - 1)
        return rows[places[known[places] == ids]]

    def _check_width(self, vectors: NDArray[np.float32], side: str) -> None:
        if vectors.shape[1] != self._vectors.shape[1]:
            raise InputError(
                f"index: {side} vectors of {vectors.shape[1]} numbers, but it holds vectors of {self._vectors.shape[1]}"
            )

    def _search(
        self, queries: NDArray[np.float32], allowed: Tensor, count: int, k: int, exclude: Tensor | None
    ) -> TopK:
        """Search users without exclusions in tiles, each other by itself: no answer depends on who else asks."""
        whole = count == len(self._ids)
        if len(queries) == 1 and whole:  # what a service asks
            few = self._beyond(queries, k, None if exclude is None else exclude[0])
            if few is not None:
                return few
        scores, ids = nothing(len(queries), k, torch.device("cpu"))
        some = torch.zeros(len(queries), dtype=torch.bool) if exclude is None else (exclude >= 0).any(dim=1)
        groups = [*(~some).nonzero()[:, 0].split(TILE), *some.nonzero()]
        for users in groups:
            if not len(users):
                continue
            mask, banned = allowed, 0
            if exclude is not None and some[users[0]]:
                if whole and (few := self._beyond(queries[users.numpy()], k, exclude[users[0]])):
                    scores[users], ids[users] = few
                    continue
                mask = allowed.clone()
                mask[self._rows_of(exclude[users[0]])] = False
                banned = count - int(mask.sum())
            asked = queries[users.numpy()]
            if banned > MANY * len(mask):
                scores[users], ids[users] = self._scan(asked, mask, k, None)
                continue
            rows, short = self._rows(asked, mask, k, banned)
            scores[users], ids[users] = self._scored(asked, rows, k)
            if len(short):  # nothing but a scan is sure to find them
                scores[users[short]], ids[users[short]] = self._scan(asked[short.numpy()], mask, k, None)
        return TopK(scores, ids)

    def _beyond(self, query: NDArray[np.float32], k: int, exclude: Tensor | None) -> TopK | None:
        """Answer one user with few exclusions, or none, by asking for so many more: a mask of all rows costs more.

        None where that does not do: many exclusions, or too few found. Every row may come back but for those.
        """
        left_out = _NOTHING if exclude is None else np.unique(exclude.numpy())
        if len(left_out) and left_out[0] < 0:
            left_out = left_out[left_out >= 0]
        more, total = len(left_out), len(self._ids)
        if more > MOST_BEYOND or k + more > SHARE * total:
            return None
        effort = min(self._widened(self._settings[self.effort], more), self._most())
        fetched = min(self._fetched(k, more) + more, total)
        parameters = self._unfiltered.get(effort)
        if parameters is None:
            parameters = self._parameters(effort, None)
            self._unfiltered = {effort: parameters}
        rows = self._structure.search(query, fetched, params=parameters)[1][0]
        rows = rows[rows >= 0]
        ids = self._ids.numpy()[rows]
        if more:
            stays = left_out.take(left_out.searchsorted(ids), mode="clip") != ids
            rows, ids = rows[stays], ids[stays]
        if len(rows) < k:
            return None
        scores = _products(self._vectors[rows][None], query)[0]
        order = np.lexsort((ids, -scores))[:k]
        return TopK(torch.from_numpy(scores[order])[None], torch.from_numpy(ids[order])[None])

    def _rows(
        self, queries: NDArray[np.float32], mask: Tensor, k: int, banned: int
    ) -> tuple[NDArray[np.int64], Tensor]:
        """Return the rows found, -1 where none, and the queries that found too few with all effort."""
        faiss = engine()
        count, total = int(mask.sum()), len(mask)
        selector = None
        if count < total:
            bits = np.packbits(mask.numpy(), bitorder="little")
            selector = faiss.IDSelectorBitmap(bits)
        wanted, fetched = min(k, count), min(self._fetched(k, banned), count)
        effort = math.ceil(self._settings[self.effort] * total / max(count + banned, 1))
        effort = self._widened(effort, banned)
        rows = np.full((len(queries), max(fetched, 1)), -1, np.int64)
        short = torch.arange(len(queries)) if wanted else torch.zeros(0, dtype=torch.int64)
        while len(short):
            last = effort >= self._most()
            parameters = self._parameters(min(effort, self._most()), selector)
            rows[short.numpy()] = self._structure.search(queries[short.numpy()], fetched, params=parameters)[1]
            short = short[torch.from_numpy((rows[short.numpy()] >= 0).sum(axis=1) < wanted)]
            effort *= 4
            if last:
                break
        return rows, short

    def _scored(self, queries: NDArray[np.float32], rows: NDArray[np.int64], k: int) -> tuple[Tensor, Tensor]:
        """Return the best ``k`` of the rows by the stored vectors; equal scores: the lower id first."""
        absent = torch.from_numpy(rows < 0)
        products = torch.from_numpy(_products(self._vectors[rows.clip(min=0)], queries))
        scores = products.masked_fill(absent, -torch.inf)
        ids = self._ids[torch.from_numpy(rows.clip(min=0))].masked_fill(absent, -1)
        order = torch.from_numpy(np.lexsort((ids.numpy(), -scores.numpy()), axis=-1))[:, :k]
        best, named = nothing(len(queries), k, torch.device("cpu"))
        best[:, : order.shape[1]] = scores.gather(1, order)
        named[:, : order.shape[1]] = ids.gather(1, order)
        return best, named

    def _scan(self, queries: NDArray[np.float32], mask: Tensor, k: int, exclude: Tensor | None) -> TopK:
        exact = ExactIndex()
        exact.build(torch.from_numpy(np.ascontiguousarray(self._vectors[mask.numpy()])), self._ids[mask])
        return exact.search(torch.from_numpy(queries), k, exclude)


def _vectors(states: State, side: str) -> NDArray[np.float32]:
    if not isinstance(states, Tensor) or states.ndim != 2:
        raise InputError(f"index: {side} states must be vectors, one list of numbers each: this kind finds no others")
    vectors = np.ascontiguousarray(states.detach().float().cpu().numpy())
    if not np.isfinite(vectors).all():
        raise InputError(f"index: {side} vectors hold NaN or inf; nothing can be found by them")
    return vectors


def _products(vectors: NDArray[np.float32], queries: NDArray[np.float32]) -> NDArray[np.float32]:
    """Return ⟨vector, query⟩ of each user's vectors, [users, n]: to the last bit the same whoever else asks."""
    return np.einsum("und,ud->un", vectors, queries)
