"""Lengths that lists of a model's codes would have under one bias, epoch by epoch."""

from __future__ import annotations

import torch
from jaxtyping import Float
from torch import Tensor

from twotower.core.errors import InputError
from twotower.data.dataset import Dataset
from twotower.index.model_lists import HasLists
from twotower.models.base import Model
from twotower.models.encode import encode_items, inference
from twotower.training.callbacks import EpochRecord, Silent

MOST_ITEMS, MOST_LISTS = 2_048, 512
"""Items and lists that are looked at, evenly spaced."""
MOST_CODES = 1 << 16
"""Lists of a model, at most: combinations of several codebooks are more, and most of them are nobody's."""
SHARE = 0.02
"""Of all scores that are kept: a sparsity of 98 %."""


class ListLengths(Silent):
    """Add "longest" to the record's figures of codes once they have started.

    It must stand before the callbacks that write records.

    Source: the sparsity control of Su et al., SIGIR 2023, equation 15 (one bias for all lists). Ours: lists of a model
    that is trained further are never built; the figure says whether one bias would do, or every code should keep its
    own best items.

    Args:
        dataset: whose known items are scored.
    """

    def __init__(self, dataset: Dataset) -> None:
        self.dataset = dataset
        known = dataset.known_items()
        self.ids = known[:: -(-len(known) // MOST_ITEMS) or 1]

    def epoch_done(self, record: EpochRecord, model: Model) -> None:
        """Add the figure, where the model has lists."""
        number = _num_lists(model) if record.codes else 0
        if not number or not len(self.ids):
            return
        assert isinstance(model, HasLists)
        with inference(model):
            items = encode_items(model, self.dataset, self.ids, len(self.ids))
            assert isinstance(items, Tensor)
            lists = torch.arange(0, number, -(-number // MOST_LISTS), device=items.device)
            scores = model.list_scores(lists, items)
        record.codes["longest"] = longest_list(scores)


def _num_lists(model: Model) -> int:
    """How many lists there are; 0 where there are none, or more than are looked at."""
    try:
        number = model.num_lists if isinstance(model, HasLists) else 0
    except InputError:  # too many combinations to be numbered
        return 0
    return number if number <= MOST_CODES else 0


def longest_list(scores: Float[Tensor, "lists items"], share: float = SHARE) -> float:
    """Return the length of the longest list over the mean one, were the best ``share`` of all scores listed.

    Examples:
        >>> longest_list(torch.tensor([[3.0, 2.0, 0.0, 0.0], [1.0, 0.0, 0.0, 0.0]]), share=0.25)
        2.0
    """
    kept = max(1, round(share * scores.numel()))
    least = scores.flatten().topk(kept).values[-1]
    lengths = (scores >= least).sum(1).double()
    return float(lengths.max() / lengths.mean())
