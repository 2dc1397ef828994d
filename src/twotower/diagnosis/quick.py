"""Quick figures of a space for every evaluation of a training run, and the verdict that they allow."""

from __future__ import annotations

from typing import Any, NamedTuple

import torch
from torch import Tensor

from twotower.core.seeds import torch_generator
from twotower.diagnosis.baselines import SAMPLE, compare
from twotower.diagnosis.statistics import Statistics
from twotower.diagnosis.thresholds import Thresholds
from twotower.diagnosis.vectors import UnitRows, Vectors
from twotower.diagnosis.verdict import LIGHT_RULES, Reason, Verdict, judge
from twotower.ops.spectrum import effective_dimensions, eigenvalues, moments, participation_ratio, rankme


class Glance(NamedTuple):
    """Hold figures by name (None where undefined), the verdict, and its reasons, the most serious first."""

    figures: dict[str, float | None]
    verdict: Verdict
    reasons: list[Reason]


def glance(vectors: Tensor | Vectors, thresholds: Thresholds, *, seed: int = 0) -> Glance:
    """Return cosines and ranks of ``vectors`` [rows, dim], by the definitions of `diagnose`.

    The verdict is for cone and rank alone.

    ``mean_cosine`` and ``centred_mean_cosine`` are over all pairs of two different vectors, raw and about the mean;
    ``rankme`` and ``participation_ratio`` are those of the covariance.

    Raises:
        InputError: if the vectors hold NaN or inf, or are fewer than two rows or dimensions.
    """
    rows = vectors if isinstance(vectors, Vectors) else Vectors(vectors, where="item states")
    raw = moments(rows.chunks())
    unit, around = UnitRows(rows), UnitRows(rows, raw.mean)
    axes = eigenvalues(raw.covariance(), rows.count)
    figures: dict[str, float | None] = {
        "mean_cosine": _mean_cosine(unit),
        "centred_mean_cosine": _mean_cosine(around),
        "rankme": rankme(axes),
        "participation_ratio": participation_ratio(axes),
        "effective_dimensions": float(effective_dimensions(raw.covariance().diagonal().clamp(min=0.0))),
    }
    directions: float | None = None
    if len(around.kept) > 1:
        about = eigenvalues(moments(around.chunks()).covariance(), len(around.kept))
        directions = participation_ratio(about)
    sample = torch.randperm(len(unit.kept), generator=torch_generator(seed, "baselines"))[:SAMPLE]
    baselines: dict[str, Any] = (
        compare(rows.take(unit.kept[sample]), seed) if len(unit.kept) > 1 else {"random": {}, "sample": {}}
    )
    found = Statistics(
        statistics={"vectors": rows.count, "dimensions": rows.dim, "mean_cosine": figures["mean_cosine"]},
        centred={"direction_participation": directions},
        with_self_pairs={},
        baselines=baselines,
        curves={},
        notes=[],
    )
    return Glance(figures, *judge(found, thresholds, LIGHT_RULES))


def _mean_cosine(unit: UnitRows) -> float | None:
    """‖Σu‖² counts each pair twice and each row with itself once."""
    count = len(unit.kept)
    if count < 2:
        return None
    total = sum(chunk.sum(0) for chunk in unit.chunks())
    assert isinstance(total, Tensor)
    return (float(total.square().sum()) / count - 1.0) / (count - 1)
