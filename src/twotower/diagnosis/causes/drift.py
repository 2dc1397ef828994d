"""Drift of a feature: its values about to be served compared with those of training."""

from __future__ import annotations

import math
from typing import NamedTuple

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from twotower.core.records import PADDING, UNKNOWN
from twotower.core.schema import Feature
from twotower.core.seeds import torch_generator

BINS = 20
"""Bins of a number: quantiles of its training values."""
DRAWS = 5
"""Samples of training rows, as many as the table has, that tell what a table may look like by chance."""
FEW = 2_048
"""A table of more rows than this has its most frequent value by no chance."""


class ColumnDrift(NamedTuple):
    """Hold a feature's figures now and in training. Shares are of rows, from 0 to 1."""

    missing: float
    """Rows without a value."""
    training_missing: float
    constant: float
    """Rows that hold the most frequent value ("missing" is a value here)."""
    training_constant: float
    constant_by_chance: float
    """The largest such share among samples of training rows, as many as there are now."""
    unknown: float
    """Of the values present, those that training never saw; 0 for numbers and vectors."""
    training_unknown: float
    entropy: float | None
    """Nats, of the distribution of values: tokens for text, bins of training quantiles for numbers; None: vectors."""
    training_entropy: float | None
    js_divergence: float | None
    """Jensen-Shannon divergence, base 2, 0 to 1, of the two distributions; None for vectors."""
    js_by_chance: float | None
    """What training rows, as many as there are now, have against all training rows: small tables are never at 0."""
    mean_shift: float | None
    """Distance of the two means over the training standard deviation; numbers and vectors."""
    variance_ratio: float | None
    """Variance now over that in training; numbers and vectors."""
    outside: float | None
    """Values farther from the training mean than any value in training; numbers and vectors."""

    def rises(self) -> dict[str, float]:
        """Return what went wrong by how much, 0 to 1: the share of what was sound in training and is no longer."""

        def rise(now: float, before: float) -> float:
            return (now - before) / (1.0 - before) if now > before else 0.0

        return {
            "missing": rise(self.missing, self.training_missing),
            "constant": rise(self.constant, max(self.training_constant, self.constant_by_chance)),
            "unknown": rise(self.unknown, self.training_unknown),
            "outside": self.outside or 0.0,
            "narrow": 0.0 if self.variance_ratio is None else max(0.0, 1.0 - self.variance_ratio),
            "values": 0.0
            if self.js_divergence is None or self.js_by_chance is None
            else rise(self.js_divergence, self.js_by_chance),
        }


def compare_values(feature: Feature, now: Tensor, training: Tensor, *, seed: int = 0) -> ColumnDrift:
    """Compare a feature's values ``now`` (rows about to be served) with those in training.

    Values are as in `twotower.core.records.Features`: 0 or NaN is missing, 1 is unknown; a vector of zeros is missing.

    Source: Lin, "Divergence measures based on the Shannon entropy", 1991, equation 3.1 with weights 1/2, for the
    Jensen-Shannon divergence. The rest counts.

    Examples:
        >>> brand = Feature("brand", "categorical", 4)
        >>> found = compare_values(brand, torch.zeros(5, dtype=torch.int64), torch.tensor([2, 3, 2, 3, 2, 3]))
        >>> found.missing, found.constant, found.entropy, round(found.training_entropy, 4)
        (1.0, 1.0, 0.0, 0.6931)
        >>> round(found.js_divergence, 4)
        1.0
    """
    generator = torch_generator(seed, "drift", feature.name)
    draws = [torch.randint(len(training), (len(now),), generator=generator) for _ in range(DRAWS)]
    few = [_constant(feature, training[draw]) for draw in draws] if len(now) <= FEW else []
    entropy = training_entropy = divergence = by_chance = None
    if feature.kind != "vector":
        edges = _edges(training) if feature.kind == "numeric" else None
        then, served = _counts(feature, training, edges), _counts(feature, now, edges)
        entropy, training_entropy = _entropy(served), _entropy(then)
        divergence = jensen_shannon(served, then)
        by_chance = sum(jensen_shannon(_counts(feature, training[draw], edges), then) for draw in draws) / DRAWS
    shift = ratio = outside = None
    if not feature.is_discrete:
        shift, ratio, outside = _moved(_present(feature, now), _present(feature, training))
    return ColumnDrift(
        missing=is_missing(feature, now).double().mean().item(),
        training_missing=is_missing(feature, training).double().mean().item(),
        constant=_constant(feature, now),
        training_constant=_constant(feature, training),
        constant_by_chance=max(few, default=0.0),
        unknown=_unknown(feature, now),
        training_unknown=_unknown(feature, training),
        entropy=entropy,
        training_entropy=training_entropy,
        js_divergence=divergence,
        js_by_chance=by_chance,
        mean_shift=shift,
        variance_ratio=ratio,
        outside=outside,
    )


def jensen_shannon(first: Float[Tensor, " values"], second: Float[Tensor, " values"]) -> float:
    """Return the Jensen-Shannon divergence of two histograms of the same values, base 2.

    0 equal, 1 nothing in common.

    Examples:
        >>> jensen_shannon(torch.tensor([3.0, 1.0]), torch.tensor([6.0, 2.0]))
        0.0
    """
    p, q = first.double() / first.sum(), second.double() / second.sum()
    mixed = torch.special.entr((p + q) / 2).sum()
    value = (mixed - (torch.special.entr(p).sum() + torch.special.entr(q).sum()) / 2) / math.log(2.0)
    return min(1.0, max(0.0, value.item()))


def is_missing(feature: Feature, values: Tensor) -> Bool[Tensor, " rows"]:
    """Return which rows have no value of this feature."""
    if feature.kind == "numeric":
        return ~values.isfinite()
    if feature.kind == "vector":
        return ~values.isfinite().all(dim=1) | (values == 0).all(dim=1)
    return values == PADDING if values.ndim == 1 else (values == PADDING).all(dim=1)


def most_frequent(feature: Feature, values: Tensor) -> tuple[Tensor, int]:
    """Return the most frequent value of the rows that have one, and its count; the order of several values is ignored.

    ``values`` must have at least one row with a value.
    """
    present = _present(feature, values)
    if feature.is_discrete and present.ndim == 2:
        present = present.sort(dim=1, descending=True).values
    found, counts = present.unique(dim=0, return_counts=True)
    best = int(counts.argmax())
    return found[best], int(counts[best])


def _present(feature: Feature, values: Tensor) -> Tensor:
    return values[~is_missing(feature, values)]


def _constant(feature: Feature, values: Tensor) -> float:
    gone = int(is_missing(feature, values).sum())
    most = most_frequent(feature, values)[1] if gone < len(values) else 0
    return max(gone, most) / len(values)


def _unknown(feature: Feature, values: Tensor) -> float:
    if not feature.is_discrete:
        return 0.0
    present = int((values != PADDING).sum())
    return int((values == UNKNOWN).sum()) / present if present else 0.0


def _edges(training: Tensor) -> Tensor:
    known = training[training.isfinite()].double()
    if not len(known):
        return known
    cuts = torch.arange(1, BINS) * len(known) // BINS
    return known.sort().values[cuts].unique()


def _counts(feature: Feature, values: Tensor, edges: Tensor | None) -> Tensor:
    """How often each value occurs; place 0 counts the rows without one."""
    gone = is_missing(feature, values)
    if edges is not None:
        places = torch.bucketize(values.double(), edges, right=True) + 1
        return torch.where(gone, 0, places).bincount(minlength=len(edges) + 2).double()
    counts = values[~gone].flatten().bincount(minlength=feature.size).double()
    counts[PADDING] = int(gone.sum())
    return counts


def _entropy(counts: Tensor) -> float:
    return torch.special.entr(counts / counts.sum()).sum().item()


def _moved(now: Tensor, training: Tensor) -> tuple[float | None, float | None, float | None]:
    """Shift of the mean, ratio of variances, and the share beyond all that training had."""
    if not len(now) or len(training) < 2:
        return None, None, None
    a, b = _flat(now), _flat(training)
    centre = b.mean(0)
    spread = (b - centre).square().sum(1).mean().item()
    if spread <= 0:
        return None, None, None
    return (
        torch.linalg.vector_norm(a.mean(0) - centre).item() / math.sqrt(spread),
        (a - a.mean(0)).square().sum(1).mean().item() / spread,
        beyond(now, training).double().mean().item(),
    )


def beyond(now: Tensor, training: Tensor) -> Bool[Tensor, " rows"]:
    """Return which rows are farther from the training mean than any in training; a missing one is not.

    Rows are numbers or vectors.
    """
    known = _flat(training)
    known = known[known.isfinite().all(dim=1)]
    if not len(known):
        return torch.zeros(len(now), dtype=torch.bool, device=now.device)
    centre = known.mean(0)
    # what is read from a file again may differ in the last bit
    reach = (known - centre).square().sum(1).max() * (1.0 + 1e-6)
    return (_flat(now) - centre).square().sum(1) > reach


def _flat(values: Tensor) -> Tensor:
    return values.double().reshape(len(values), -1)
