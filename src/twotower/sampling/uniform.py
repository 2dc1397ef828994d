"""Uniform negatives: every known item equally likely."""

from __future__ import annotations

import math

import torch
from torch import Tensor

from twotower.core.errors import InputError
from twotower.core.records import FIRST_KNOWN, Batch, Negatives
from twotower.sampling.base import batch_items


class Uniform:
    """Draw ``count`` known items independently, with replacement; log q = log(count / known items).

    Args:
        num_items: rows of the item vocabulary, padding and unknown included.
        count: draws; for each row when ``per_row``, else shared by all rows.
        generator: on the device of the batch.
        per_row: give every row its own draws, [rows, count]; BCE with n negatives wants that.

    Raises:
        InputError: if ``count`` is below 1 or above the number of known items.
    """

    def __init__(self, num_items: int, count: int, generator: torch.Generator, *, per_row: bool = False) -> None:
        known = num_items - FIRST_KNOWN
        if not 1 <= count <= known:
            raise InputError(
                f"uniform negatives: {count} asked of {known} items; ask for 1 to {known} "
                "(or take the full softmax, which needs no sample)"
            )
        self.num_items = num_items
        self.count = count
        self.generator = generator
        self.per_row = per_row
        self._log_q = math.log(count / known)

    def sample(self, batch: Batch) -> Negatives:
        """Return fresh draws."""
        items = batch_items(batch)
        shape = (len(items), self.count) if self.per_row else (self.count,)
        ids = torch.randint(FIRST_KNOWN, self.num_items, shape, generator=self.generator, device=items.device)
        return Negatives(ids, torch.full(shape, self._log_q, device=items.device))

    def log_q(self, ids: Tensor, rows: int = 0) -> Tensor:
        """Return the log of the expected count of any item, the same for all; ``rows`` does not matter."""
        return torch.full(ids.shape, self._log_q, device=ids.device)

    def replayed(self) -> list[torch.Generator] | None:
        """Return its generator; draws of each row's own are encoded once an item, and so differ in number."""
        return None if self.per_row else [self.generator]

    def state_dict(self) -> dict[str, Tensor]:
        """Return the generator's state."""
        return {"generator": self.generator.get_state()}

    def load_state_dict(self, state: dict[str, Tensor]) -> None:
        """Restore the generator, so that the next draws are those that would have come."""
        self.generator.set_state(state["generator"])
