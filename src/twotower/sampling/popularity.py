"""Negatives by popularity to a power: word2vec's α = 0.75, α = 1 the training log's own frequencies, α = 0 uniform."""

from __future__ import annotations

import math

import torch
from jaxtyping import Int
from torch import Tensor

from twotower.core.errors import InputError
from twotower.core.records import FIRST_KNOWN, Batch, Negatives
from twotower.sampling.base import batch_items


class Popularity:
    """Draw ``count`` items independently, with replacement, with probability proportional to (training count)^α.

    An item without training events is never drawn, unless α = 0. Draws search the cumulative sum (float64) on the
    device of ``counts``.

    Args:
        counts: training events of each item row, int64 [items], padding and unknown included.
        count: draws, shared by all rows, or for each row when ``per_row``.
        generator: on the device of ``counts``.
        power: α above.
        per_row: give every row its own draws.

    Raises:
        InputError: if ``power`` is negative, or ``count`` is below 1 or above the number of items that can be drawn.

    Examples:
        >>> generator = torch.Generator().manual_seed(0)
        >>> source = Popularity(torch.tensor([0, 0, 9, 1, 0]), 2, generator, power=0.5)
        >>> source.log_q(torch.tensor([2, 3])).exp()
        tensor([1.5000, 0.5000])
    """

    def __init__(
        self,
        counts: Int[Tensor, " items"],
        count: int,
        generator: torch.Generator,
        *,
        power: float = 0.75,
        per_row: bool = False,
    ) -> None:
        if not 0.0 <= power < float("inf"):
            raise InputError(f"popularity negatives: power must be 0 or more and finite, got {power!r}")
        weights = counts.double() ** power
        weights[:FIRST_KNOWN] = 0.0
        drawable = int((weights > 0).sum())
        if not 1 <= count <= drawable:
            raise InputError(
                f"popularity negatives: {count} asked of {drawable} items that can be drawn "
                f"(power {power:g} leaves out items without training events); ask for 1 to {drawable}"
            )
        self.count = count
        self.generator = generator
        self.per_row = per_row
        probabilities = weights / weights.sum()
        self._cumulative = probabilities.cumsum(0)
        self._last = int(weights.nonzero()[-1])
        self._log_q = (probabilities.log() + math.log(count)).float()

    def sample(self, batch: Batch) -> Negatives:
        """Return fresh draws."""
        shape = (len(batch_items(batch)), self.count) if self.per_row else (self.count,)
        place = torch.rand(shape, generator=self.generator, dtype=torch.float64, device=self._cumulative.device)
        # right=True skips items of probability 0; the clamp is for a sum that rounds to just below 1.
        ids = torch.searchsorted(self._cumulative, place, right=True).clamp_(max=self._last)
        return Negatives(ids, self._log_q[ids])

    def log_q(self, ids: Tensor, rows: int = 0) -> Tensor:
        """Return the log of the expected count of any item, −inf for one never drawn; ``rows`` does not matter."""
        return self._log_q[ids]

    def replayed(self) -> list[torch.Generator] | None:
        """Return its generator; draws of each row's own are encoded once an item, and so differ in number."""
        return None if self.per_row else [self.generator]

    def state_dict(self) -> dict[str, Tensor]:
        """Return the generator's state."""
        return {"generator": self.generator.get_state()}

    def load_state_dict(self, state: dict[str, Tensor]) -> None:
        """Restore the generator, so that the next draws are those that would have come."""
        self.generator.set_state(state["generator"])
