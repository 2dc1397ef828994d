"""Registry of metrics: your own, once registered, are part of every evaluation."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from torch import Tensor

from twotower.core.errors import InputError
from twotower.core.registry import Registry
from twotower.metrics.ranking import RANKING_METRICS, ranking_metrics

Metric = Callable[[Tensor, Tensor, int, int], Tensor]
"""(ranks, queries, num_queries, k) -> one value a query, as `ranking_metrics` takes them."""

METRICS: Registry[Metric] = Registry(
    "metric",
    "twotower.METRICS",
    dict.fromkeys(RANKING_METRICS, "twotower.metrics.ranking:ranking_metrics"),
    group="twotower.metrics",
)
"""One's own comes by ``METRICS.register("name")``; results then hold "name@k"."""


def check_metrics() -> None:
    """Load every registered metric, so that one that cannot be imported is refused before anything is trained.

    Raises:
        InputError: if a plug-in cannot be imported.
    """
    for name in METRICS:
        METRICS.get(name)


def metrics_per_query(ranks: Tensor, queries: Tensor, num_queries: int, ks: Sequence[int]) -> dict[str, Tensor]:
    """Compute the built-in metrics and every registered one, float64 [queries], by names such as "recall@10".

    Args:
        ranks: 0-based rank of each relevant item; `twotower.metrics.ranking.MISSED` where the list does not hold it.
        queries: the query that each rank belongs to.
        num_queries: each owns at least one rank.
        ks: list lengths.

    Raises:
        InputError: if a registered metric gives something other than one number a query.
    """
    found = ranking_metrics(ranks, queries, num_queries, ks)
    for name in METRICS:
        if name in RANKING_METRICS:
            continue
        for k in ks:
            values = METRICS.get(name)(ranks.cpu(), queries.cpu(), num_queries, k)
            if not isinstance(values, Tensor) or values.shape != (num_queries,):
                shape = tuple(values.shape) if isinstance(values, Tensor) else type(values).__name__
                raise InputError(f"metric '{name}' must give one number a query, [{num_queries}], but gave {shape}")
            found[f"{name}@{k}"] = values.double()
    return found
