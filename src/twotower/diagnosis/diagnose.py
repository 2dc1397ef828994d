"""`diagnose`: whether an embedding space is healthy, and why not."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from hashlib import sha256
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from twotower.core.errors import InputError
from twotower.core.html import html_table
from twotower.diagnosis.cold import judge_cold, pairs_within, warm_and_cold
from twotower.diagnosis.load import load_table
from twotower.diagnosis.statistics import EXACT_ROWS, check_given, measure
from twotower.diagnosis.thresholds import Thresholds, load_thresholds
from twotower.diagnosis.vectors import Vectors
from twotower.diagnosis.verdict import Reason, Verdict, judge
from twotower.ops.share import ALONE, Share

FIGURES = ("mean_cosine", "std_cosine", "rankme", "effective_dimensions", "dimensions")
"""Shown of a diagnosis in a notebook."""


@dataclass(frozen=True, repr=False)
class Diagnosis:
    """Hold what `diagnose` found. Figures that are undefined for the vectors given are None."""

    verdict: Verdict
    reasons: list[Reason]
    """Why it is not healthy, the gravest first."""
    statistics: dict[str, Any]
    """Figures of the vectors as given, without self-pairs."""
    centred: dict[str, Any]
    """The same after the mean vector is subtracted: a cone disappears here, a loss of rank does not."""
    with_self_pairs: dict[str, Any]
    """Cosine figures as the paper counts them: each vector's cosine 1 with itself is among the pairs."""
    baselines: dict[str, Any]
    """A sample of the vectors, the same with each dimension shuffled on its own, and random vectors."""
    curves: dict[str, Any]
    """What a report draws: similarity histogram, decay curves, variance spectrum."""
    notes: list[str]
    """How the input was treated, and what is a sample."""
    cold: dict[str, Any] = field(default_factory=dict)
    """Rows without a training event, which no other figure counts: how many, and their own verdict; empty: none."""
    causes: list[dict[str, Any]] = field(default_factory=list)
    """One entry a feature, the most to blame first, when a bundle and a table were given."""
    serving: dict[str, Any] = field(default_factory=dict)
    """Which tower is at fault, and what that costs, when a bundle and a table were given."""
    read: dict[str, Any] = field(default_factory=dict)
    """Rows and dimensions, which columns of a file were taken for vector, id, title, label, and what was left out."""

    def __repr__(self) -> str:
        rows, dimensions = self.read.get("rows"), self.read.get("dimensions")
        size = f"{rows:,} vectors of {dimensions} numbers" if rows is not None else "vectors"
        return f"Diagnosis({self.verdict}: {size}{''.join(f', {reason.name}' for reason in self.reasons)})"

    def _repr_html_(self) -> str:
        """Show the verdict, its reasons and the main figures as a table in a notebook."""
        rows = [(reason.name, f"{reason.value:.4g}", reason.sentence) for reason in self.reasons]
        rows += [(name, _figure(self.statistics.get(name)), "") for name in FIGURES]
        return html_table(("figure", "value", "why"), rows, caption=self.verdict)

    def to_json(self) -> dict[str, Any]:
        """Return plain values, with neither NaN nor infinity."""
        return {
            "read": self.read,
            "verdict": self.verdict,
            "reasons": [reason._asdict() for reason in self.reasons],
            "statistics": self.statistics,
            "centred": self.centred,
            "with_self_pairs": self.with_self_pairs,
            "baselines": self.baselines,
            "cold": self.cold,
            "causes": self.causes,
            "serving": self.serving,
            "notes": self.notes,
            "curves": self.curves,
        }


def diagnose(
    vectors: Tensor | NDArray[Any] | Path | str,
    *,
    ids: Sequence[str] | None = None,
    popularity: Tensor | NDArray[Any] | None = None,
    positive_pairs: Tensor | None = None,
    column: str | None = None,
    thresholds: Thresholds | Path | str | None = None,
    seed: int = 0,
    exact_rows: int = EXACT_ROWS,
    share: Share = ALONE,
) -> Diagnosis:
    """Measure an embedding space and give a verdict: healthy, suspect or collapsed, with the reasons.

    Source: George et al., "Diagnosing Embedding Space Collapse", section IV and Table I. Differences: self-pairs are
    left out (`Diagnosis.with_self_pairs` keeps them); the threshold on the mean cosine is held against the same
    vectors centred and shuffled, since a healthy text encoder can exceed it.

    Args:
        vectors: [rows, dimensions], or the path of a file or bundle that `load_table` reads.
        ids: a name for each row, used where rows are named.
        popularity: how often each row is seen, at least 0; a file's own column is used when this is None. Rows at 0,
            which no training moved, are judged apart from the others (`Diagnosis.cold`).
        positive_pairs: int64 [pairs, 2] of rows that should be close: gives ``alignment``.
        column: which array, tensor or column of the file holds the vectors; None finds the only one.
        thresholds: as `load_thresholds` gives them, or the path of a TOML file to lay over the shipped ones.
        seed: of k-means, samples and noise.
        exact_rows: up to this many vectors every pair is compared; beyond, stratified samples are.
        share: which part of the work is this rank's, where several processes call this alike: each compares its share
            of the pairs, and all return the same.

    Raises:
        InputError: if the vectors cannot be read or judged, or ranks have other ones than rank 0, in one line that says
            why.
        ConnectionError: if another rank is gone or does not answer in time.

    Examples:
        >>> space = torch.randn(300, 32, generator=torch.Generator().manual_seed(0))
        >>> diagnose(space).verdict
        'healthy'
        >>> diagnose(space + 30.0).verdict
        'collapsed'
    """
    where = "vectors"
    read: dict[str, Any] = {}
    coordinates: tuple[str, ...] = ()
    names = None if ids is None else [str(name) for name in ids]
    if isinstance(vectors, str | Path):
        where = str(vectors)
        table = load_table(Path(vectors), column=column)
        vectors, read, coordinates = table.vectors, table.account.to_json(), table.account.vector
        names = table.ids if names is None else names
        popularity = table.popularity if popularity is None else popularity
    limits = thresholds if isinstance(thresholds, dict) else load_thresholds(thresholds)
    rows = Vectors(vectors, where=where, ids=names)
    seen = None if popularity is None else torch.as_tensor(popularity).double()
    check_given(rows, seen, positive_pairs)
    if share.size > 1:
        share.agree(_digest(rows, seen, seed, exact_rows), "vectors, popularity or settings")
    judged, cold = rows, {}
    if (parts := warm_and_cold(seen)) is not None and seen is not None:
        cold = judge_cold(rows, parts[1], limits, seed=seed)
        judged, seen = rows.part(parts[0]), seen[parts[0]]
        if positive_pairs is not None:
            positive_pairs = pairs_within(positive_pairs, parts[0], rows.count)
    try:
        found = measure(
            judged,
            popularity=seen,
            positive_pairs=positive_pairs,
            seed=seed,
            exact_rows=exact_rows,
            dimension_names=coordinates if len(coordinates) == rows.dim else None,
            share=share,
        )
    except (torch.linalg.LinAlgError, np.linalg.LinAlgError, OverflowError):  # type: ignore[attr-defined]
        raise InputError(f"{where}: the numbers are too uneven to be measured; look for values far too large") from None
    verdict, reasons = judge(found, limits)
    read = {"rows": rows.count, "dimensions": rows.dim, **read}
    return Diagnosis(verdict, reasons, **found._asdict(), cold=cold, read=read)


def _digest(rows: Vectors, popularity: Tensor | None, seed: int, exact_rows: int) -> bytes:
    """Of all that decides which pairs are compared."""
    found = sha256(repr((rows.count, rows.dim, popularity is None, seed, exact_rows)).encode())
    for chunk in rows.chunks():
        found.update(chunk.numpy().tobytes())
    if popularity is not None:
        found.update(popularity.numpy().tobytes())
    return found.digest()


def _figure(value: object) -> str:
    return "undefined" if value is None else f"{value:.4g}" if isinstance(value, float) else str(value)
