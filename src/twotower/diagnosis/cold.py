"""Diagnosis of rows without a training event, apart from the others: no training moved them."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from twotower.diagnosis.quick import glance
from twotower.diagnosis.thresholds import Thresholds
from twotower.diagnosis.vectors import Vectors

LEAST = 2
"""Rows that a geometry needs."""


def warm_and_cold(popularity: Tensor | None) -> tuple[Tensor, Tensor] | None:
    """Return the row numbers with and without an event; None where all are alike, or too few have one for a geometry.

    Examples:
        >>> warm_and_cold(torch.tensor([3.0, 0.0, 1.0]))
        (tensor([0, 2]), tensor([1]))
        >>> warm_and_cold(torch.tensor([3.0, 2.0])) is None
        True
    """
    if popularity is None:
        return None
    warm, cold = ((popularity > 0).nonzero()[:, 0], (popularity <= 0).nonzero()[:, 0])
    return (warm, cold) if len(cold) and len(warm) >= LEAST else None


def judge_cold(rows: Vectors, cold: Tensor, thresholds: Thresholds, *, seed: int = 0) -> dict[str, Any]:
    """Return how many rows are cold, and their own verdict by cone and rank (None for a single row), with a sentence.

    Args:
        rows: all vectors, cold and others.
        cold: row numbers of the cold ones, ascending.
        thresholds: as of the verdict.
        seed: of the baselines.
    """
    found: dict[str, Any] = {
        "rows": len(cold),
        "of": rows.count,
        "share": len(cold) / rows.count,
        "verdict": None,
        "reasons": [],
        "figures": {},
    }
    if len(cold) >= LEAST:
        seen = glance(rows.part(cold), thresholds, seed=seed)
        found["verdict"] = seen.verdict
        found["reasons"] = [reason._asdict() for reason in seen.reasons]
        found["figures"] = seen.figures
    return {**found, "sentence": _sentence(found)}


def pairs_within(pairs: Tensor, chosen: Tensor, count: int) -> Tensor:
    """Return the pairs whose two rows are both among ``chosen`` of ``count`` rows, by their places there."""
    place = torch.full((count,), -1, dtype=torch.int64)
    place[chosen] = torch.arange(len(chosen))
    moved = place[pairs]
    return moved[(moved >= 0).all(1)]


def _sentence(found: dict[str, Any]) -> str:
    rows, of = found["rows"], found["of"]
    own = f" from the others: {found['verdict']}" if found["verdict"] else " from the others"
    why = f" ({found['reasons'][0]['sentence']})" if found["reasons"] else ""
    todo = ""
    if found["verdict"] == "collapsed":
        todo = "; nothing tells them apart: give them features that the model reads, or leave them out of the index"
    return f"{rows:,} of {of:,} rows ({found['share']:.1%}) have no training event and are judged apart{own}{why}{todo}"
