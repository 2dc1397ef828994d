"""A power law over ranks that is drawn and summed in closed form, so that ten million ranks take no memory."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from jaxtyping import Float, Int
from numpy.typing import NDArray

Ranks = Int[np.ndarray, "..."]
Shares = Float[np.ndarray, "..."]


@dataclass(frozen=True)
class PowerLaw:
    """Weight rank r, 0 first, by the integral of t^(−exponent) from offset + r to offset + r + 1.

    For r far above the offset that is r^(−exponent), the law of Zipf and Mandelbrot; the offset flattens the head.
    Sizes may be one number or one a draw.

    Args:
        exponent: at least 0; 0: all ranks alike.
        offset: above 0.
    """

    exponent: float
    offset: float

    def cumulative(self, ranks: Ranks, size: int | Ranks) -> Shares:
        """Return the share of all ranks below each of ``ranks``, out of ``size`` ranks; 1 from ``size`` on.

        Examples:
            >>> PowerLaw(0.0, 1.0).cumulative(np.array([0, 1, 4]), 4)
            array([0.  , 0.25, 1.  ])
        """
        low = self._integral(self.offset)
        part = self._integral(self.offset + np.asarray(ranks, dtype=np.float64)) - low
        return np.minimum(part / (self._integral(self.offset + np.asarray(size, dtype=np.float64)) - low), 1.0)

    def probability(self, ranks: Ranks, size: int | Ranks) -> Shares:
        """Return the probability of each rank.

        Examples:
            >>> PowerLaw(1.0, 1.0).probability(np.arange(3), 3)
            array([0.5       , 0.29248125, 0.20751875])
        """
        return self.cumulative(ranks + 1, size) - self.cumulative(ranks, size)

    def draw(self, uniform: Shares, size: int | Ranks) -> Ranks:
        """Return the ranks that uniform numbers of [0, 1) fall on.

        Examples:
            >>> PowerLaw(1.0, 1.0).draw(np.array([0.0, 0.49, 0.51, 0.9999]), 3)
            array([0, 0, 1, 2])
        """
        low = self._integral(self.offset)
        high = self._integral(self.offset + np.asarray(size, dtype=np.float64))
        ranks = np.floor(self._inverse(low + uniform * (high - low)) - self.offset).astype(np.int64)
        return np.clip(ranks, 0, np.asarray(size) - 1)

    def _integral(self, place: float | NDArray[np.float64]) -> NDArray[np.float64]:
        place, power = np.asarray(place, dtype=np.float64), 1.0 - self.exponent
        return np.asarray(np.log(place) if abs(power) < 1e-9 else place**power / power)

    def _inverse(self, value: NDArray[np.float64]) -> NDArray[np.float64]:
        power = 1.0 - self.exponent
        return np.asarray(np.exp(value) if abs(power) < 1e-9 else (value * power) ** (1.0 / power))
