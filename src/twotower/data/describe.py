"""Description of a prepared data set: counts, lengths, time, popularity, and features with little information."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import Any

import torch
from torch import Tensor

from twotower.core.records import FIRST_KNOWN, PADDING, UNKNOWN
from twotower.core.schema import Feature, Side
from twotower.data.dataset import Dataset
from twotower.data.repeats import repeats_of

NEAR_CONSTANT = 0.95
"""A feature is near-constant when this share of its known rows, or more, holds one and the same value."""

_QUANTILES = {"min": 0.0, "p10": 0.1, "p25": 0.25, "median": 0.5, "p75": 0.75, "p90": 0.9, "p99": 0.99, "max": 1.0}
_TOP_SHARES = (0.01, 0.05, 0.1, 0.2)


def describe(dataset: Dataset) -> dict[str, Any]:
    """Return figures of a data set as plain values, for JSON.

    Users and items count without padding and unknown; items without an event are in the catalogue and in every figure.
    ``sparsity`` is 1 - events / (users · items). ``share_of_top`` is the share of events on the most popular 1, 5, 10
    and 20 % of the catalogue (at least one item); ``gini`` is 0 when all items are equally popular, near 1 when one
    takes all. ``repeats`` tells how often people come back to what they had: see
    `repeats_of`. There is one entry a feature: see `describe_feature`.
    """
    log, schema = dataset.log, dataset.schema
    users, items = schema.num_users - FIRST_KNOWN, schema.num_items - FIRST_KNOWN
    per_user = log.lengths[FIRST_KNOWN:]
    per_item = torch.bincount(log.items, minlength=schema.num_items)[FIRST_KNOWN:]
    return {
        "name": dataset.name,
        "users": users,
        "items": items,
        "events": log.num_events,
        "positives": int(log.is_positive().sum()),
        "sparsity": 1 - log.num_events / (users * items),
        "events_per_user": quantiles(per_user),
        "events_per_item": quantiles(per_item),
        "cold_items": int((per_item == 0).sum()),
        "single_event_users": int((per_user == 1).sum()),
        "repeats": repeats_of(log),
        "time": None if log.times is None else _time(log.times),
        "popularity": {"gini": gini(per_item), "share_of_top": _top_shares(per_item)},
        "features": [
            *(
                describe_feature("user", feature, dataset.user_features[feature.name])
                for feature in schema.user_features
            ),
            *(
                describe_feature("item", feature, dataset.item_features[feature.name])
                for feature in schema.item_features
            ),
        ],
        "split": dataset.manifest.get("split"),
        "treatments": dataset.manifest.get("treatments", []),
    }


def describe_feature(side: Side, feature: Feature, column: Tensor) -> dict[str, Any]:
    """Return one entry: what a feature is, how many rows know it, and whether it distinguishes rows.

    ``coverage`` is the share of rows with a value, ``unknown`` the share of given values that are outside the
    vocabulary, ``most_frequent`` the share of known rows that hold the most frequent value (for lists: the same whole
    list). ``finding`` is empty, 'no value', 'constant' or 'near-constant'.

    Args:
        side: whether rows are users or items.
        feature: from the schema.
        column: the feature's tensor with a row for every id, padding and unknown too.
    """
    rows = column[FIRST_KNOWN:]
    known = _is_known(feature, rows)
    entry: dict[str, Any] = {
        "side": side,
        "name": feature.name,
        "kind": feature.kind,
        "values": feature.size - FIRST_KNOWN if feature.is_discrete else None,
        "width": feature.size if feature.kind == "vector" else feature.width,
        "coverage": float(known.double().mean()) if len(rows) else 0.0,
    }
    given = rows[known]
    if feature.is_discrete:
        entry["unknown"] = float((given == UNKNOWN).sum() / (given != PADDING).sum().clamp(min=1))
    if feature.kind == "numeric" and len(given):
        exact = given.double()
        entry |= {"min": exact.min().item(), "max": exact.max().item(), "mean": feature.mean, "std": feature.std}
    most = _most_frequent(given)
    entry["most_frequent"] = most
    entry["finding"] = (
        "no value" if not len(given) else "constant" if most == 1 else "near-constant" if most >= NEAR_CONSTANT else ""
    )
    return entry


def quantiles(counts: Tensor) -> dict[str, int | float]:
    """Return minimum, quantiles (the lower of two neighbours), maximum and mean of counts: int64 [rows]."""
    ordered = counts.sort().values
    found: dict[str, int | float] = {
        name: int(ordered[int(share * (len(ordered) - 1))]) for name, share in _QUANTILES.items()
    }
    return {**found, "mean": counts.double().mean().item()}


def gini(counts: Tensor) -> float:
    """Return the Gini coefficient of counts: 0 when all are equal, (n - 1) / n when one of n has everything.

    Examples:
        >>> gini(torch.tensor([3, 3, 3])), gini(torch.tensor([0, 0, 0, 8]))
        (0.0, 0.75)
    """
    ordered = counts.sort().values.double()
    n = len(ordered)
    total = ordered.sum()
    if not total:
        return 0.0
    places = torch.arange(1, n + 1, dtype=torch.float64, device=ordered.device)
    return float(((2 * places - n - 1) * ordered).sum() / (n * total))


def _top_shares(counts: Tensor) -> dict[str, float]:
    ordered = counts.sort(descending=True).values.double()
    total = ordered.sum().clamp(min=1)
    return {
        f"{share:.0%}": float(ordered[: max(1, round(share * len(ordered)))].sum() / total) for share in _TOP_SHARES
    }


def _time(times: Tensor) -> dict[str, Any]:
    if not len(times):
        return {"first": None, "last": None, "days": 0.0}
    first, last = int(times.min()), int(times.max())
    return {"first": _date(first), "last": _date(last), "days": (last - first) / 86_400}


def _date(seconds: int) -> str | int:
    try:
        return datetime.fromtimestamp(seconds, UTC).isoformat()
    except (OverflowError, ValueError, OSError):
        return seconds


def _is_known(feature: Feature, rows: Tensor) -> Tensor:
    if feature.kind == "numeric":
        return ~rows.isnan()
    return (rows != 0).any(dim=1) if rows.ndim == 2 else rows != PADDING


def _most_frequent(rows: Tensor) -> float:
    if not len(rows):
        return 0.0
    _, counts = torch.unique(rows, dim=0, return_counts=True)
    return int(counts.max()) / len(rows)
