"""Nominating and ranking by any score: the items in the lists of a user's codes, in the order of the model."""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor

from twotower.core.records import State, TopK
from twotower.core.states import take
from twotower.index.checks import nothing
from twotower.index.postings import Postings
from twotower.index.scan import Score
from twotower.ops.topk import top_k


def rank_nominated(
    lists: Postings,
    score: Score,
    item_states: State,
    user_states: State,
    codes: Tensor,
    k: int,
    *,
    exclude: Tensor | None = None,
    allowed: Tensor | None = None,
) -> TopK:
    """Score the items in the lists of each user's codes and return the best ``k``; equal scores: the lower id first.

    Args:
        lists: of the codes.
        score: every user with every item.
        item_states: of the items of the lists, by ascending id.
        user_states: who asks.
        codes: of each user, int64 [users, n].
        k: how many; fewer are padded.
        exclude: int64 [users, n] of ids not to return, -1 where unused.
        allowed: bool [items], in ascending order of id: False is not returned.
    """
    found = TopK(*nothing(len(codes), k, torch.device("cpu")))
    wanted = np.zeros(len(lists.ids), dtype=np.bool_)
    with torch.inference_mode():
        for user, row in enumerate(codes.tolist()):
            for code in row:
                wanted[lists.places[lists.offsets[code] : lists.offsets[code + 1]]] = True
            if exclude is not None:
                unwanted = exclude[user].numpy()
                at = np.searchsorted(lists.ids, unwanted).clip(max=len(lists.ids) - 1)
                wanted[at[lists.ids[at] == unwanted]] = False
            places = np.flatnonzero(wanted if allowed is None else wanted & allowed.numpy())
            wanted[:] = False
            if len(places):
                state, chosen = take(user_states, slice(user, user + 1)), torch.from_numpy(places)
                best = top_k(score(state, take(item_states, chosen)).float(), k)
                ids = torch.from_numpy(lists.ids[places[best.ids[0].clamp(min=0).numpy()]])
                found.scores[user], found.ids[user] = best.scores[0], torch.where(best.ids[0] < 0, -1, ids)
    return found
