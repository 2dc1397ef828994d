"""Beam search down a tree: the best nodes of each level, their children, and at the end the best leaves."""

from __future__ import annotations

from collections.abc import Callable

import torch
from jaxtyping import Bool, Int
from torch import Tensor

from twotower.core.records import State, TopK
from twotower.core.states import map_state, take
from twotower.ops.topk import top_k

PAIRS = 1 << 15
"""Pairs of users and leaves that are scored at a time."""

Score = Callable[[State, State], Tensor]
"""User states [rows] and states of nodes or leaves [rows, n] -> scores [rows, n]."""


class Leaves:
    """Hold the leaves of a tree, by the node of the last level above each and then by id.

    Args:
        states: of the items, one row a leaf.
        ids: of the items, int64 [leaves].
        nodes: the node of the last level above each.
        branches: children of a node.
        levels: of nodes below the root.
    """

    def __init__(self, states: State, ids: Tensor, nodes: Tensor, branches: int, levels: int) -> None:
        by_id = ids.argsort()
        order = by_id[nodes[by_id].argsort(stable=True)]
        self.ids, self.nodes, self.states = ids[order], nodes[order], take(states, order)
        self.branches, self.levels = branches, levels
        self.sorted_ids, self.place_of = self.ids.sort()
        edges = torch.arange(branches**levels + 1, device=ids.device)
        self.ends = torch.searchsorted(self.nodes.contiguous(), edges)
        """Where the leaves of each last node begin, and behind it where those of all end."""
        self.most = int(self.ends.diff().max())

    def __len__(self) -> int:
        """Return how many leaves there are."""
        return len(self.ids)

    def below(self, nodes: Tensor, level: int) -> tuple[Tensor, Tensor]:
        """Return where the leaves below each node of a level begin and end; none for -1."""
        last = self.branches ** (self.levels - level)
        there = nodes.clamp(min=0)
        starts, ends = self.ends[there * last], self.ends[(there + 1) * last]
        return starts, torch.where(nodes < 0, starts, ends)

    def places(self, ids: Int[Tensor, "users n"]) -> Int[Tensor, "users n"]:
        """Return the leaf of each id, ascending in each row; the number of leaves for ids without one and repeats."""
        found = torch.searchsorted(self.sorted_ids, ids.contiguous()).clamp(max=len(self) - 1)
        there = self.sorted_ids[found] == ids
        places = torch.where(there, self.place_of[found], len(self)).sort(1).values
        places[:, 1:] = torch.where(places[:, 1:] == places[:, :-1], len(self), places[:, 1:])
        return places.sort(1).values


def beam_search(
    leaves: Leaves,
    node_states: Callable[[int], State],
    score: Score,
    users: State,
    k: int,
    *,
    beam: int,
    exclude: Int[Tensor, "users n"] | None = None,
    allowed: Bool[Tensor, " leaves"] | None = None,
) -> TopK:
    """Find the best ``k`` leaves a user by going down with the ``beam`` best nodes of each level, at least k of them.

    A node with no leaf that may come back is left out, so k answers come whenever so many may. Equal scores: the lower
    number of a node, and at the end the lower id, first.

    Args:
        leaves: at least one.
        node_states: of all nodes of a level, from 1 below the root.
        score: of nodes and leaves alike.
        users: on the device of the leaves.
        k: answers a user.
        beam: nodes that are kept of a level.
        exclude: ids that each user does not get, -1 where unused.
        allowed: which leaves may come back; None: all.
    """
    width = max(beam, k)
    rows = max(1, PAIRS // (width * max(leaves.branches, leaves.most)))
    number = len(users) if isinstance(users, Tensor) else len(users[0])
    free = torch.ones(len(leaves), dtype=torch.bool, device=leaves.ids.device) if allowed is None else allowed
    found = [
        _search(
            leaves,
            node_states,
            score,
            take(users, slice(at, at + rows)),
            k,
            width,
            None if exclude is None else exclude[at : at + rows].to(leaves.ids.device),
            free,
            min(rows, number - at),
        )
        for at in range(0, number, rows)
    ]
    return TopK(torch.cat([one.scores for one in found]), torch.cat([one.ids for one in found]))


def _search(
    leaves: Leaves,
    node_states: Callable[[int], State],
    score: Score,
    users: State,
    k: int,
    width: int,
    exclude: Tensor | None,
    free: Tensor,
    number: int,
) -> TopK:
    unwanted = None
    if exclude is not None and exclude.shape[1]:
        unwanted = leaves.places(exclude)
        barred = torch.cat([free, free.new_zeros(1)])[unwanted]  # one that may not come back anyway counts once
        unwanted = unwanted.masked_fill(~barred, len(leaves)).sort(1).values
    before = torch.cat([free.new_zeros(1, dtype=torch.int64), free.cumsum(0)])

    def choices(nodes: Tensor, level: int) -> Tensor:
        """How many leaves below each node may come back."""
        starts, ends = leaves.below(nodes, level)
        counts = before[ends] - before[starts]
        if unwanted is None:
            return counts
        return counts - (torch.searchsorted(unwanted, ends) - torch.searchsorted(unwanted, starts))

    branches, level = leaves.branches, 1
    while level < leaves.levels and branches ** (level + 1) <= width:
        level += 1  # a level that fits the beam is kept whole, without a score
    nodes = torch.arange(branches**level, device=leaves.ids.device).expand(number, -1)
    step = torch.arange(branches, device=leaves.ids.device)
    while True:
        nodes = nodes.masked_fill(choices(nodes, level) == 0, -1)
        if nodes.shape[1] > width:
            states = _rows(node_states(level), nodes.clamp(min=0))
            best = top_k(score(users, states).masked_fill(nodes < 0, -torch.inf), width).ids
            chosen = nodes.gather(1, best.clamp(min=0)).masked_fill(best < 0, -1)
            nodes = chosen.sort(1).values
        if level == leaves.levels:
            return _best_leaves(leaves, score, users, k, nodes, unwanted, free)
        level += 1
        nodes = torch.where(nodes[:, :, None] < 0, -1, nodes[:, :, None] * branches + step).flatten(1)


def _best_leaves(
    leaves: Leaves, score: Score, users: State, k: int, nodes: Tensor, unwanted: Tensor | None, free: Tensor
) -> TopK:
    starts, ends = leaves.below(nodes, leaves.levels)
    places = starts[:, :, None] + torch.arange(leaves.most, device=nodes.device)
    there = (places < ends[:, :, None]).flatten(1)
    places = places.flatten(1).clamp(max=len(leaves) - 1)
    there &= free[places]
    if unwanted is not None:
        at = torch.searchsorted(unwanted, places).clamp(max=unwanted.shape[1] - 1)
        there &= unwanted.gather(1, at) != places
    ids, order = leaves.ids[places].masked_fill(~there, torch.iinfo(torch.int64).max).sort(1)
    places, there = places.gather(1, order), there.gather(1, order)
    wide = max(1, int(there.sum(1).max()))  # those that may not come back stand behind
    ids, places, there = ids[:, :wide], places[:, :wide], there[:, :wide]
    scores = score(users, _rows(leaves.states, places)).masked_fill(~there, -torch.inf)
    best = top_k(scores, k)
    return TopK(best.scores, ids.gather(1, best.ids.clamp(min=0)).masked_fill(best.ids < 0, -1))


def _rows(states: State, places: Tensor) -> State:
    """The states of these rows, [rows, n, …]."""
    return map_state(lambda part: part.index_select(0, places.flatten()).unflatten(0, tuple(places.shape)), states)
