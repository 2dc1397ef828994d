"""Lists nominate, the model ranks: the index of that name, for any model."""

from __future__ import annotations

import logging
from pathlib import Path
from typing import Any

import torch
from jaxtyping import Int
from safetensors.torch import load_file, save_file
from torch import Tensor

from twotower.core.errors import InputError
from twotower.core.files import replacing_file
from twotower.core.records import State, TopK
from twotower.core.states import from_tensors, map_state, rows, to_tensors
from twotower.index.base import ModelIndex, ScoringModel
from twotower.index.checks import check_question, check_there, nothing, sorted_ids
from twotower.index.list_report import report_lists
from twotower.index.model_lists import HasWeights, check_key, model_key, named_rows
from twotower.index.nominate import Nominate
from twotower.index.nominate_sizes import sizes_of, users_to_read
from twotower.index.saved import saved_index, write_note
from twotower.index.scan import Score, inner_product
from twotower.index.short_lists import WholeCatalogue, on_cpu
from twotower.index.user_vectors import Vectors, drawn_anchors, profile_of

log = logging.getLogger(__name__)

USERS, ANCHORS = "users.safetensors", "anchors.safetensors"


class NominateIndex(ModelIndex):
    """Search the nearest lists of users' likes, and score what they hold by the model.

    K-means of user vectors gives the codes; each has a list of the items that the model scores highest for it. It has
    to read some users before it is built: see `twotower.index.abilities.ReadsUsers`. A user whose lists hold fewer than
    k items that may come back is answered by a scan of all items, and so is a filter that lets few items through.

    Where user states are one vector each, lists are by the score of their centres, and nearness is that of the vectors.
    Other states that are numbers throughout are laid side by side; for states that are not, such as ids of a history,
    nearness is that of a user's scores with 64 items. Lists then are by the mean score of users near the centre.

    Args:
        model: whose scores are searched.
        codes: how many lists; 0: 1,024 up to 10,000 items, 2,048 beyond, or a fourth of the users that it read when
            that is less.
        longest: items of a list, at most; 0: by the number of items, 100 of a small catalogue, 1 % of 100,000, 0.5 %
            of a million.
        nearest: lists that a request reads: its effort.
        members: users whose mean score decides on a code's list; 0: the centre itself where it is a user state, else 8.
        seed: of the k-means and of the 64 items.

    Raises:
        InputError: if ``nearest`` is below 1.
    """

    effort = "nearest"
    least_effort = 1

    def __init__(
        self,
        model: ScoringModel,
        *,
        codes: int = 0,
        longest: int = 0,
        nearest: int = 8,
        members: int = 0,
        seed: int = 0,
    ) -> None:
        settings = {"codes": codes, "longest": longest, "nearest": nearest, "members": members, "seed": seed}
        for name, value in settings.items():
            least = 1 if name == "nearest" else 0
            if value < least:
                raise InputError(f"index.{name} = {value}: at least {least} is wanted")
        self._model, self._settings = model, settings
        self._device = torch.device("cpu")
        self._users: State | None = None
        self._anchors: State | None = None
        self._lists: Nominate | None = None
        self._items: WholeCatalogue | None = None

    def __len__(self) -> int:
        """Return how many items there are."""
        return 0 if self._lists is None else len(self._lists)

    @property
    def is_exact(self) -> bool:
        """Return False: an item that no list of a request has is not found."""
        return False

    @property
    def settings(self) -> dict[str, Any]:
        """Return the settings it was called with beside the model, and the effort as it was last set."""
        return dict(self._settings)

    @property
    def users_wanted(self) -> int:
        """Return how many users it reads, at most: ten a code."""
        return users_to_read(self._settings["codes"])

    def read_users(self, user_states: State) -> None:
        """Take the states of users like those who will ask; they hold from the next `build` on.

        Raises:
            InputError: if there is no user, or the states are not of the kind that the model names.
        """
        if not rows(user_states):
            raise InputError("index 'nominate': no user to make lists of; give it users that have events")
        kind = None if isinstance(user_states, Tensor) else type(user_states)
        if kind is not self._model.user_kind:
            name, own = (Tensor if one is None else one for one in (kind, self._model.user_kind))
            raise InputError(
                f"index 'nominate': user states are {name.__name__}, but user_kind of the model says {own.__name__}"
            )
        self._users = map_state(lambda part: part.detach().cpu().clone(), user_states)

    def set_effort(self, value: int) -> None:
        """Read another number of lists from the next call on; nothing is built again."""
        self._settings = self._settings | {self.effort: value}
        if self._lists is not None:
            self._lists.nearest = value

    def most_effort(self) -> int:
        """Return how many lists there are."""
        return 1 if self._lists is None else len(self._lists.centres)

    def build(self, item_states: State, ids: Int[Tensor, " items"]) -> None:
        """Index ``item_states`` under ``ids``, in place of what was there.

        Raises:
            InputError: if their numbers differ, an id comes twice or is below 0, a score is not finite, or no users
                were read.
        """
        sorted_ids(item_states, ids)
        self._device = ids.device
        states, ids = on_cpu(item_states), ids.cpu()
        if self._users is not None:
            self._lists = self._of_users(self._users, states)
        if self._lists is None:
            raise InputError("index 'nominate': it has read no users, so there is nobody to make lists of")
        self._lists.build(states, ids)
        self._follow()
        found = report_lists(self._lists.lists)
        log.info(
            "%d lists of %.0f items on average (at most %d): %.1f %% of all pairs are left out",
            found.codes,
            found.mean_length,
            found.longest,
            100 * found.sparsity,
        )

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
                user states are another model's.
        """
        users = rows(user_states)
        check_question(users, k, exclude)
        if self._lists is None or self._items is None or not len(self) or not users:
            return TopK(*nothing(users, k, self._device))
        found = self._items.answer(self._of_lists, user_states, k, exclude, allow)
        return TopK(found.scores.to(self._device), found.ids.to(self._device))

    def search_lists(self, user_states: State, k: int, exclude: Int[Tensor, "users excluded"] | None = None) -> TopK:
        """Find the best ``k`` items of each user's lists, fewer where they hold fewer.

        Raises:
            InputError: as `search`, or if it is not built.
        """
        if self._lists is None:
            raise InputError("index 'nominate': there are no lists yet; build the index first")
        found = self._lists.search(on_cpu(user_states), k, None if exclude is None else exclude.cpu())
        return TopK(found.scores.to(self._device), found.ids.to(self._device))

    def _of_lists(self, user_states: State, k: int, exclude: Tensor | None, allowed: Tensor | None) -> TopK:
        assert self._lists is not None, "searched once there are lists"
        return self._lists.search(user_states, k, exclude, allowed=allowed)

    def add(self, item_states: State, ids: Int[Tensor, " items"]) -> None:
        """Add items to the lists of the codes that score them; an id that is there is replaced.

        Raises:
            InputError: as `build` does; nothing has changed then.
        """
        if self._lists is None:
            return self.build(item_states, ids)
        sorted_ids(item_states, ids)
        self._lists.add(on_cpu(item_states), ids.cpu())
        self._follow()
        return None

    def remove(self, ids: Int[Tensor, " items"]) -> None:
        """Remove items; their lists become shorter, since those that were cut are not known.

        Raises:
            InputError: if an id is not there; nothing has changed then.
        """
        ids = ids.cpu()
        check_there(ids, torch.zeros(0, dtype=torch.int64) if self._items is None else self._items.ids)
        if self._lists is not None:
            self._lists.remove(ids)
            self._follow()

    def save(self, folder: Path) -> None:
        """Write lists, centres, item states and settings into ``folder``; users that were read, until it is built."""
        if self._lists is not None:
            self._lists.save(folder)
        kept = {ANCHORS: self._anchors, USERS: self._users if self._lists is None else None}
        for name, states in kept.items():
            if states is not None:
                with replacing_file(folder / name) as partial:
                    save_file(to_tensors(states), partial)
        parts = [name for name, states in kept.items() if states is not None]
        key: dict[str, Any] = {}
        if isinstance(self._model, HasWeights):
            named = named_rows(self._model)
            key = {"key": model_key(self._model, named), "key_rows": named}
        write_note(folder, type(self), self.settings, built=self._lists is not None, parts=parts, **key)

    @classmethod
    def load(cls, folder: Path, *, model: ScoringModel, device: torch.device | str = "cpu") -> NominateIndex:
        """Map what `save` wrote into memory, for the same model.

        Raises:
            InputError: if a file is missing, cut short, of another kind of index, or of another model.
        """
        with saved_index(folder, cls) as note:
            index, parts, built = cls(model, **note["settings"]), note["parts"], note["built"]
            if "key" in note and isinstance(model, HasWeights):  # indexes of before December 2026 have none
                check_key(folder, note["key"], model_key(model, note["key_rows"]))
            if ANCHORS in parts:
                index._anchors = model.item_store.read(load_file(folder / ANCHORS))
            if USERS in parts:
                index._users = from_tensors(load_file(folder / USERS), model.user_kind)
        if built:
            index._lists = Nominate.load(
                folder,
                score=index._score,
                vectors=index._profile(),
                user_kind=model.user_kind,
                read=model.item_store.read,
            )
            index._lists.nearest = index._settings["nearest"]
            index._follow()
        index.to(device)
        return index

    def to(self, device: torch.device | str) -> None:
        """Return answers on ``device`` from now on, where the model is; the lists are searched on the CPU."""
        self._device = torch.device(device)

    def _of_users(self, users: State, item_states: State) -> Nominate:
        parts = [users] if isinstance(users, Tensor) else list(users)
        self._anchors = None
        if not all(part.is_floating_point() for part in parts):
            self._anchors = drawn_anchors(item_states, seed=self._settings["seed"])
        return Nominate(
            users,
            score=self._score,
            vectors=self._profile(),
            nearest=self._settings["nearest"],
            seed=self._settings["seed"],
            **sizes_of(self._settings, users, rows(item_states))._asdict(),
        )

    def _profile(self) -> Vectors | None:
        return None if self._anchors is None else profile_of(self._score, self._anchors)

    def _follow(self) -> None:
        """Let the scan stand for the items as they now are."""
        if self._lists is not None:
            ids = torch.tensor(self._lists.lists.ids)
            self._items = WholeCatalogue(
                self._score, self._lists.item_states, ids, raised="index.longest or index.nearest"
            )

    @property
    def _score(self) -> Score:
        """Inner products on the CPU, where they are the model's score; else that, where the model is."""
        return inner_product if self._model.inner_product else self._score_of_model

    def _score_of_model(self, users: State, items: State) -> Tensor:
        return self._model.score(*(map_state(lambda part: part.to(self._device), one) for one in (users, items))).cpu()
