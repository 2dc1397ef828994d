"""Similarity of pairs: mean and deviation in closed form, the rest from all cosines or from a fine histogram."""

from __future__ import annotations

import math

import torch
from torch import Tensor

from twotower.ops.cosines import BINS_PER_UNIT
from twotower.ops.spectrum import Moments

ENTROPY_BINS = 1000
"""Equal bins from -1 to 1, the same for every space, so that the entropies of two spaces compare."""
ENTROPY_BASE = 2
PERCENTILES = {"p10": 0.10, "p25": 0.25, "median": 0.50, "p75": 0.75, "p90": 0.90}


def pair_moments(unit: Moments) -> tuple[float, float]:
    """Return mean and standard deviation of the cosines of all pairs of distinct rows.

    The deviation is divided by the number of pairs.

    With m the mean and C the covariance of n unit vectors, cos(i, j) − |m|² sums to −n tr C over i ≠ j, and its square
    to n² |C|² + 2 n² mᵀCm − n (tr C)². No pair is formed, and the digits of a narrow cone are kept.
    """
    n, mean, covariance = unit.rows, unit.mean, unit.covariance()
    spread = covariance.trace().item()
    shift = -spread / (n - 1)
    squares = n * covariance.square().sum().item() + 2 * n * (mean @ covariance @ mean).item() - spread**2
    variance = squares / (n - 1) - shift**2
    # below the rounding of the spread itself there is no deviation to speak of
    deviation = math.sqrt(variance) if variance > 0.0 and spread > 1e-24 else 0.0
    return mean.square().sum().item() + shift, deviation


def with_self(mean: float, deviation: float, rows: int) -> tuple[float, float]:
    """Return the same two figures when each row's cosine 1 with itself is counted once among the unordered pairs."""
    pairs = rows * (rows - 1) / 2
    total = pairs + rows
    joined = (pairs * mean + rows) / total
    square = (pairs * (deviation**2 + (mean - joined) ** 2) + rows * (1.0 - joined) ** 2) / total
    return joined, math.sqrt(square)


def describe_values(ordered: Tensor, self_pairs: int = 0) -> dict[str, float]:
    """Return percentiles, extremes, entropy and uniformity of all cosines in rising order.

    With ``self_pairs``, that many cosines of 1 are counted with them.
    """
    values = torch.cat([ordered.double().clamp(max=1.0), torch.ones(self_pairs, dtype=torch.float64)])
    last = len(values) - 1
    figures = {name: _between(values, share * last) for name, share in PERCENTILES.items()}
    bins = ((values + 1.0) * (ENTROPY_BINS / 2)).floor().clamp(0, ENTROPY_BINS - 1).long()
    counts = torch.bincount(bins, minlength=ENTROPY_BINS)
    return {
        **figures,
        "min": values[0].item(),
        "max": values[-1].item(),
        "entropy": _entropy(counts),
        "uniformity": torch.logsumexp(4.0 * values - 4.0, 0).item() - math.log(len(values)),
    }


def describe_histogram(histogram: Tensor, self_pairs: int = 0) -> dict[str, float]:
    """Return the same figures within 1e-6, from counts by fine bin."""
    counts = histogram
    if self_pairs:
        counts = histogram.clone()
        counts[-1] += self_pairs
    before = counts.cumsum(0)
    total = int(before[-1])
    centre = (torch.arange(len(counts), dtype=torch.float64) + 0.5) / BINS_PER_UNIT - 1.0
    figures = {}
    for name, share in PERCENTILES.items():
        place = share * (total - 1)
        low, high = math.floor(place), math.ceil(place)
        bins = torch.searchsorted(before, torch.tensor([low, high]), right=True)
        first, second = centre[bins].tolist()
        figures[name] = first + (second - first) * (place - low)
    filled = counts.nonzero()[:, 0]
    weight = counts[filled].double()
    coarse = counts.view(ENTROPY_BINS, -1).sum(1)
    return {
        **figures,
        "min": centre[filled[0]].item(),
        "max": 1.0 if self_pairs else centre[filled[-1]].item(),
        "entropy": _entropy(coarse),
        "uniformity": torch.logsumexp(4.0 * centre[filled] - 4.0 + weight.log(), 0).item() - math.log(total),
    }


def coarse_histogram(cosines: Tensor | None, histogram: Tensor | None, bins: int = 200) -> list[int]:
    """Return pairs by equal bin from -1 to 1, for drawing: from all cosines, or from the fine histogram."""
    if histogram is not None:
        return histogram.view(bins, -1).sum(1).tolist()
    assert cosines is not None
    return torch.histc(cosines.double().clamp(-1.0, 1.0), bins, -1.0, 1.0).long().tolist()


def _between(ordered: Tensor, place: float) -> float:
    low = math.floor(place)
    first = ordered[low].item()
    return first + (ordered[math.ceil(place)].item() - first) * (place - low)


def _entropy(counts: Tensor) -> float:
    share = counts.double() / counts.sum()
    return torch.special.entr(share).sum().item() / math.log(ENTROPY_BASE)
