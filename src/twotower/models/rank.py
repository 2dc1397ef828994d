"""Pre-ranking step: candidates scored by the whole model, best first."""

from __future__ import annotations

import torch
from jaxtyping import Int
from torch import Tensor

from twotower.core.errors import InputError
from twotower.core.records import FIRST_KNOWN, State, TopK, Users
from twotower.core.states import map_state, rows
from twotower.models.base import Model
from twotower.ops.topk import top_k

NO_CANDIDATE = -1
"""Fills up a user's list of candidates when another user has more."""


def rank(
    model: Model,
    users: Users,
    item_states: State,
    candidates: Int[Tensor, " candidates"] | Int[Tensor, "users candidates"],
    k: int | None = None,
) -> TopK:
    """Return the best ``k`` candidates of each user by the model's score, as ids; equal scores: the lower id first.

    Args:
        model: in evaluation mode; `prepare_serving` makes it quicker.
        users: who asks.
        item_states: states of all items, row number = id, as `encode_items` gave them or made compact.
        candidates: item ids: one list for all users [candidates], or one a user [users, candidates], where -1 fills
            up shorter lists.
        k: length of the answer; None: as many as there are candidates.

    Raises:
        InputError: if there is no candidate, one stands twice in a list, or one is not a known item; or if the states
            are not those of all ids; more may follow, of items that came after training.
    """
    check_all_items(model, item_states)
    candidates = ordered_candidates(candidates, rows(item_states))
    if candidates.ndim == 2 and len(candidates) != len(users.ids):
        raise InputError(f"{len(users.ids)} users came with {len(candidates)} lists of candidates")
    user_states = model.encode_users(users)
    if candidates.ndim == 1:
        scores = model.score_among(user_states, item_states, candidates)
        lists = candidates.expand(len(users.ids), -1)
    else:
        absent = candidates == NO_CANDIDATE
        states = gather(item_states, candidates.clamp(min=0).flatten())
        by_row = map_state(lambda part: part.unflatten(0, candidates.shape), states)
        scores = model.score_rows(user_states, by_row).masked_fill(absent, -torch.inf)
        lists = candidates
    best = top_k(scores, candidates.shape[-1] if k is None else k)
    ids = lists.gather(1, best.ids.clamp(min=0)).masked_fill(best.ids < 0, NO_CANDIDATE)
    return TopK(best.scores, ids)


def check_all_items(model: Model, item_states: State) -> None:
    """Refuse states whose row numbers are no ids, such as a bundle's, which hold known items alone.

    Raises:
        InputError: says how many rows there should be.
    """
    if rows(item_states) < model.schema.num_items:
        raise InputError(
            f"{rows(item_states)} item states, but the model knows {model.schema.num_items} ids: give those of "
            "dataset.all_items(), row number = id; for a bundle there is Retriever.rank"
        )


def ordered_candidates(
    candidates: Int[Tensor, "*users candidates"], num_items: int
) -> Int[Tensor, "*users candidates"]:
    """Return each list in order of ids.

    The tie rule of `top_k` is then that of ids, and states are read in memory's order.

    Raises:
        InputError: if there is no candidate, one stands twice in a list, or one is not a known item.
    """
    if candidates.ndim not in (1, 2) or candidates.is_floating_point():
        raise InputError(
            f"candidates are whole numbers [candidates] or [users, candidates], got {tuple(candidates.shape)} "
            f"of {candidates.dtype}"
        )
    if not candidates.numel():
        raise InputError("there are no candidates to rank; give at least one item")
    ordered = candidates.long().sort(dim=-1).values
    wrong = (ordered < FIRST_KNOWN) | (ordered >= num_items)
    twice = ordered[..., 1:] == ordered[..., :-1]
    if candidates.ndim == 2:
        wrong &= ordered != NO_CANDIDATE
        twice &= ordered[..., 1:] != NO_CANDIDATE
    some_wrong, some_twice = torch.stack([wrong.any(), twice.any()]).tolist()  # one wait for the GPU, not two
    if some_wrong:
        raise InputError(
            f"candidate {int(ordered[wrong][0])} is not a known item; those are {FIRST_KNOWN} to {num_items - 1}"
        )
    if some_twice:
        raise InputError(f"candidate {int(ordered[..., 1:][twice][0])} stands twice in a list; name it once")
    return ordered


def gather(states: State, index: Int[Tensor, " items"]) -> State:
    """Return rows of states; for rows of many numbers this is several times quicker than indexing."""
    return map_state(lambda part: part.index_select(0, index), states)
