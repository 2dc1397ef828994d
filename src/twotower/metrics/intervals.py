"""Bootstrap intervals of a mean over users, and a paired permutation test between two models."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

from twotower.core.seeds import numpy_generator

ENTRIES = 1 << 22
"""Numbers drawn at a time: memory stays the same however many users and resamples there are."""


class PermutationTest(NamedTuple):
    """Hold the mean difference a − b and its two-sided p-value.

    The p-value is the chance of a difference at least as far from 0 when the two are alike.
    """

    difference: float
    p_value: float


def holm(p_values: Sequence[float]) -> list[float]:
    """Correct p-values for their number, so that the chance of any false alarm among them stays below the level.

    The i-th smallest of m is multiplied by m - i + 1; none falls below a smaller one's, and none exceeds 1.

    Source: Holm, Scandinavian Journal of Statistics 1979.

    Examples:
        >>> holm([0.01, 0.04, 0.03])
        [0.03, 0.06, 0.06]
    """
    order = sorted(range(len(p_values)), key=lambda place: p_values[place])
    corrected, largest = [0.0] * len(p_values), 0.0
    for rank, place in enumerate(order):
        largest = max(largest, min(1.0, (len(p_values) - rank) * p_values[place]))
        corrected[place] = largest
    return corrected


def bootstrap_intervals(
    values: Float[Tensor, "users metrics"], *, confidence: float = 0.95, resamples: int = 1000, seed: int = 0
) -> Float[Tensor, "metrics 2"]:
    """Return percentile intervals of the means over users: [low, high] of each metric, float64.

    Users are drawn with replacement, all metrics of one draw from the same users. The interval speaks of other users of
    the same population under the same trained model; it holds nothing of how training varies with its seed.

    Source: Efron and Tibshirani, An Introduction to the Bootstrap, 1993, section 13.3.

    Raises:
        ValueError: if there are no users, ``confidence`` is not between 0 and 1, or ``resamples`` is below 1.
    """
    if not len(values) or not 0.0 < confidence < 1.0 or resamples < 1:
        raise ValueError(
            "need at least one user, confidence between 0 and 1 and at least 1 resample, "
            f"got {len(values)}, {confidence} and {resamples}"
        )
    table = values.detach().cpu().double().numpy()
    users = len(table)
    generator = numpy_generator(seed, "bootstrap")
    means = np.empty((resamples, table.shape[1]))
    step = max(1, ENTRIES // users)
    for start in range(0, resamples, step):
        rows = min(step, resamples - start)
        drawn = generator.integers(users, size=(rows, users)) + users * np.arange(rows)[:, None]
        times = np.bincount(drawn.ravel(), minlength=rows * users).reshape(rows, users)
        means[start : start + rows] = times @ table / users
    tail = (1.0 - confidence) / 2.0
    return torch.from_numpy(np.quantile(means, [tail, 1.0 - tail], axis=0).T.copy())


def paired_permutation(
    first: Float[Tensor, " users"], second: Float[Tensor, " users"], *, permutations: int = 10_000, seed: int = 0
) -> PermutationTest:
    """Test the mean difference between two models on the same users by sign flips, two-sided.

    Under "the models are alike" each user's difference may as well have the other sign. With P random flips of all
    signs, p = (1 + those whose mean is at least as far from 0) / (1 + P); so p is never 0.

    Source: Good, Permutation, Parametric and Bootstrap Tests of Hypotheses, 2005, section 3.2; the added 1 is from
    Phipson and Smyth, Stat. Appl. Genet. Mol. Biol. 2010.

    Raises:
        ValueError: if there are no users, the two lengths differ, or ``permutations`` is below 1.
    """
    if len(first) != len(second) or not len(first) or permutations < 1:
        raise ValueError(
            "need the same users, at least one, for both models and at least 1 permutation, "
            f"got {len(first)}, {len(second)} and {permutations}"
        )
    difference = (first.detach().cpu().double() - second.detach().cpu().double()).numpy()
    users, total = len(difference), difference.sum()
    # Sums in another order differ in their last bits: without this, exact ties would fall on either side.
    bar = abs(total) - 1e-12 * np.abs(difference).sum()
    generator = numpy_generator(seed, "permutation")
    extreme = 0
    step = max(1, ENTRIES // users)
    for start in range(0, permutations, step):
        rows = min(step, permutations - start)
        flipped = np.unpackbits(generator.integers(256, size=(rows, -(-users // 8)), dtype=np.uint8), axis=1)
        sums = total - 2.0 * (flipped[:, :users] @ difference)
        extreme += int((np.abs(sums) >= bar).sum())
    return PermutationTest(float(total / users), (1 + extreme) / (1 + permutations))
