"""log q estimated from the stream of batches: for logs too large, or too quick to change, to be counted."""

from __future__ import annotations

import math

import torch
from jaxtyping import Float, Int
from torch import Tensor

from twotower.core.errors import InputError
from twotower.core.seeds import torch_generator
from twotower.ops.frequency import PRIME, expected_gap, hash_cells, update_gaps


class StreamingFrequency:
    """Estimate log p(item) ≈ −log(steps between the batches that hold it) − log(rows of a batch).

    1 / gap estimates the probability that a batch holds the item, which is p times the rows of a batch while that
    product is well below 1; an item in every batch is held for p = 1 / rows. It follows a drifting stream with a
    memory of about 1 / ``rate`` appearances, and needs no vocabulary: ``num_hashes`` arrays of ``width`` cells, 12
    bytes each.

    Source: section 3.2 of the negative-sampling report; Yi et al., RecSys 2019, section 4. The report leaves rate,
    width and number of hashes open: these defaults are ours.

    Args:
        width: cells of an array; several times the number of items that are frequent keeps collisions rare.
        num_hashes: arrays.
        rate: share of a new gap in the running mean, between 0 and 1.
        first_gap: gap in steps of an item before it has come up.
        seed: picks the hash functions.
        device: of the batches.

    Raises:
        InputError: if a setting is out of range.
    """

    def __init__(
        self,
        width: int,
        *,
        num_hashes: int = 4,
        rate: float = 0.05,
        first_gap: float = 100.0,
        seed: int = 0,
        device: torch.device | str = "cpu",
    ) -> None:
        if not 1 <= width < PRIME or num_hashes < 1:
            raise InputError(f"streaming frequency: {num_hashes} arrays of {width} cells; both must be at least 1")
        if not 0.0 < rate <= 1.0 or not 1.0 <= first_gap < float("inf"):
            raise InputError(
                f"streaming frequency: rate must lie in 0 to 1 and first_gap be at least 1, got {rate} and {first_gap}"
            )
        generator = torch_generator(seed, "streaming frequency")
        self.width = width
        self.rate = rate
        self.multipliers = torch.randint(1, PRIME, (num_hashes,), generator=generator).to(device)
        self.offsets = torch.randint(0, PRIME, (num_hashes,), generator=generator).to(device)
        self.last_step = torch.zeros(num_hashes, width, dtype=torch.int64, device=device)
        self.gap = torch.full((num_hashes, width), first_gap, device=device)
        self.step = 0
        self.rows = 1

    def observe(self, ids: Int[Tensor, " rows"]) -> None:
        """Count one batch."""
        self.step += 1
        self.rows = len(ids)
        update_gaps(self.last_step, self.gap, self._cells(ids), self.step, self.rate)

    def log_q(self, ids: Int[Tensor, " ids"]) -> Float[Tensor, " ids"]:
        """Return the log of the probability of one draw, by the newest estimate."""
        return -expected_gap(self.gap, self._cells(ids)).log() - math.log(self.rows)

    def _cells(self, ids: Tensor) -> Tensor:
        return hash_cells(ids, self.multipliers, self.offsets, self.width)

    def state_dict(self) -> dict[str, Tensor]:
        """Return arrays and place in the stream; the hash functions come from the seed."""
        return {"last_step": self.last_step, "gap": self.gap, "place": torch.tensor([self.step, self.rows])}

    def load_state_dict(self, state: dict[str, Tensor]) -> None:
        """Restore the place in the stream."""
        if state["gap"].shape != self.gap.shape:
            raise InputError(
                f"streaming frequency: stored with arrays {tuple(state['gap'].shape)}, "
                f"this run has {tuple(self.gap.shape)}"
            )
        self.last_step, self.gap = state["last_step"].clone(), state["gap"].clone()
        self.step, self.rows = state["place"].tolist()
