"""A model's own tree, searched by a beam: the index of the name ``tree``."""

from __future__ import annotations

from pathlib import Path
from typing import Any, Protocol, runtime_checkable

import torch
from jaxtyping import Int
from safetensors.torch import load_file, save_file
from torch import Tensor

from twotower.core.errors import InputError
from twotower.core.files import replacing_file
from twotower.core.records import State, TopK
from twotower.core.states import detach, join, map_state, rows, take, to_tensors
from twotower.index.base import ModelIndex, ScoringModel
from twotower.index.beam import Leaves, beam_search
from twotower.index.checks import allowed_among, check_question, check_there, nothing, sorted_ids
from twotower.index.saved import saved_index, write_note

LEAVES = "leaves.safetensors"
LEAST_BEAM = 8


@runtime_checkable
class HasTree(Protocol):
    """Hold items as leaves of a tree whose nodes are scored like items.

    Level l has branches^l nodes, from 1 below the root; the node above a node is its number divided by ``branches``.
    """

    branches: int
    levels: int

    def nodes_above(self, ids: Tensor, states: Tensor) -> Tensor:
        """Return the node of the last level above each item: int64 [items]."""
        ...

    def node_states(self, level: int) -> State:
        """Return the states of the nodes of a level."""
        ...

    def score_rows(self, users: Any, items: Any) -> Tensor:
        """Score row i with each of its n nodes or items: [rows, n]."""
        ...


class TreeIndex(ModelIndex):
    """Search by a beam down the tree of a model that has one (`tdm`).

    Of each level the ``beam`` best nodes are kept, or as many as answers are asked for where that is more; a level that
    fits is kept whole. Nodes below which nothing may come back are left out, so that a filter or exclusions shorten no
    answer. An item that came after training is a leaf below the nearest node by its vector.

    Source: Zhu et al., KDD 2018, section 3.1. Differences: nodes without an allowed leaf are left out; the first levels
    are not scored where all of their nodes fit.

    Args:
        model: whose tree and scores are searched.
        beam: nodes that are kept of a level: its effort.

    Raises:
        InputError: if the model has no tree, or ``beam`` is below 1.
    """

    effort = "beam"
    least_effort = LEAST_BEAM

    def __init__(self, model: ScoringModel, *, beam: int = 100) -> None:
        if not isinstance(model, HasTree):
            raise InputError(
                f"index 'tree' searches a model's own tree, and {type(model).__name__} has none; use nominate or "
                "brute_force"
            )
        if beam < 1:
            raise InputError(f"index.beam = {beam}: at least 1 is wanted")
        self._model, self._tree, self._beam = model, model, beam
        self._device = torch.device("cpu")
        self._leaves: Leaves | None = None

    def __len__(self) -> int:
        """Return how many items there are."""
        return 0 if self._leaves is None else len(self._leaves)

    @property
    def is_exact(self) -> bool:
        """Return False: a good leaf below a node with a low score is not found."""
        return False

    @property
    def settings(self) -> dict[str, Any]:
        """Return the settings it was called with beside the model, and the effort as it was last set."""
        return {"beam": self._beam}

    def set_effort(self, value: int) -> None:
        """Keep another number of nodes from the next call on; nothing is built again."""
        self._beam = value

    def most_effort(self) -> int:
        """Return how many nodes the last level has: beyond that nothing more is found."""
        return int(self._tree.branches**self._tree.levels)

    def build(self, item_states: State, ids: Int[Tensor, " items"]) -> None:
        """Index ``item_states`` under ``ids``, in place of what was there.

        Raises:
            InputError: if their numbers differ, an id comes twice or is below 0.
        """
        ids, order = sorted_ids(item_states, ids)
        self._device = ids.device
        states = take(detach(item_states), order)
        self._hold(states, ids, self._above(states, ids))

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
        users, leaves = rows(user_states), self._leaves
        check_question(users, k, exclude)
        if leaves is None or not users:
            return TopK(*nothing(users, k, self._device))
        allowed = None if allow is None else allowed_among(leaves.ids, allow)
        with torch.inference_mode():
            return beam_search(
                leaves,
                self._tree.node_states,
                self._tree.score_rows,
                user_states,
                k,
                beam=self._beam,
                exclude=exclude,
                allowed=allowed,
            )

    def add(self, item_states: State, ids: Int[Tensor, " items"]) -> None:
        """Add items as leaves; an id that is there is replaced.

        Raises:
            InputError: as `build` does; nothing has changed then.
        """
        if self._leaves is None:
            return self.build(item_states, ids)
        ids, order = sorted_ids(item_states, ids)
        states, before = take(detach(item_states), order), self._leaves
        stays = ~torch.isin(before.ids, ids)
        self._hold(
            join([take(before.states, stays), states]),
            torch.cat([before.ids[stays], ids]),
            torch.cat([before.nodes[stays], self._above(states, ids)]),
        )
        return None

    def remove(self, ids: Int[Tensor, " items"]) -> None:
        """Remove items; the other leaves stay where they are.

        Raises:
            InputError: if an id is not there; nothing has changed then.
        """
        before = self._leaves
        check_there(ids, torch.zeros_like(ids[:0]) if before is None else before.ids)
        if before is not None:
            stays = ~torch.isin(before.ids, ids)
            self._hold(take(before.states, stays), before.ids[stays], before.nodes[stays])

    def save(self, folder: Path) -> None:
        """Write leaves and settings into ``folder``; the nodes are the model's."""
        if self._leaves is not None:
            states = {f"states.{name}": part for name, part in to_tensors(self._leaves.states).items()}
            with replacing_file(folder / LEAVES) as partial:
                save_file({"ids": self._leaves.ids, "nodes": self._leaves.nodes, **states}, partial)
        shape = {"branches": self._tree.branches, "levels": self._tree.levels}
        write_note(folder, type(self), self.settings, built=self._leaves is not None, **shape)

    @classmethod
    def load(cls, folder: Path, *, model: ScoringModel, device: torch.device | str = "cpu") -> TreeIndex:
        """Read what `save` wrote, for the same model.

        Raises:
            InputError: if a file is missing, cut short, of another kind of index, or of another model.
        """
        with saved_index(folder, cls) as note:
            index = cls(model, **note["settings"])
            shape, own = (note["branches"], note["levels"]), (index._tree.branches, index._tree.levels)
            if shape != own:
                raise InputError(
                    f"{folder}: a tree of {shape[1]} levels with {shape[0]} branches, but the model's has {own[1]} "
                    f"with {own[0]}: a tree of another model? Build the index again"
                )
            if note["built"]:
                tensors = load_file(folder / LEAVES)
                ids, nodes = tensors.pop("ids"), tensors.pop("nodes")
                states = {name.removeprefix("states."): part for name, part in tensors.items()}
                if len(nodes) and not 0 <= int(nodes.min()) <= int(nodes.max()) < index.most_effort():
                    raise ValueError("a leaf below a node that the tree does not have")
                index._hold(model.item_store.read(states), ids, nodes)
        index.to(device)
        return index

    def to(self, device: torch.device | str) -> None:
        """Move the leaves to a device: that of the model and of the user states to come."""
        self._device = torch.device(device)
        if self._leaves is not None:
            before = self._leaves
            states = map_state(lambda part: part.to(self._device), before.states)
            self._hold(states, before.ids.to(self._device), before.nodes.to(self._device))

    def _hold(self, states: State, ids: Tensor, nodes: Tensor) -> None:
        self._leaves = None
        if len(ids):
            self._leaves = Leaves(states, ids, nodes, self._tree.branches, self._tree.levels)

    def _above(self, states: State, ids: Tensor) -> Tensor:
        with torch.inference_mode():
            return self._tree.nodes_above(ids, states).clone()
