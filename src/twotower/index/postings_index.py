"""A model's own lists of codes: the index of the name ``postings``."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import torch
from jaxtyping import Int
from safetensors.torch import load_file, save_file
from torch import Tensor

from twotower.core.errors import InputError
from twotower.core.files import replacing_file
from twotower.core.records import State, TopK
from twotower.core.states import join, map_state, rows, take, to_tensors
from twotower.index.base import ModelIndex, ScoringModel
from twotower.index.checks import check_question, check_there, nothing, sorted_ids
from twotower.index.model_lists import HasLists, ListedCodes, NamesLists, check_key
from twotower.index.popular import Popular
from twotower.index.postings import CODE_TILE, Postings, build_postings
from twotower.index.postings_search import search_postings
from twotower.index.precisions import check_precision
from twotower.index.saved import saved_index, write_note
from twotower.index.short_lists import WholeCatalogue, default_longest, on_cpu
from twotower.ops.topk import top_k

ITEMS, LISTS, EVENTS, CODES = "items.safetensors", "postings", "events.safetensors", "codes.safetensors"


class PostingsIndex(ModelIndex):
    """Sum the lists of a user's codes, for models that have codes of their own (`sparcode`), and score what comes out.

    Each code has a list of the items with its highest scores above 0. The k items with the largest weighted sums over
    the lists come back in the order of the model's score, which differs from the sum where a list was cut. A user whose
    lists hold fewer than k items that may come back is answered by a scan of all items, and so is a filter that lets
    few items through. Where the lists of a user are empty and the scan finds all scores alike (the ReLU of a model that
    died), the most popular items come back, if numbers of events were read: see `twotower.index.abilities.ReadsEvents`.

    A model with more than 16,384 codes, as combinations of several codebooks are, gets lists of the codes that some
    users have: it has to read these before it is built (`twotower.index.abilities.ReadsUsers`). A request's codes
    without a list add nothing to its sums.

    Source: Su et al., "Beyond two-tower matching", SIGIR 2023, section 3.3. Differences: a length for all lists beside
    the one threshold of equation 15, under which most lists are empty or very long; the answers' own scores by the
    model; the scan.

    Args:
        model: whose lists are searched.
        longest: items of a list, at most; 0: by the number of items, as for ``nominate``.
        precision: of stored scores: "float32", "float16" or "uint8".
        above: only scores above it are listed.

    Raises:
        InputError: if the model has no lists, the precision is unknown, or a number is out of range.
    """

    def __init__(
        self, model: ScoringModel, *, longest: int = 0, precision: str = "float16", above: float = 0.0
    ) -> None:
        if not isinstance(model, HasLists):
            raise InputError(
                f"index 'postings' searches a model's own lists of codes, and {type(model).__name__} has none; use "
                "nominate"
            )
        if longest < 0:
            raise InputError(f"index.longest = {longest}: at least 0 is wanted")
        if not 0.0 <= above < math.inf:
            raise InputError(f"index.above = {above}: a finite number of at least 0 is wanted")
        check_precision("index.precision", precision)
        self._codes, self._list_scores = ListedCodes(model.num_lists), model.list_scores
        self._model, self._longest, self._precision, self._above = model, longest, precision, above
        self._device = torch.device("cpu")
        self._lists: Postings | None = None
        self._items: WholeCatalogue | None = None
        self._popular: Popular | None = None

    def __len__(self) -> int:
        """Return how many items there are."""
        return 0 if self._lists is None else len(self._lists.ids)

    @property
    def is_exact(self) -> bool:
        """Return False: an item that no list of a request has is not found."""
        return False

    @property
    def settings(self) -> dict[str, Any]:
        """Return the settings it was called with beside the model, defaults included."""
        return {"longest": self._longest, "precision": self._precision, "above": self._above}

    def read_events(self, events: Int[Tensor, " ids"]) -> None:
        """Take the number of events of each item, by its id, for users with the same score for every item."""
        self._popular = Popular(events)

    @property
    def users_wanted(self) -> int:
        """Return how many users it reads, at most: none where every code has a list."""
        return self._codes.users_wanted

    def read_users(self, user_states: State) -> None:
        """Take the codes of users like those who will ask; they hold from the next `build` on, if there are many."""
        self._codes.read_users(user_states.codes)

    def build(self, item_states: State, ids: Int[Tensor, " items"]) -> None:
        """Index ``item_states`` under ``ids``, in place of what was there.

        Raises:
            InputError: if their numbers differ, an id comes twice or is below 0, a score is not finite, or there are
                many codes and no users were read.
        """
        self._codes.check_read()
        ids, order = sorted_ids(item_states, ids)
        self._device = ids.device
        states = take(on_cpu(item_states), order.cpu())
        lists = build_postings(
            lambda lists, items: self._of_codes(self._codes.of(lists), take(states, items)),
            len(self._codes),
            ids.cpu(),
            longest=self._longest or default_longest(len(ids)),
            precision=self._precision,
            above=self._above,
        )
        self._hold(lists, states)

    def search(
        self,
        user_states: State,
        k: int,
        exclude: Int[Tensor, "users excluded"] | None = None,
        allow: Tensor | None = None,
    ) -> TopK:
        """Find the best ``k`` items a user, nearly; ``exclude`` and ``allow`` are those of `Index.search`.

        Raises:
            InputError: if ``k`` is below 1, ``exclude`` is not one row a user, ``allow`` neither mask nor ids, or
                a code is unknown.
        """
        users = rows(user_states)
        check_question(users, k, exclude)
        if self._lists is None or self._items is None or not len(self) or not users:
            return TopK(*nothing(users, k, self._device))
        found = self._items.answer(self._of_lists, user_states, k, exclude, allow)
        if self._popular is not None:
            empty = self._empty(user_states)
            if bool(empty.any()):
                self._popular.replace(found, empty, self._items.ids, exclude, allow)
        return TopK(found.scores.to(self._device), found.ids.to(self._device))

    def add(self, item_states: State, ids: Int[Tensor, " items"]) -> None:
        """Add items to the lists of the codes that score them; an id that is there is replaced.

        Raises:
            InputError: as `build` does; nothing has changed then.
        """
        if self._lists is None or self._items is None or not len(self):
            return self.build(item_states, ids)
        ids, order = sorted_ids(item_states, ids)
        ids, states, known = ids.cpu(), take(on_cpu(item_states), order.cpu()), self._items.ids
        every = torch.arange(len(self._codes)).split(CODE_TILE)
        scores = torch.cat([self._of_codes(self._codes.of(part), states) for part in every])
        lists = self._lists.add(scores.masked_fill(scores <= self._above, -torch.inf), ids)
        stays = ~torch.isin(known, ids)
        by_id = torch.cat([known[stays], ids]).argsort()
        self._hold(lists, take(join([take(self._items.states, stays), states]), by_id))
        return None

    def remove(self, ids: Int[Tensor, " items"]) -> None:
        """Remove items; their lists become shorter, since those that were cut are not known.

        Raises:
            InputError: if an id is not there; nothing has changed then.
        """
        ids = ids.cpu()
        check_there(ids, torch.zeros(0, dtype=torch.int64) if self._items is None else self._items.ids)
        if self._lists is not None and self._items is not None:
            stays = ~torch.isin(self._items.ids, ids)
            self._hold(self._lists.remove(ids), take(self._items.states, stays))

    def save(self, folder: Path) -> None:
        """Write lists, item states and settings into ``folder``."""
        if self._lists is not None and self._items is not None:
            self._lists.save(folder / LISTS)
            with replacing_file(folder / ITEMS) as partial:
                save_file(to_tensors(self._items.states), partial)
        if self._popular is not None:
            with replacing_file(folder / EVENTS) as partial:
                save_file({"events": self._popular.events}, partial)
        if self._codes.codes is not None:
            with replacing_file(folder / CODES) as partial:
                save_file({"codes": self._codes.codes}, partial)
        parts = {"events": self._popular is not None, "codes": self._codes.codes is not None}
        key = self._model.lists_key() if isinstance(self._model, NamesLists) else None
        write_note(folder, type(self), self.settings, built=self._lists is not None, key=key, **parts, **self._more())

    @classmethod
    def load(cls, folder: Path, *, model: ScoringModel, device: torch.device | str = "cpu") -> PostingsIndex:
        """Map what `save` wrote into memory, for the same model.

        Raises:
            InputError: if a file is missing, cut short, of another kind of index, or of another model.
        """
        with saved_index(folder, cls) as note:
            index, built, key = cls(model, **note["settings"]), note["built"], note.get("key")
            states = model.item_store.read(load_file(folder / ITEMS)) if built else None
            if note.get("events", False):  # indexes of before November 2026 have none
                index.read_events(load_file(folder / EVENTS)["events"])
            if note.get("codes", False):
                index._codes.codes = load_file(folder / CODES)["codes"]
        if built:
            lists = Postings.load(folder / LISTS)
            if lists.num_codes != len(index._codes) or rows(states) != len(lists.ids):
                raise InputError(
                    f"{folder}: {lists.num_codes} lists of {rows(states)} items, but the model has {len(index._codes)} "
                    "codes: lists of another model? Build the index again"
                )
            check_key(folder, key, model.lists_key() if isinstance(model, NamesLists) else None)
            index._restore(lists, states, note)
        index.to(device)
        return index

    def to(self, device: torch.device | str) -> None:
        """Return answers on ``device`` from now on, where the model is; the lists are searched on the CPU."""
        self._device = torch.device(device)

    def _more(self) -> dict[str, Any]:
        """What the note says beside."""
        return {}

    def _restore(self, lists: Postings, states: State, note: dict[str, Any]) -> None:
        """Take what was saved."""
        self._hold(lists, states)

    def _hold(self, lists: Postings, states: State) -> None:
        self._lists = lists
        self._items = WholeCatalogue(self._score, states, torch.tensor(lists.ids), raised="index.longest")

    def _of_lists(self, user_states: Any, k: int, exclude: Tensor | None, allowed: Tensor | None) -> TopK:
        lists = self._codes.numbers(user_states.codes)
        return self._scored(user_states, self._sums(lists, user_states.weights, k, exclude, allowed))

    def _sums(self, lists: Tensor, weights: Tensor, k: int, exclude: Tensor | None, allowed: Tensor | None) -> TopK:
        """The largest weighted sums over lists, by their numbers."""
        assert self._lists is not None, "searched once there are lists"
        return search_postings(self._lists, lists, weights, k, exclude=exclude, allowed=allowed)

    def _empty(self, user_states: Any) -> Tensor:
        """Which users have no code with a list that holds anything: bool [users]."""
        assert self._lists is not None, "asked once there are lists"
        codes = self._codes.numbers(user_states.codes.cpu())
        holds = torch.from_numpy(self._lists.lengths > 0)[codes.clamp(min=0)] & (codes >= 0)
        return ~holds.any(1)

    def _scored(self, users: State, found: TopK) -> TopK:
        """The same items with the model's scores, in their order."""
        assert self._items is not None
        for user, ids in enumerate(found.ids):
            there = ids[ids >= 0].sort().values
            if len(there):
                items = take(self._items.states, torch.searchsorted(self._items.ids, there))
                with torch.inference_mode():
                    best = top_k(self._score(take(users, slice(user, user + 1)), items).float(), len(there))
                found.scores[user, : len(there)], found.ids[user, : len(there)] = best.scores[0], there[best.ids[0]]
        return found

    def _of_codes(self, codes: Tensor, items: State) -> Tensor:
        with torch.inference_mode():
            there = map_state(lambda part: part.to(self._device), items)
            return self._list_scores(codes.to(self._device), there).cpu().clone()

    def _score(self, users: State, items: State) -> Tensor:
        """The model's score, where the model is."""
        return self._model.score(*(map_state(lambda part: part.to(self._device), one) for one in (users, items))).cpu()
