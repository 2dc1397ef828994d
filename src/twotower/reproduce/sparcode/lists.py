"""Answers by lists of a model: SparCode's own, a gate's, or lists that nominate for a model of vectors to rank."""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

import torch
from torch import Tensor

from twotower.core.records import State
from twotower.core.seeds import torch_generator
from twotower.core.states import join, map_state, take
from twotower.data.dataset import Dataset
from twotower.data.examples import EventRows
from twotower.data.log import Log
from twotower.data.split import Targets
from twotower.index.nominate import Nominate
from twotower.index.postings import CODE_TILE, Postings, build_postings
from twotower.index.postings_search import search_postings
from twotower.index.tree_index import TreeIndex
from twotower.metrics.ranking import MISSED
from twotower.models.base import Model
from twotower.models.encode import encode_known_items, inference, training_length, users_with_history
from twotower.models.sparcode import Coded, SparCode
from twotower.models.tdm import TDM

USERS = 4096
"""Users encoded at a time."""
STATES_A_CODE = 10
"""User vectors that are clustered, for each code."""
NEAREST = 8
"""Lists that a request reads where the model does not say."""

Search = Callable[[State, int, Tensor], Tensor]
"""User states, k and ids to leave out -> ids [users, k], -1 where there are no more."""


Lists = Callable[[int], tuple[Search, Postings]]
"""Items of a list, at most -> the search in lists of that length, and the lists."""


class Asked(NamedTuple):
    """Hold the users of an evaluation on the CPU: states, what each has seen (-1 padded), and a truth's row and id."""

    states: State
    seen: Tensor
    rows: Tensor
    truths: Tensor

    @property
    def users(self) -> int:
        """Return how many users are asked about."""
        return len(self.seen)


def asked_of(model: Model, dataset: Dataset, targets: Targets) -> Asked:
    """Encode the users of ``targets``, in ascending order of their rows."""
    history, truth = targets.history, targets.truth
    users = targets.users()
    read = history.positives()
    with inference(model):
        parts = [
            map_state(
                lambda part: part.cpu(),
                model.encode_users(users_with_history(dataset, read, ids, model.history_length)),
            )
            for ids in users.split(USERS)
        ]
    row_of = torch.full((len(truth.offsets) - 1,), -1, device=users.device)
    row_of[users] = torch.arange(len(users), device=users.device)
    return Asked(join(parts), history.seen(users).cpu(), row_of[truth.users()].cpu(), truth.items.cpu())


def training_states(model: Model, dataset: Dataset, train: Log, number: int, seed: int) -> State:
    """Encode users as they were before ``number`` training events, drawn among those that have a history."""
    rows = EventRows(dataset, train, history_length=training_length(model), item_features=False)
    first = train.offsets[:-1][train.users()].cpu()
    later = (torch.arange(train.num_events) > first).nonzero()[:, 0]
    drawn = later[torch.randperm(len(later), generator=torch_generator(seed, "codes of lists"))[:number]]
    with inference(model):
        return join(
            [
                map_state(lambda part: part.cpu(), model.encode_users(rows.cut(part).users))
                for part in drawn.split(USERS)
            ]
        )


def nominating(model: Model, dataset: Dataset, train: Log, *, codes: int, seed: int) -> Lists:
    """Return searches by lists of k-means codes, ranked by the model's inner product, by the length of a list."""
    states = training_states(model, dataset, train, STATES_A_CODE * codes, seed)
    assert isinstance(states, Tensor)
    codes = max(1, min(codes, len(states) // 4))
    index = Nominate(states, codes=codes, nearest=NEAREST, seed=seed)
    items = encode_known_items(model, dataset)
    vectors, ids = map_state(lambda part: part.cpu(), items.states), items.ids.cpu()

    def lists(longest: int) -> tuple[Search, Postings]:
        index.longest = longest
        index.build(vectors, ids)
        return lambda users, k, seen: index.search(users, k, seen).ids, index.lists

    return lists


def own_lists(model: SparCode, dataset: Dataset) -> Lists:
    """Return searches by the model's own lists, by the length that each is cut to.

    A user is answered by the weighted sum over the lists of its codes; nothing is rescored.
    """
    score, ids = _scores_of_lists(model, dataset)

    def lists(longest: int) -> tuple[Search, Postings]:
        with inference(model):
            built = build_postings(score, model.num_lists, ids, longest=longest)
        return _sums(built), built

    return lists


def lists_by_one_bias(model: SparCode, dataset: Dataset) -> Lists:
    """Return searches by lists of every score above one threshold, which is taken off, by the mean length of a list.

    Source: SparCode (Su et al., SIGIR 2023), equation 15. Difference: the threshold is on the activated score.
    """
    score, ids = _scores_of_lists(model, dataset)
    with inference(model):
        parts = torch.arange(model.num_lists).split(CODE_TILE)
        every = torch.cat([score(part, slice(0, len(ids))).flatten() for part in parts])

    def lists(longest: int) -> tuple[Search, Postings]:
        left_out = every.numel() - longest * model.num_lists
        bias = every.kthvalue(left_out).values.item() if left_out > 0 else every.min().item() - 1.0
        with inference(model):
            built = build_postings(
                lambda codes, some: score(codes, some) - bias, model.num_lists, ids, longest=len(ids), above=0.0
            )
        return _sums(built), built

    return lists


def _scores_of_lists(model: SparCode, dataset: Dataset) -> tuple[Callable[[Tensor, slice], Tensor], Tensor]:
    """What each code scores some items, and the items' ids."""
    items = encode_known_items(model, dataset)
    device = items.ids.device

    def score(codes: Tensor, some: slice) -> Tensor:
        return model.list_scores(codes.to(device), take(items.states, some)).cpu()

    return score, items.ids.cpu()


def _sums(lists: Postings) -> Search:
    def search(users: State, k: int, seen: Tensor) -> Tensor:
        assert isinstance(users, Coded)
        return search_postings(lists, users.codes, users.weights, k, exclude=seen).ids

    return search


def down_the_tree(model: TDM, dataset: Dataset, *, beam: int) -> Search:
    """Return the search of a model's tree by a beam of so many nodes."""
    items, device = encode_known_items(model, dataset), dataset.device
    index = TreeIndex(model, beam=beam)
    index.build(items.states, items.ids)

    def search(users: State, k: int, seen: Tensor) -> Tensor:
        with inference(model):
            return index.search(map_state(lambda part: part.to(device), users), k, seen.to(device)).ids.cpu()

    return search


def filled(found: Tensor, seen: Tensor, popular: Tensor) -> Tensor:
    """Return the answers with ``popular`` items, best first, in their free places; none that was seen or is there."""
    answers = found.clone()
    for row in (found < 0).any(1).nonzero()[:, 0].tolist():
        there = found[row][found[row] >= 0]
        wanted = found.shape[1] - len(there)
        near = popular[: wanted + len(there) + seen.shape[1]]
        fresh = near[~torch.isin(near, torch.cat([there, seen[row]]))][:wanted]
        answers[row, len(there) : len(there) + len(fresh)] = fresh
    return answers


def ranks_of(answers: Tensor, asked: Asked) -> Tensor:
    """Return the 0-based rank of each truth in its user's answers, `MISSED` where it is not there."""
    same = answers[asked.rows] == asked.truths[:, None]
    return torch.where(same.any(1), same.int().argmax(1), MISSED)
