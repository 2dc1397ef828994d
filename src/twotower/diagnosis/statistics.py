"""Statistics of one set of vectors: raw, mean-centred, and with self-pairs as the paper counts them."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor

from twotower.core.errors import InputError
from twotower.core.seeds import torch_generator
from twotower.diagnosis.baselines import SAMPLE, compare
from twotower.diagnosis.clusters import cluster_figures
from twotower.diagnosis.geometry import (
    LARGEST_NAMES,
    alignment,
    dimension_figures,
    isotropy,
    largest_dimension,
    norm_figures,
    popularity_figures,
    rank_figures,
)
from twotower.diagnosis.neighbours import duplicates
from twotower.diagnosis.similarity import ENTROPY_BASE, ENTROPY_BINS
from twotower.diagnosis.space import measure_space
from twotower.diagnosis.vectors import UnitRows, Vectors
from twotower.ops.share import ALONE, Share
from twotower.ops.spectrum import eigenvalues, moments, participation_ratio, rankme

EXACT_ROWS = 100_000
"""Up to this many vectors every pair is compared; beyond, stratified samples are, with intervals."""
DIRECTION_NAMES = ("direction_rank", "direction_participation", "direction_top_share")
"""Of the spectrum of the centred unit vectors: RankMe, participation ratio, share of the first axis."""


class Statistics(NamedTuple):
    """Hold figures by their names in the JSON, and curves to draw."""

    statistics: dict[str, Any]
    centred: dict[str, Any]
    with_self_pairs: dict[str, Any]
    baselines: dict[str, Any]
    curves: dict[str, Any]
    notes: list[str]


def measure(
    rows: Vectors,
    *,
    popularity: Tensor | None = None,
    positive_pairs: Tensor | None = None,
    seed: int = 0,
    exact_rows: int = EXACT_ROWS,
    dimension_names: Sequence[str] | None = None,
    share: Share = ALONE,
) -> Statistics:
    """Measure ``rows``.

    Args:
        rows: checked vectors.
        popularity: how often each is seen, [rows], at least 0; None when unknown.
        positive_pairs: int64 [pairs, 2] of row numbers that should be close; alignment is None without.
        seed: of k-means, samples and noise.
        exact_rows: up to this many vectors every pair is compared.
        dimension_names: of the coordinates, where they have some.
        share: this rank's share of comparing pairs and looking for neighbours; all ranks get the same figures.

    Raises:
        InputError: if ``popularity`` or ``positive_pairs`` do not fit the rows.
    """
    check_given(rows, popularity, positive_pairs)
    notes: list[str] = []
    raw = moments(rows.chunks())
    unit = UnitRows(rows)
    zero = rows.count - len(unit.kept)
    if zero:
        notes.append(f"{zero} zero vector(s) have no direction: they are left out of every cosine")
    whole, curves = measure_space(unit, seed=seed, exact_rows=exact_rows, self_pairs=True, share=share)
    around = UnitRows(rows, raw.mean)
    centred, _ = measure_space(around, seed=seed, exact_rows=exact_rows, share=share)
    covariance = raw.covariance()
    if centred.moments is None:
        notes.append("all vectors are the same: figures about their mean are undefined (null)")
    sample = _sample(rows.count, exact_rows, seed, "clusters")
    clusters = cluster_figures(rows.take(sample), seed)
    if clusters["davies_bouldin"] is None:
        notes.append("fewer distinct vectors than the 5 clusters need: clustering figures are undefined (null)")
    if 0 < clusters["silhouette_rows"] < rows.count:
        notes.append(f"silhouette: of a random sample of {clusters['silhouette_rows']:,} vectors")
    if rows.count > exact_rows:
        notes.append(whole.method)

    statistics: dict[str, Any] = {
        "vectors": rows.count,
        "dimensions": rows.dim,
        "zero_vectors": zero,
        "duplicates": duplicates(rows),
        **whole.figures,
        "entropy_bins": ENTROPY_BINS,
        "entropy_base": ENTROPY_BASE,
        "isotropy": None if whole.moments is None else isotropy(unit.chunks(), whole.moments.second_moment()),
        "alignment": None if positive_pairs is None else _alignment(unit, positive_pairs, rows.count),
        **dimension_figures(raw),
        **(
            dict.fromkeys(LARGEST_NAMES)
            if whole.moments is None
            else largest_dimension(whole.moments.second_moment(), dimension_names)
        ),
        **rank_figures(raw.second_moment(), rows.count),
        **clusters,
        "clustering_rows": len(sample) if clusters["davies_bouldin"] is not None else 0,
        **norm_figures(rows.norms),
        "norm_popularity_correlation": None,
        "popularity_variance_share": None,
        **({} if popularity is None else popularity_figures(rows, raw, popularity)),
        "pairs": whole.pairs,
        "intervals": whole.intervals,
    }
    centred_figures: dict[str, Any] = {
        **centred.figures,
        **dict.fromkeys(("isotropy", "participation_ratio", "rankme", "stable_rank", *DIRECTION_NAMES, *LARGEST_NAMES)),
        "intervals": centred.intervals,
    }
    if centred.moments is not None:
        directions = centred.moments.covariance()
        axes = eigenvalues(directions, len(around.kept))
        centred_figures |= {
            "isotropy": isotropy(around.chunks(), centred.moments.second_moment()),
            **rank_figures(covariance, rows.count),
            "direction_rank": rankme(axes),
            "direction_participation": participation_ratio(axes),
            "direction_top_share": (axes[0] / axes.sum()).item(),
            **largest_dimension(directions, dimension_names),
        }
        curves["variance_spectrum"] = (eigenvalues(covariance, rows.count) / covariance.trace()).tolist()
    chosen = _sample(len(unit.kept), SAMPLE, seed, "baselines")
    baselines = compare(rows.take(unit.kept[chosen]), seed)
    return Statistics(
        _finite(statistics), _finite(centred_figures), _finite(whole.with_self_pairs), baselines, curves, notes
    )


def check_given(rows: Vectors, popularity: Tensor | None, positive_pairs: Tensor | None) -> None:
    """Refuse what does not fit the rows.

    Raises:
        InputError: says what does not.
    """
    if popularity is not None:
        if popularity.shape != (rows.count,):
            raise InputError(
                f"popularity: expected one number for each of the {rows.count} vectors, got {tuple(popularity.shape)}"
            )
        if not bool((popularity >= 0).all() & popularity.isfinite().all()):
            raise InputError("popularity: expected numbers of at least 0, got negative ones, NaN or inf")
    if positive_pairs is not None:
        if positive_pairs.ndim != 2 or positive_pairs.shape[1] != 2 or positive_pairs.is_floating_point():
            raise InputError(f"positive pairs: expected whole numbers [pairs, 2], got {tuple(positive_pairs.shape)}")
        if len(positive_pairs) and not (positive_pairs.min() >= 0 and positive_pairs.max() < rows.count):
            raise InputError(f"positive pairs: row numbers must be from 0 to {rows.count - 1}")


def _alignment(unit: UnitRows, pairs: Tensor, count: int) -> float | None:
    place = torch.full((count,), -1, dtype=torch.int64)
    place[unit.kept] = torch.arange(len(unit.kept))
    kept = place[pairs]
    kept = kept[(kept >= 0).all(1)]
    return alignment(unit, kept) if len(kept) else None


def _sample(count: int, most: int, seed: int, purpose: str) -> Tensor:
    """All rows, or ``most`` of them at random, in order."""
    if count <= most:
        return torch.arange(count)
    return torch.randperm(count, generator=torch_generator(seed, purpose))[:most].sort().values


def _finite(figures: dict[str, Any]) -> dict[str, Any]:
    """JSON has neither NaN nor infinity: what is undefined becomes None."""
    return {
        name: None if isinstance(value, float) and not math.isfinite(value) else value
        for name, value in figures.items()
    }
