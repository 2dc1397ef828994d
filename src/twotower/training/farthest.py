"""The farthest of each user's known positives, which bounds the radius of mined negatives."""

from __future__ import annotations

import torch
from jaxtyping import Float, Int
from torch import Tensor

from twotower.data.dataset import Dataset
from twotower.models.base import Model
from twotower.models.encode import inference
from twotower.ops.ragged import expand
from twotower.sampling.known import MOST_PADDED, Positives

TABLE = 1 << 24
"""Scores or numbers held at a time: 64 MiB in float32."""
MOST_SCORES = 1 << 27
"""Scores of rows with all items on a GPU at most: half a GiB in float32."""
PAIR = 32
"""Times that one pair of vectors on its own costs a pair of a matrix product."""
WAITING = ("cuda",)
"""Kinds of device that work while the host goes on, until the host asks for a number."""


def farthest_positives(
    model: Model,
    dataset: Dataset,
    positives: Positives,
    users: Int[Tensor, " rows"],
    vectors: Float[Tensor, "rows dim"],
    scale: Tensor | float,
) -> Float[Tensor, " rows"]:
    """Return scale · (⟨u, v⟩ − ‖v‖² / 2) of the farthest of all known positives v of each row's user.

    Infinity where there is none. The items are encoded as they are served, without dropout, so that nothing is drawn
    and no running mean moves. On a GPU every item is scored where memory allows it, so that nothing waits for the
    device: a step that waits loses its turn to other processes. Elsewhere only items that some row knows are encoded,
    and only known pairs are scored where these are few.

    Args:
        model: scores inner products.
        dataset: where the features of items are looked up.
        positives: the users' known positives in the training log.
        users: of each row.
        vectors: the rows' user states.
        scale: 1 / temperature.
    """
    found = torch.full((len(users),), torch.inf, dtype=vectors.dtype, device=vectors.device)
    if not positives.longest or not len(users):
        return found
    fits = len(users) * positives.longest <= MOST_PADDED and len(users) * positives.num_items <= MOST_SCORES
    find = _among_all if fits and vectors.device.type in WAITING else _among_known
    with inference(model):
        find(model, dataset, positives, users, vectors.detach() * scale, scale, found)
    return found


def _among_all(
    model: Model,
    dataset: Dataset,
    positives: Positives,
    users: Tensor,
    scaled: Tensor,
    scale: Tensor | float,
    found: Tensor,
) -> None:
    """From a table of all items, by walking every list as if it were as long as the longest."""
    states = model.encode_items(dataset.all_items())
    table = model.score(scaled, states) - states.square().sum(1) * (scale / 2.0)
    starts, ends = positives.offsets[users, None], positives.offsets[users + 1, None]
    place = starts + torch.arange(positives.longest, device=users.device)
    held = positives.items[place.clamp(max=len(positives.items) - 1)]
    found.copy_(table.gather(1, held).masked_fill_(place >= ends, torch.inf).amin(1))


def _among_known(
    model: Model,
    dataset: Dataset,
    positives: Positives,
    users: Tensor,
    scaled: Tensor,
    scale: Tensor | float,
    found: Tensor,
) -> None:
    """From the items that some row knows: pair by pair, or where pairs are many from a table of all of them."""
    row, place = expand(positives.offsets[users], positives.offsets[users + 1])
    items = positives.items[place]
    known = torch.zeros(positives.num_items, dtype=torch.bool, device=items.device)
    known[items] = True
    distinct, slots = known.nonzero()[:, 0], (known.cumsum(0) - 1)[items]
    states = model.encode_items(dataset.items(distinct))
    half = states.square().sum(1) * (scale / 2.0)
    if len(row) * PAIR < len(users) * len(distinct):
        size = max(1, TABLE // states.shape[1])
        for rows, slot in zip(row.split(size), slots.split(size), strict=True):
            near = model.score_rows(scaled.index_select(0, rows), states.index_select(0, slot)) - half[slot]
            found.scatter_reduce_(0, rows, near.to(found.dtype), "amin")
        return
    chunk = max(1, TABLE // max(1, len(distinct)))
    for start in range(0, len(users), chunk):
        part = slice(*torch.searchsorted(row, torch.tensor([start, start + chunk], device=row.device)).tolist())
        table = model.score(scaled[start : start + chunk], states) - half
        near = table[row[part] - start, slots[part]]
        found.scatter_reduce_(0, row[part], near.to(found.dtype), "amin")
