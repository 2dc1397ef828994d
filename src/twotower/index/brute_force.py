"""Exact search under any model's score, for models that a vector index cannot serve."""

from __future__ import annotations

from pathlib import Path

import torch

from twotower.index.base import ModelIndex, ScoringModel
from twotower.index.scan import Scan


class BruteForceIndex(Scan, ModelIndex):
    """Score every item for every user by the model's own score.

    Args:
        model: scores (user states, item states) -> a new tensor [users, items].
    """

    def __init__(self, model: ScoringModel) -> None:
        super().__init__(model.score, model.item_store.read)

    @classmethod
    def load(cls, folder: Path, *, model: ScoringModel, device: torch.device | str = "cpu") -> BruteForceIndex:
        """Read what `save` wrote.

        Raises:
            InputError: if the file is missing, or it holds another model's states.
        """
        index = cls(model)
        index.restore(folder)
        index.to(device)
        return index
