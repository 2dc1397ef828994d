"""Context of a build: the run, data, training log and model that factories read."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property

import torch

from twotower.core.errors import InputError
from twotower.core.seeds import torch_generator
from twotower.data.dataset import Dataset
from twotower.data.log import Log
from twotower.experiment.run import Run
from twotower.models.base import Model
from twotower.sampling.base import Frequency
from twotower.sampling.counts import ItemCounts
from twotower.sampling.frequency import StreamingFrequency
from twotower.training.config import Sampling

CELLS_OF_ITEM, MOST_CELLS = 4, 1 << 22
"""Cells that each array of the streaming frequency has for an item, and in all at most."""


@dataclass(frozen=True)
class BuildContext:
    """Hold the run, data, training log and model that factories of samplers, losses and batches read."""

    run: Run
    dataset: Dataset
    train: Log
    model: Model

    @property
    def sampling(self) -> Sampling:
        """Return the section of the run."""
        return self.run.sampling

    @property
    def num_items(self) -> int:
        """Return the rows of the item vocabulary."""
        return self.dataset.schema.num_items

    def generator(self, purpose: str) -> torch.Generator:
        """Return the generator of one source, on the device of the batches."""
        return torch_generator(self.run.training.seed, "sampling", purpose, device=self.dataset.device)

    def rows(self, source: str, rows: int) -> int | None:
        """Return how many rows of a batch a source takes, None for all; ``rows`` is its setting, 0 for all.

        Raises:
            InputError: if a batch has fewer.
        """
        most = self.run.training.batch_size
        if rows > most:
            raise InputError(
                f"sampling.sources.{source}.rows: {rows} of the {most} rows of a batch; lower it, or raise "
                "training.batch_size"
            )
        return rows or None

    @cached_property
    def counts(self) -> ItemCounts:
        """Return how often each item occurs in the training log."""
        return ItemCounts(self.train.positives().items, self.num_items).to(self.dataset.device)

    @cached_property
    def frequency(self) -> Frequency:
        """Return the frequency that log q is computed from, one for all sources.

        The in-batch source feeds it, others read it.
        """
        if self.sampling.frequency == "counts":
            return self.counts
        width = min(CELLS_OF_ITEM * self.num_items, MOST_CELLS)
        return StreamingFrequency(width, seed=self.run.training.seed, device=self.dataset.device)

    def need_inner_product(self, what: str) -> None:
        """Refuse a model whose score is no inner product.

        Raises:
            InputError: names what asked for it.
        """
        if not self.model.inner_product:
            raise InputError(
                f"{what} needs one vector a user and an item, scored by inner product, and model "
                f"'{self.run.model.name}' has another score"
            )

    def need_vectors(self, what: str) -> None:
        """Refuse a model whose states are not one vector each.

        Raises:
            InputError: names what asked for them.
        """
        if not self.model.has_vectors:
            raise InputError(f"{what} needs one vector a user and an item, but model '{self.run.model.name}' has none")
