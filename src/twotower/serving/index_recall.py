"""Recall of a bundle's index against exact search, for a sample of the bundle's own users."""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor

from twotower.core.records import Users
from twotower.core.seeds import torch_generator
from twotower.index.base import ModelIndex
from twotower.models.base import prepare_serving
from twotower.models.encode import inference
from twotower.serving.bundle import Bundle

K = 10
MOST_USERS = 256
TILE = 16
"""Users whose scores with the whole catalogue are in memory at a time."""
SLACK = 1e-5
"""Of the least score that belongs to the best k, relative: indexes add up in another order."""


class IndexRecall(NamedTuple):
    """Hold how much of exact search's answers an index finds."""

    recall: float
    """Mean over users of the share of the best k that come back; of equal scores any will do."""
    k: int
    users: int


def index_recall(bundle: Bundle, *, k: int = K, most_users: int = MOST_USERS, seed: int = 0) -> IndexRecall | None:
    """Compare the bundle's index with the model itself: the best ``k`` items of users drawn from the bundle.

    A user is asked for as the service would, from the stored history; in a bundle without histories, each of as many
    items is the history of one who is not known.

    Args:
        bundle: its stored item states are scored.
        k: length of the lists; at most as long as the catalogue.
        most_users: of more, a sample is drawn.
        seed: of the draw.

    Returns:
        The recall; None where the bundle has no index, or one that scores every item by the model itself.
    """
    index = bundle.index
    if index is None or (isinstance(index, ModelIndex) and index.is_exact):
        return None
    model, ids = bundle.model, bundle.item_ids
    items = model.item_store.whole(bundle.item_states)
    k = min(k, len(ids))
    place = torch.full((int(ids.max()) + 1,), -1, device=ids.device)
    place[ids] = torch.arange(len(ids), device=ids.device)
    found: list[Tensor] = []
    with inference(model):
        prepare_serving(model)
        for users in _asked(bundle, most_users, seed):
            states = model.encode_users(users)
            scores = model.score(states, items)
            least = scores.topk(k, dim=1).values[:, -1:]
            answered = index.search(states, k).ids.to(ids.device)
            column = torch.where(
                (answered >= 0) & (answered < len(place)), place[answered.clamp(0, len(place) - 1)], -1
            )
            theirs = scores.gather(1, column.clamp(min=0))
            right = (column >= 0) & (theirs >= least - SLACK * least.abs())
            found.append(right.sum(dim=1).double() / k)
    shares = torch.cat(found)
    return IndexRecall(float(shares.mean()), k, len(shares))


def _asked(bundle: Bundle, most: int, seed: int) -> list[Users]:
    """Users in tiles, as the user tower reads them."""
    generator = torch_generator(seed, "index recall")
    rows = bundle.positives.lengths.nonzero()[:, 0].cpu()
    if len(rows):
        drawn = rows[torch.randperm(len(rows), generator=generator)[:most]].to(bundle.device)
        return [bundle.users(part) for part in drawn.split(TILE)]
    items = bundle.item_ids.cpu()
    drawn = items[torch.randperm(len(items), generator=generator)[:most]].to(bundle.device)
    return [bundle.newcomer(item[None]) for item in drawn]
