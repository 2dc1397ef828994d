"""Candidate lists ranked by the model: an index for any score, linear or not."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple, TypeAlias

import numpy as np
import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor

from twotower.core.errors import InputError
from twotower.core.files import read_json, replacing_file, write_json
from twotower.core.records import State, TopK
from twotower.core.states import detach, from_tensors, join, rows, take, to_tensors
from twotower.index.nominate_search import Ready
from twotower.index.postings import CODE_TILE, Postings, build_postings
from twotower.index.postings_search import uses_numba
from twotower.index.scan import Score, inner_product
from twotower.ops.kmeans import kmeans
from twotower.ops.topk import top_k

Vectors: TypeAlias = Callable[[State], Tensor]
"""User states -> float vectors [users, dim] in which users that are near want the same items."""

FILE, HEADER, LISTS = "nominate.safetensors", "nominate.json", "postings"
USER_TILE = 1024


class ListReport(NamedTuple):
    """Hold figures of the lists.

    How many codes, items of a list (mean and most), share of pairs that are not listed, bytes of the lists for each
    item."""

    codes: int
    mean_length: float
    longest: int
    sparsity: float
    bytes_per_item: float


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
        state_kind: the NamedTuple of the item states; None for a plain tensor.
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
        state_kind: type[Any] | None = None,
        codes: int | None = None,
        longest: int = 100,
        nearest: int = 8,
        members: int = 0,
        seed: int = 0,
        backend: str = "auto",
    ) -> None:
        self._begin(score, vectors, state_kind, backend)
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
        self._typical = self.centres if not members else take(detach(users), _members(vector, found.centres, members))

    def _begin(
        self, score: Score, vectors: Vectors | None, state_kind: type[Any] | None, backend: str = "auto"
    ) -> None:
        # Loops over vectors stand for this score and these vectors alone.
        self._loops = uses_numba(backend) and score is inner_product and vectors is None
        self._score, self._vectors, self._state_kind = score, vectors or side_by_side, state_kind
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

    def report(self) -> ListReport:
        """Count codes, items of a list and bytes."""
        lists = self.lists
        lengths = lists.lengths
        return ListReport(
            lists.num_codes,
            float(lengths.mean()),
            int(lengths.max()),
            lists.sparsity,
            lists.num_bytes / max(1, len(lists.ids)),
        )

    def build(self, item_states: State, ids: Tensor) -> None:
        """Index ``item_states`` under ``ids`` (int64 [items]), in place of what was there.

        Raises:
            InputError: if their numbers differ, an id comes twice or is below 0, or a score is not finite.
        """
        if rows(item_states) != len(ids):
            raise InputError(f"index: {rows(item_states)} item states for {len(ids)} ids; each state needs one id")
        ids, order = ids.sort()
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
        scores, found = torch.full((users, k), -torch.inf), torch.full((users, k), -1)
        if not len(self):
            return TopK(scores, found)
        lists, wanted = self.lists, np.zeros(len(self), dtype=np.bool_)
        with torch.inference_mode():
            for user, row in enumerate(self.codes(user_states).tolist()):
                for code in row:
                    wanted[lists.places[lists.offsets[code] : lists.offsets[code + 1]]] = True
                if exclude is not None:
                    unwanted = exclude[user].numpy()
                    at = np.searchsorted(lists.ids, unwanted).clip(max=len(self) - 1)
                    wanted[at[lists.ids[at] == unwanted]] = False
                places = np.flatnonzero(wanted if allowed is None else wanted & allowed.numpy())
                wanted[:] = False
                if len(places):
                    state, chosen = take(user_states, slice(user, user + 1)), torch.from_numpy(places)
                    best = top_k(self._score(state, take(self._states, chosen)).float(), k)
                    scores[user] = best.scores[0]
                    at = lists.ids[places[best.ids[0].clamp(min=0).numpy()]]
                    found[user] = torch.where(best.ids[0] < 0, -1, torch.from_numpy(at))
        return TopK(scores, found)

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
        half = self.centres.square().sum(1) / 2.0
        return torch.cat(
            [top_k(part @ self.centres.T - half, min(self.nearest, len(half))).ids for part in vectors.split(USER_TILE)]
        )

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
        state_kind: type[Any] | None = None,
        user_kind: type[Any] | None = None,
        read: Callable[[dict[str, Tensor]], State] | None = None,
        backend: str = "auto",
    ) -> Nominate:
        """Read what `save` wrote; score, vectors and the kinds of states are the model's and are given by the caller.

        ``read`` makes item states of their tensors where ``state_kind`` does not say it all.

        Raises:
            InputError: if a file is missing, cut short or holds another model's states.
        """
        self = cls.__new__(cls)
        self._begin(score, vectors, state_kind, backend)
        header = read_json(folder / HEADER)
        try:
            tensors = load_file(folder / FILE)
            self.nearest, self.longest, self.members = header["nearest"], header["longest"], header["members"]
            self.centres = tensors.pop("centres")
            parts = _part(tensors, "states.")
            self._states = from_tensors(parts, state_kind) if read is None else read(parts)
            typical = _part(tensors, "typical.")
            self._typical = from_tensors(typical, user_kind) if self.members else self.centres
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


def side_by_side(states: State) -> Tensor:
    """Return the numbers of a user's state as one vector.

    Raises:
        InputError: if a part holds no real numbers, such as ids of a history.
    """
    parts = [states] if isinstance(states, Tensor) else list(states)
    if not all(part.is_floating_point() for part in parts):
        raise InputError("nominate: these user states are no vectors; hand over vectors=score_profile(…)")
    return torch.cat([part.flatten(1).float() for part in parts], dim=1)


def score_profile(score: Score, item_states: State, *, anchors: int = 64, seed: int = 0) -> Vectors:
    """Make vectors of users of any model: scores with some items drawn at random, less the user's mean, at length 1."""
    return profile_of(score, drawn_anchors(item_states, anchors=anchors, seed=seed))


def drawn_anchors(item_states: State, *, anchors: int = 64, seed: int = 0) -> State:
    """Draw the states of some items at random: those that a profile of scores is made of."""
    order = torch.randperm(rows(item_states), generator=torch.Generator().manual_seed(seed))[:anchors]
    return take(detach(item_states), order)


def profile_of(score: Score, anchors: State) -> Vectors:
    """Make vectors of users from their scores with these items, less the user's mean, at length 1."""

    def vectors(users: State) -> Tensor:
        with torch.inference_mode():
            starts = range(0, max(1, rows(users)), USER_TILE)
            scores = torch.cat([score(take(users, slice(at, at + USER_TILE)), anchors).float() for at in starts])
            return torch.nn.functional.normalize(scores - scores.mean(dim=1, keepdim=True), dim=1).clone()

    return vectors


def _members(vectors: Tensor, centres: Tensor, members: int) -> Tensor:
    """The ``members`` users nearest to each centre, centre after centre; where there are fewer users, they repeat."""
    half = vectors.square().sum(1) / 2.0
    wide = min(members, len(vectors))
    near = torch.cat([top_k(part @ vectors.T - half, wide).ids for part in centres.split(USER_TILE)])
    return near[:, torch.arange(members) % wide].flatten()


def _part(tensors: dict[str, Tensor], prefix: str) -> dict[str, Tensor]:
    return {name.removeprefix(prefix): part for name, part in tensors.items() if name.startswith(prefix)}
