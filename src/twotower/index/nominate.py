"""Candidate lists ranked by the model: an index for any score, linear or not."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor

from twotower.core.errors import InputError
from twotower.core.files import read_json, replacing_file, write_json
from twotower.core.records import State, TopK
from twotower.core.states import detach, from_tensors, join, rows, take, to_tensors
from twotower.index.checks import nothing, sorted_ids
from twotower.index.nominate_rank import rank_nominated
from twotower.index.nominate_search import Ready
from twotower.index.postings import CODE_TILE, Postings, build_postings
from twotower.index.postings_search import uses_numba
from twotower.index.scan import ReadStates, Score, inner_product
from twotower.index.user_vectors import Vectors, nearest_centres, nearest_users, side_by_side
from twotower.ops.kmeans import kmeans

FILE, HEADER, LISTS = "nominate.safetensors", "nominate.json", "postings"


class Nominate:
    """Search lists of the best items of k-means codes of users; the model rescores the nearest lists.

    An item in none of the lists of a request is not found, and lists that hold fewer than k allowed items give fewer
    than k answers (padded). Only scores are needed, so a model without an inner product can be searched too.

    Source: the inverted lists of SparCode (Su et al., SIGIR 2023), section 3.3, with codes from k-means of finished
    user vectors, and rescoring. Both are ours.

    Args:
        users: states of the users whose vectors are clustered, as many as are at hand.
        score: (user states, item states) -> a new tensor [users, items].
        vectors: of user states; None: the states themselves, or their parts side by side.
        codes: how many lists; None: 1,024, or a fourth of the users when there are fewer than 4,096.
        longest: items of a list, at most.
        nearest: lists that a request reads.
        members: a code's score for an item is the mean over as many users nearest to its centre; 0: the score of the
            centre itself, which has to be a user state then.
        seed: of the k-means.
        backend: of searches by inner products of vectors: "numba" (compiled loops; the extra ``fast``), "numpy", or
            "auto": numba where it is installed. Other scores are always the model's own.

    Raises:
        InputError: if there are fewer users than codes, a number is out of range, or the backend is not there.
    """

    def __init__(
        self,
        users: State,
        *,
        score: Score = inner_product,
        vectors: Vectors | None = None,
        codes: int | None = None,
        longest: int = 100,
        nearest: int = 8,
        members: int = 0,
        seed: int = 0,
        backend: str = "auto",
    ) -> None:
        self._begin(score, vectors, backend)
        if codes is None:
            codes = max(1, min(1024, rows(users) // 4))
        if min(codes, longest, nearest) < 1 or members < 0:
            raise InputError(
                f"nominate: codes, longest and nearest must be at least 1 and members at least 0, got {codes}, "
                f"{longest}, {nearest} and {members}"
            )
        if rows(users) < codes:
            raise InputError(f"nominate: {rows(users)} users for {codes} codes; lower codes or bring more users")
        if not members and not isinstance(users, Tensor):
            raise InputError("nominate: a centre is no user state of this model; set members to 1 or more")
        vector = self._vectors(detach(users))
        found = kmeans(vector, codes, restarts=1, iterations=25, generator=torch.Generator().manual_seed(seed))
        self.centres = found.centres
        self.nearest, self.longest, self.members = nearest, longest, members
        self._typical = self.centres
        if members:
            self._typical = take(detach(users), nearest_users(vector, found.centres, members))

    def _begin(self, score: Score, vectors: Vectors | None, backend: str) -> None:
        # Loops over vectors stand for this score and these vectors alone.
        self._loops = uses_numba(backend) and score is inner_product and vectors is None
        self._score, self._vectors = score, vectors or side_by_side
        self._ready: Ready | None = None
        self._states: State | None = None
        self._lists: Postings | None = None

    def __len__(self) -> int:
        """Return how many items there are."""
        return 0 if self._lists is None else len(self._lists.ids)

    @property
    def is_exact(self) -> bool:
        """Return False: an item that no list of a request has is not found."""
        return False

    @property
    def item_states(self) -> State:
        """Return the states of its items, by ascending id; None before `build`."""
        return self._states

    @property
    def lists(self) -> Postings:
        """Return the lists.

        Raises:
            InputError: before `build`.
        """
        if self._lists is None:
            raise InputError("nominate: there are no lists yet; build the index first")
        return self._lists

    def build(self, item_states: State, ids: Tensor) -> None:
        """Index ``item_states`` under ``ids`` (int64 [items]), in place of what was there.

        Raises:
            InputError: if their numbers differ, an id comes twice or is below 0, or a score is not finite.
        """
        ids, order = sorted_ids(item_states, ids)
        states = take(detach(item_states), order)
        self._lists = build_postings(
            lambda codes, items: self._of_codes(codes, take(states, items)),
            len(self.centres),
            ids,
            longest=self.longest,
            precision="float16",
        )
        self._states = states

    def search(
        self, user_states: State, k: int, exclude: Tensor | None = None, *, allowed: Tensor | None = None
    ) -> TopK:
        """Return the best ``k`` nominated items a user, by the model's own score; equal scores: the lower id first.

        Args:
            user_states: who asks.
            k: how many.
            exclude: int64 [users, n] of ids not to return, -1 where unused.
            allowed: bool [items], in ascending order of id: False is not returned.

        Raises:
            InputError: if ``k`` is below 1, ``exclude`` is not one row a user, or the states are another model's.
        """
        users = user_states.shape[0] if isinstance(user_states, Tensor) else rows(user_states)
        if k < 1:
            raise InputError(f"k must be at least 1, got {k}")
        if exclude is not None and exclude.shape[0] != users:
            raise InputError(f"index: exclude has {len(exclude)} rows for {users} users")
        ready = self._compiled(user_states)
        if ready is not None:
            return ready.search(user_states, k, exclude, allowed)
        if not len(self):
            return TopK(*nothing(users, k, torch.device("cpu")))
        with torch.inference_mode():
            codes = self.codes(user_states)
        return rank_nominated(
            self.lists, self._score, self._states, user_states, codes, k, exclude=exclude, allowed=allowed
        )

    def _compiled(self, user_states: State) -> Ready | None:
        """What the compiled search reads; None where it cannot stand for the score."""
        if not (self._loops and isinstance(user_states, Tensor) and len(self)):
            return None
        if user_states.dtype != torch.float32 or user_states.shape[1] != self.centres.shape[1]:
            return None
        if self._ready is None or self._ready.lists is not self._lists:
            states = self._states
            if not isinstance(states, Tensor) or states.dtype != torch.float32:
                return None
            self._ready = Ready.of(self.lists, self.centres, states)
        self._ready.nearest = min(self.nearest, len(self.centres))
        return self._ready

    def codes(self, user_states: State) -> Tensor:
        """Return the nearest codes of each user, nearest first: int64 [users, nearest].

        Raises:
            InputError: if the vectors are not as wide as the centres.
        """
        vectors = self._vectors(user_states)
        if vectors.shape[1] != self.centres.shape[1]:
            raise InputError(
                f"nominate: vectors of {vectors.shape[1]} numbers, but the centres have {self.centres.shape[1]}: "
                "lists of another model?"
            )
        return nearest_centres(vectors, self.centres, self.nearest)

    def add(self, item_states: State, ids: Tensor) -> None:
        """Add items to the lists that score them; an id that is there is replaced.

        Raises:
            InputError: as `build` does; nothing has changed then.
        """
        if not len(self):
            return self.build(item_states, ids)
        item_states = detach(item_states)
        every_code = torch.arange(len(self.centres))
        scores = torch.cat([self._of_codes(part, item_states) for part in every_code.split(CODE_TILE)])
        known = torch.from_numpy(np.array(self.lists.ids))
        stays = ~torch.isin(known, ids)
        lists = self.lists.add(scores, ids)
        order = torch.cat([known[stays], ids]).argsort()
        self._states = take(join([take(self._states, stays), item_states]), order)
        self._lists = lists
        return None

    def remove(self, ids: Tensor) -> None:
        """Remove items; lists become shorter.

        Raises:
            InputError: if an id is not there; nothing has changed then.
        """
        lists = self.lists.remove(ids)
        self._states = take(self._states, torch.from_numpy(~np.isin(self.lists.ids, ids.numpy())))
        self._lists = lists

    def save(self, folder: Path) -> None:
        """Write lists, centres and item states into ``folder``."""
        self.lists.save(folder / LISTS)
        parts = {f"states.{name}": part for name, part in to_tensors(self._states).items()}
        if self.members:
            parts |= {f"typical.{name}": part for name, part in to_tensors(self._typical).items()}
        with replacing_file(folder / FILE) as partial:
            save_file({"centres": self.centres, **parts}, partial)
        write_json(folder / HEADER, {"nearest": self.nearest, "longest": self.longest, "members": self.members})

    @classmethod
    def load(
        cls,
        folder: Path,
        *,
        score: Score = inner_product,
        vectors: Vectors | None = None,
        user_kind: type[Any] | None = None,
        read: ReadStates = from_tensors,
        backend: str = "auto",
    ) -> Nominate:
        """Read what `save` wrote; score, vectors and the kinds of states are the model's and are given by the caller.

        ``read`` makes item states of their tensors; ``user_kind`` is the NamedTuple of user states, if they are one.

        Raises:
            InputError: if a file is missing, cut short or holds another model's states.
        """
        self = cls.__new__(cls)
        self._begin(score, vectors, backend)
        header = read_json(folder / HEADER)
        try:
            tensors = load_file(folder / FILE)
            self.nearest, self.longest, self.members = header["nearest"], header["longest"], header["members"]
            self.centres = tensors.pop("centres")
            self._states = read(_part(tensors, "states."))
            self._typical = from_tensors(_part(tensors, "typical."), user_kind) if self.members else self.centres
        except FileNotFoundError:
            raise InputError(f"{folder / FILE}: no such file, so this folder holds no such index") from None
        except (SafetensorError, KeyError, TypeError, ValueError) as error:
            raise InputError(f"{folder / FILE}: not an index of this kind ({error})") from None
        self._lists = Postings.load(folder / LISTS)
        if rows(self._states) != len(self) or len(self.centres) != self.lists.num_codes:
            raise InputError(f"{folder}: lists and states are not of one index; build it again")
        return self

    def _of_codes(self, codes: Tensor, item_states: State) -> Tensor:
        """A new tensor [codes, items]."""
        with torch.inference_mode():
            if not self.members:
                return self._score(take(self._typical, codes), item_states)
            several = (codes[:, None] * self.members + torch.arange(self.members)).flatten()
            return self._score(take(self._typical, several), item_states).unflatten(0, (len(codes), -1)).mean(1)


def _part(tensors: dict[str, Tensor], prefix: str) -> dict[str, Tensor]:
    return {name.removeprefix(prefix): part for name, part in tensors.items() if name.startswith(prefix)}
