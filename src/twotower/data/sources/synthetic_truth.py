"""Reachable levels on drawn data: expected metrics of the true ranking, of popularity and of chance."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

KS = (1, 5, 10, 20, 50, 100)
ROWS = 256


@dataclass(frozen=True)
class Levels:
    """Hold metrics of the test event under leave-one-out, all earlier events of the user masked.

    Given the events before it, the test event has known probabilities, so ``best_possible``, ``popularity`` and
    ``random`` are exact expectations, no estimates: the mean over users of the probability that the event is among
    the k first (recall, the same as hit rate with one event), and of 1 / log2(1 + place) there (NDCG). ``realised``
    is what the true ranking scores on the events that came; ``standard_error`` is the spread of such a score about
    its expectation, so a model can beat ``best_possible`` by luck, but rarely by more than two of it.
    """

    queries: int
    best_possible: dict[str, float]
    realised: dict[str, float]
    standard_error: dict[str, float]
    popularity: dict[str, float]
    """Rank by the count in the training part."""
    random: dict[str, float]
    """Rank all items that were not seen, cold ones too, by chance."""

    def to_dict(self) -> dict[str, Any]:
        """Return plain values, for JSON."""
        return asdict(self)

    @staticmethod
    def of(
        taken: Sequence[NDArray[np.int64]],
        log_weights: Callable[[slice], NDArray[np.float64]],
        *,
        num_items: int,
        num_cold: int = 0,
    ) -> Levels:
        """Compute the levels of drawn events.

        Args:
            taken: the items of each user, in order; at least three each. The last is the test, the last but one the
                validation.
            log_weights: natural log of the weights of some users: [rows, num_items].
            num_items: items that can be drawn.
            num_cold: items that are ranked as well and never drawn.
        """
        counts = np.bincount(np.concatenate([items[:-2] for items in taken]), minlength=num_items)
        by_count = np.argsort(-counts, kind="stable")
        sums = {name: np.zeros((2, len(KS))) for name in ("best", "realised", "variance", "popularity", "random")}
        for start in range(0, len(taken), ROWS):
            weights = log_weights(slice(start, start + ROWS))
            for row, items in zip(weights, taken[start : start + ROWS], strict=True):
                _add_user(sums, row, items, by_count, num_cold)
        means = {name: total / len(taken) for name, total in sums.items()}
        return Levels(
            queries=len(taken),
            best_possible=_named(means["best"]),
            realised=_named(means["realised"]),
            standard_error=_named(np.sqrt(means["variance"] / len(taken))),
            popularity=_named(means["popularity"]),
            random=_named(means["random"]),
        )


def largest(values: NDArray[np.float64], number: int) -> NDArray[np.int64]:
    """Return the places of the ``number`` largest values, largest first."""
    top = np.argpartition(-values, number - 1)[:number]
    return np.asarray(top[np.argsort(-values[top], kind="stable")], dtype=np.int64)


def _add_user(
    sums: dict[str, NDArray[np.float64]],
    log_weights: NDArray[np.float64],
    items: NDArray[np.int64],
    by_count: NDArray[np.int64],
    num_cold: int,
) -> None:
    left = np.ones(len(log_weights), dtype=bool)
    left[items[:-1]] = False
    number = int(left.sum())
    weights = np.where(left, np.exp(log_weights - log_weights[left].max()), 0.0)
    chance = weights / weights.sum()
    best = largest(np.where(left, log_weights, -np.inf), min(number, KS[-1]))
    popular = by_count[left[by_count]][: KS[-1]]
    gains = _gains(min(number + num_cold, KS[-1]))
    first, second = (_up_to(chance[best] * gains[:, : len(best)] ** power) for power in (1, 2))
    sums["best"] += first
    sums["variance"] += (second - first**2).clip(min=0.0)  # rounding may leave -1e-17
    sums["realised"] += _up_to((best == items[-1]) * gains[:, : len(best)])
    sums["popularity"] += _up_to(chance[popular] * gains[:, : len(popular)])
    sums["random"] += _up_to(gains / (number + num_cold))


def _gains(length: int) -> NDArray[np.float64]:
    """What a hit at each place counts: recall in row 0, NDCG in row 1."""
    return np.stack([np.ones(length), 1 / np.log2(np.arange(length) + 2)])


def _up_to(values: NDArray[np.float64]) -> NDArray[np.float64]:
    """Sums of the first k values, of all where there are fewer, for each k: [2, ks]."""
    sums = values.cumsum(axis=1)
    return np.stack([sums[:, min(k, sums.shape[1]) - 1] for k in KS], axis=1)


def _named(values: NDArray[np.float64]) -> dict[str, float]:
    names = ("recall", "ndcg")
    table = {f"{name}@{k}": float(values[row, column]) for row, name in enumerate(names) for column, k in enumerate(KS)}
    return {**table, **{f"hit_rate@{k}": table[f"recall@{k}"] for k in KS}}
