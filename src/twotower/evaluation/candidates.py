"""Evaluation on lists of candidates: the ranks of the relevant ones among the candidates given."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import torch
from jaxtyping import Int
from torch import Tensor

from twotower.core.errors import InputError
from twotower.core.records import FIRST_KNOWN, State, TopK
from twotower.core.schema import Side
from twotower.core.seeds import torch_generator
from twotower.core.states import join
from twotower.data.dataset import Dataset
from twotower.data.log import Log
from twotower.data.split import Targets
from twotower.evaluation.result import Result, question
from twotower.index.brute_force import BruteForceIndex
from twotower.metrics.ranking import MISSED, ranking_metrics
from twotower.models.base import Model
from twotower.models.encode import ItemStates, encode_items, inference, users_with_history
from twotower.models.rank import NO_CANDIDATE, rank
from twotower.ops.ragged import expand

CPU_PAIRS, CUDA_PAIRS = 65_536, 262_144
"""Pairs of a user and a candidate scored at a time."""
ITEM_TILE = 8_192


class TwoStage(NamedTuple):
    """Hold the figures of a retriever and a pre-ranker as a whole."""

    stage_one: Result
    """The retriever's own order. Its recall at the number of candidates bounds what any second stage can reach."""
    pair: Result
    """The same candidates in the pre-ranker's order."""


def evaluate_candidates(
    model: Model,
    dataset: Dataset,
    targets: Targets,
    lists: Int[Tensor, "queries candidates"],
    ks: Sequence[int] = (10, 100),
    *,
    split: str = "test",
    items: ItemStates | None = None,
) -> Result:
    """Rank each user's own candidates by the whole model and give the ranks of the relevant ones.

    Ties: the lower id first.

    Args:
        model: any model.
        dataset: features of users and items.
        targets: the histories that users are encoded from, and the relevant items.
        lists: candidates of each user of ``targets.users()``, in that order; -1 fills up. A relevant item that its
            user's list lacks is missed.
        ks: list lengths.
        split: what the targets are called in reports.
        items: what the model makes of every known item, where that is at hand; None: they are encoded.

    Raises:
        InputError: if the data are not the model's, there is nobody to ask, the lists are not one a user, or a
            candidate is unknown or stands twice.
    """
    ordered = candidate_scores(model, dataset, targets, lists, split=split, items=items).ids
    return result_of_lists(dataset, targets, ordered, ks, split)


def candidate_scores(
    model: Model,
    dataset: Dataset,
    targets: Targets,
    lists: Int[Tensor, "queries candidates"],
    *,
    split: str = "test",
    items: ItemStates | None = None,
) -> TopK:
    """Order each user's own candidates by the whole model, with its scores; arguments as of `evaluate_candidates`.

    Raises:
        InputError: as `evaluate_candidates`.
    """
    check_data(model, dataset)
    users, history, _ = _asked(dataset, targets, split)
    lists = lists.to(dataset.device)
    if lists.ndim != 2 or len(lists) != len(users):
        raise InputError(f"split '{split}': {len(users)} users are asked about, but lists are {tuple(lists.shape)}")
    budget = CUDA_PAIRS if dataset.device.type == "cuda" else CPU_PAIRS
    ordered, scores = torch.empty_like(lists), torch.empty(lists.shape, device=lists.device)
    with inference(model):
        states = _all_states(model, dataset, items)
        for rows in torch.arange(len(users), device=dataset.device).split(max(1, budget // lists.shape[1])):
            asked = users_with_history(dataset, history, users[rows], model.history_length)
            best = rank(model, asked, states, lists[rows])
            ordered[rows], scores[rows] = best.ids, best.scores.float()
    return TopK(scores, ordered)


def result_of_lists(
    dataset: Dataset,
    targets: Targets,
    lists: Int[Tensor, "queries candidates"],
    ks: Sequence[int] = (10, 100),
    split: str = "test",
) -> Result:
    """Evaluate ordered lists, one a user of ``targets.users()``, by the places of the relevant items.

    Raises:
        InputError: if there is nobody to ask.
    """
    users, _, truth = _asked(dataset, targets, split)
    return _result(users, truth, lists, ks, split)


def evaluate_two_stage(
    retriever: Model,
    ranker: Model,
    dataset: Dataset,
    targets: Targets,
    *,
    candidates: int = 2_000,
    ks: Sequence[int] = (10, 100),
    mask_seen: bool = True,
    split: str = "test",
) -> TwoStage:
    """Evaluate the retriever's best ``candidates`` of each user, and their order by the pre-ranker.

    Metrics count every relevant item, also those that the first stage did not bring. `TwoStage.stage_one` has metrics
    at ``candidates`` too.

    Args:
        retriever: any model; searched exactly, so that index loss is no part of the figures.
        ranker: any model over the same items.
        dataset: features of users and items.
        targets: who is asked about, and what is relevant.
        candidates: handed from the first stage to the second.
        ks: list lengths of the answers.
        mask_seen: whether what a user has seen (`Log.seen` of the history: events of whatever label) is left out.
        split: what the targets are called in reports.

    Raises:
        InputError: if ``candidates`` is below 1, there is nobody to ask, or the data are not those of both models.
    """
    check_data(ranker, dataset)
    users, _, truth = _asked(dataset, targets, split)
    lists = retrieved_lists(retriever, dataset, targets, candidates, mask_seen=mask_seen, split=split)
    return TwoStage(
        _result(users, truth, lists, sorted({*ks, candidates}), split),
        evaluate_candidates(ranker, dataset, targets, lists, ks, split=split),
    )


def retrieved_lists(
    retriever: Model,
    dataset: Dataset,
    targets: Targets,
    candidates: int = 2_000,
    *,
    mask_seen: bool = True,
    split: str = "test",
) -> Int[Tensor, "queries candidates"]:
    """Return the retriever's best items of each user of ``targets.users()``, best first; -1 fills up.

    Raises:
        InputError: if ``candidates`` is below 1, the data are not the model's, or there is nobody to ask.
    """
    return found_candidates(retriever, dataset, targets, candidates, mask_seen=mask_seen, split=split).ids


def found_candidates(
    retriever: Model,
    dataset: Dataset,
    targets: Targets,
    candidates: int = 2_000,
    *,
    mask_seen: bool = True,
    split: str = "test",
) -> TopK:
    """Return `retrieved_lists` with the retriever's scores.

    Raises:
        InputError: as `retrieved_lists`.
    """
    check_data(retriever, dataset)
    users, history, _ = _asked(dataset, targets, split)
    everything = targets.history.to(dataset.device)
    index = BruteForceIndex(retriever)
    found = []
    with inference(retriever):
        ids = dataset.known_items()
        index.build(encode_items(retriever, dataset, ids, ITEM_TILE), ids)
        for some in users.split(256):
            states = retriever.encode_users(users_with_history(dataset, history, some, retriever.history_length))
            seen = everything.seen(some) if mask_seen else None
            found.append(index.search(states, candidates, seen))
    return TopK(torch.cat([part.scores for part in found]), torch.cat([part.ids for part in found]))


def drawn_lists(
    dataset: Dataset, targets: Targets, candidates: int = 2_000, *, seed: int = 0
) -> Int[Tensor, "queries candidates"]:
    """Return each user's relevant items among random ones that the user has not seen.

    No two alike, drawn uniformly; -1 fills up.

    Drawn are items that have an event in the log: others are too easy. A user who met so many that fewer are left gets
    all that are.

    Raises:
        InputError: if there is nobody to ask, or fewer candidates than a user has relevant items.
    """
    users, history, truth = _asked(dataset, targets, "test")
    if int(truth.lengths.max()) > candidates:
        raise InputError(
            f"{candidates} candidates are fewer than the {int(truth.lengths.max())} relevant items of a user"
        )
    device, num_items = dataset.device, dataset.schema.num_items
    generator = torch_generator(seed, "candidates", device=device)
    width = min(candidates, num_items - FIRST_KNOWN)
    lists = []
    unknown = torch.ones(num_items, dtype=torch.bool, device=device)
    unknown[dataset.log.items] = False
    unknown[:FIRST_KNOWN] = True
    for some in users.split(512):
        # The largest of random keys are a uniform draw without repetition; relevant items have a larger key than any.
        keys = torch.rand(len(some), num_items, generator=generator, device=device)
        keys[:, unknown] = -1.0
        for log, key in ((dataset.log, -1.0), (history, -1.0), (truth, 2.0)):
            rows, events = expand(log.offsets[some], log.offsets[some + 1])
            keys[rows, log.items[events]] = key
        best = keys.topk(width, dim=1)
        lists.append(best.indices.masked_fill(best.values < 0, NO_CANDIDATE))
    return torch.cat(lists)


def _asked(dataset: Dataset, targets: Targets, split: str) -> tuple[Tensor, Log, Log]:
    """The users asked about, what their tower reads, and what is relevant, on the data set's device."""
    truth = targets.truth.to(dataset.device).positives()
    users = truth.lengths.nonzero()[:, 0]
    if not len(users):
        raise InputError(f"split '{split}': no user has an event to be found, so there is nothing to evaluate")
    return users, targets.history.to(dataset.device).positives(), truth


def check_data(model: Model, dataset: Dataset) -> None:
    """Refuse data that cannot be those of the model; users and items that came after training may follow the others.

    Raises:
        InputError: if there are fewer items than the model knows, or a feature that it reads is missing or another.
    """
    advice = "give the data that it was trained on"
    if dataset.schema.num_items < model.schema.num_items:
        raise InputError(
            f"the model knows {model.schema.num_items} item rows, data set '{dataset.name}' has "
            f"{dataset.schema.num_items}: {advice}"
        )
    sides: tuple[Side, Side] = ("user", "item")
    for side in sides:
        given = {feature.name: feature for feature in dataset.schema.features(side)}
        for feature in model.schema.features(side):
            found = given.get(feature.name)
            if found is None or (found.kind, found.size, found.width) != (feature.kind, feature.size, feature.width):
                raise InputError(
                    f"data set '{dataset.name}' has no {side} feature '{feature.name}' as the model knows it: {advice}"
                )


def _all_states(model: Model, dataset: Dataset, items: ItemStates | None) -> State:
    """States of every row, so that row number = id."""
    rows = torch.arange(dataset.schema.num_items, device=dataset.device)
    if items is None:
        return encode_items(model, dataset, rows, ITEM_TILE)
    return join([encode_items(model, dataset, rows[:FIRST_KNOWN], ITEM_TILE), items.states])


def _result(users: Tensor, truth: Log, lists: Tensor, ks: Sequence[int], split: str) -> Result:
    """Metrics of ordered lists; row i of ``lists`` belongs to ``users[i]``."""
    rows, events = expand(truth.offsets[users], truth.offsets[users + 1])
    keys = (rows * (int(truth.items.max()) + 1) + truth.items[events]).unique()
    rows, items = keys // (int(truth.items.max()) + 1), keys % (int(truth.items.max()) + 1)
    here = torch.cat([lists[r] == i[:, None] for r, i in zip(rows.split(4_096), items.split(4_096), strict=True)])
    found = here.any(dim=1)
    ranks = torch.where(found, here.int().argmax(dim=1), MISSED)
    per_user = ranking_metrics(ranks, rows, len(users), ks)
    return Result(
        split=split,
        users=users.cpu(),
        num_items=lists.shape[1],
        per_user=per_user,
        metrics={name: values.mean().item() for name, values in per_user.items()},
        truths=len(rows),
        seen_truths=0,
        unreachable_truths=int((~found).sum()),
        asked=question(users.cpu(), rows.bincount(minlength=len(users)).cpu(), items.cpu()),
    )
