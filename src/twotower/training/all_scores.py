"""Full softmax of models whose score is no inner product but cheap enough to have with every item in a step."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.utils.checkpoint import checkpoint

from twotower.core.records import FIRST_KNOWN, Batch, State
from twotower.core.states import rows, take
from twotower.data.dataset import Dataset
from twotower.models.base import Model
from twotower.training.objective import Stateless, own_losses, with_terms

PAIRS = {"cuda": 1 << 24, "cpu": 1 << 20}
"""Scores of rows with items that are held at a time; what a model makes on the way is a few times that."""


class AgainstAllScores(Stateless):
    """Compute the full softmax from scores: every item is a negative of every row.

    Rows are scored in chunks, and what a chunk makes on the way is made again for its gradient, so that a step holds
    the numbers of one chunk alone. Encoded users and items are kept, so whatever they draw is drawn once.

    Args:
        dataset: whose items are encoded, once a step.
        pairs: scores at a time; None: by the kind of device.
    """

    def __init__(self, dataset: Dataset, *, pairs: int | None = None) -> None:
        self.items, self.pairs = dataset.all_items(), pairs

    def __call__(self, model: Model, batch: Batch) -> Tensor:
        """Return the mean over rows."""
        encoded = model(batch)
        table = take(model.encode_items(self.items), slice(FIRST_KNOWN, None))
        targets, scale = encoded.item_ids - FIRST_KNOWN, model.logit_scale()
        pairs = self.pairs or PAIRS.get(targets.device.type, PAIRS["cpu"])
        chunk = max(1, pairs // max(1, rows(table)))

        def part_of(users: State, items: State, wanted: Tensor) -> Tensor:
            return F.cross_entropy(model.score(users, items) * scale, wanted, reduction="sum")

        total = torch.zeros((), device=targets.device)
        for start in range(0, len(targets), chunk):
            part = slice(start, start + chunk)
            given = take(encoded.users, part), table, targets[part]
            one = chunk >= len(targets)
            total = total + (part_of(*given) if one else checkpoint(part_of, *given, use_reentrant=False))
        return with_terms(total / len(targets), own_losses(encoded))
