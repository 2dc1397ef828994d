"""Cosines and neighbours of one set of unit vectors: over all pairs, or from stratified samples with intervals."""

from __future__ import annotations

import math
from collections.abc import Iterator
from typing import Any, NamedTuple

import torch
from torch import Tensor

from twotower.core.seeds import torch_generator
from twotower.diagnosis import hubness, neighbours
from twotower.diagnosis.decay import decay_figures
from twotower.diagnosis.similarity import (
    coarse_histogram,
    describe_histogram,
    describe_values,
    pair_moments,
    with_self,
)
from twotower.diagnosis.vectors import UnitRows
from twotower.ops.cosines import Directions, PairScan, directions, nearest, pair_cosines, scan_pairs
from twotower.ops.share import ALONE, Share
from twotower.ops.spectrum import Moments, moments

PAIR_NAMES = ("mean", "median", "std", "min", "max", "p10", "p25", "p75", "p90")
_NEED_SPREAD = (
    *("hubness", "anti_hubs", "intrinsic_dimension", "neighbour_stability"),
    *("decay_shape", "decay_elbowed_share", "decay_elbow_rank"),
)
NAMES = (
    *(f"{name}_cosine" for name in PAIR_NAMES),
    *("entropy", "improvement_over_random", "uniformity", "top20_max", "top20_min", "top3_mean", "near_duplicates"),
    *_NEED_SPREAD,
)
"""Figures of a space; those that need two directions that differ are None when all vectors are the same."""
TOP = 20
HUB_NEIGHBOURS = 10
SORTED_ROWS = 1_000
"""Up to this many vectors the cosines are sorted in float64; above, counted in bins of 1.6e-6 in float32."""
REPLICATES = 8
REPLICATE_ROWS = 8_192
SAMPLED_QUERIES = 2_048
_T_975 = 2.364624251592785
"""Student's t at 97.5 % with REPLICATES - 1 = 7 degrees of freedom."""


class Space(NamedTuple):
    """Hold figures by name, the same with self-pairs (empty where not asked for), how found, and the moments."""

    figures: dict[str, Any]
    with_self_pairs: dict[str, Any]
    intervals: dict[str, list[float]]
    pairs: int
    method: str
    moments: Moments | None


class _Found(NamedTuple):
    """One set of pairs: figures of the pairs and of hubs, and the scan they came from."""

    pairs: dict[str, Any]
    self_pairs: dict[str, Any]
    hubs: dict[str, Any]
    histogram: list[int]
    scan: PairScan
    space: Directions


def measure_space(
    unit: UnitRows, *, seed: int, exact_rows: int, self_pairs: bool = False, share: Share = ALONE
) -> tuple[Space, dict[str, Any]]:
    """Return figures of the directions of ``unit``, and curves to draw (empty when there is no spread).

    With ``share`` the scan of pairs and the search for neighbours are shared out over ranks; all get the same figures.
    """
    count = len(unit.kept)
    if count < 2:
        return Space(dict.fromkeys(NAMES), dict.fromkeys(NAMES[:11]), {}, 0, "no pair", None), {}
    total = moments(unit.chunks())
    spread = total.covariance().trace().item()
    mean, deviation = pair_moments(total)
    exact = count <= exact_rows
    if exact:
        found = [_scan(torch.cat(list(unit.chunks())), self_pairs, share)]
    else:
        found = [_scan(unit.take(index), self_pairs, share) for index in _strata(unit, total, seed)]
    k = min(TOP, count - 1)
    if exact:
        rows = torch.arange(count)
        best, where = found[0].scan.similarities, found[0].scan.neighbours
    else:
        rows, best, where = _sampled_neighbours(unit, total, k, seed, share)
    names = found[0].pairs
    joined = {name: sum(part.pairs[name] for part in found) / len(found) for name in names}
    joined |= {"mean": mean, "std": deviation}
    hubs = {name: _mean([part.hubs[name] for part in found]) for name in found[0].hubs}
    intervals = {} if exact else _intervals(found)
    top3 = best[:, :3].double().mean().item()
    figures = {
        **_named(joined),
        "entropy": joined["entropy"],
        "uniformity": joined["uniformity"],
        "improvement_over_random": (top3 - mean) / mean if mean != 0.0 else None,
        **_neighbour_figures(unit, total, rows, best, where, seed, share),
        **hubs,
    }
    paper = _paper(found, with_self(mean, deviation, count), top3, count) if self_pairs else {}
    decay, curves = decay_figures(best)
    figures |= decay
    if spread < 1e-24:
        figures |= dict.fromkeys(_NEED_SPREAD)
    histogram = [sum(column) for column in zip(*(part.histogram for part in found), strict=True)]
    pairs = sum(len(part.space.rows) * (len(part.space.rows) - 1) // 2 for part in found)
    method = (
        "every pair"
        if exact
        else f"percentiles, entropy, hubs: {len(found)} stratified samples of {len(found[0].space.rows):,} vectors, "
        f"95 % intervals between them; neighbours: {len(rows):,} queries against all; mean and deviation: all pairs"
    )
    drawn = {"similarity_histogram": {"low": -1.0, "high": 1.0, "counts": histogram}, "decay": curves}
    return Space(figures, paper, intervals, pairs, method, total), drawn


def _paper(found: list[_Found], moments: tuple[float, float], top3: float, count: int) -> dict[str, Any]:
    """The reading with self-pairs, from the mean and deviation with them."""
    mean, deviation = moments
    joined = {name: sum(part.self_pairs[name] for part in found) / len(found) for name in found[0].self_pairs}
    joined |= {"mean": mean, "std": deviation, "max": 1.0}
    return {
        **_named(joined),
        "entropy": joined["entropy"],
        "improvement_over_random": (top3 - mean) / mean if mean != 0.0 else None,
        "pairs": count * (count + 1) // 2,
    }


def _scan(unit: Tensor, self_pairs: bool, share: Share) -> _Found:
    sort = len(unit) <= SORTED_ROWS
    space = directions(unit, dtype=torch.float64 if sort else torch.float32)
    scan = scan_pairs(space, min(TOP, len(unit) - 1), count=not sort, share=share)
    if scan.histogram is None:
        cosines = pair_cosines(space).sort().values
        pairs, joined = describe_values(cosines), describe_values(cosines, len(unit)) if self_pairs else {}
        drawn = coarse_histogram(cosines, None)
    else:
        pairs = describe_histogram(scan.histogram)
        joined = describe_histogram(scan.histogram, len(unit)) if self_pairs else {}
        drawn = coarse_histogram(None, scan.histogram)
    counts = hubness.occurrences(scan.neighbours[:, :HUB_NEIGHBOURS], len(unit))
    hubs = {"hubness": hubness.skewness(counts), "anti_hubs": hubness.anti_hub_share(counts)}
    return _Found(pairs, joined, hubs, drawn, scan, space)


def _neighbour_figures(
    unit: UnitRows, total: Moments, rows: Tensor, best: Tensor, where: Tensor, seed: int, share: Share
) -> dict[str, Any]:
    spread = math.sqrt(max(total.covariance().trace().item(), 0.0))
    distances = neighbours.chord_distances(unit.take, rows, where[:, :2])
    pick = torch.randperm(len(rows), generator=torch_generator(seed, "queries"))[: neighbours.STABILITY_QUERIES]
    single = len(unit.kept) > SORTED_ROWS
    dtype = torch.float32 if single else torch.float64
    return {
        "top20_max": best[:, 0].double().mean().item(),
        "top20_min": best[:, -1].double().mean().item(),
        "top3_mean": best[:, :3].double().mean().item(),
        "near_duplicates": neighbours.near_duplicate_share(distances, spread),
        "intrinsic_dimension": neighbours.intrinsic_dimension(distances, neighbours.NEAR_DUPLICATE * spread)
        if distances.shape[1] > 1
        else None,
        "neighbour_stability": neighbours.stability(
            unit.take(rows[pick]).to(dtype),
            rows[pick],
            where[pick, : neighbours.STABILITY_NEIGHBOURS],
            _shifted(unit, total.mean, dtype),
            seed,
            share=share,
        ),
        "neighbour_stability_noise": neighbours.NOISE,
    }


def _shifted(unit: UnitRows, mean: Tensor, dtype: torch.dtype) -> Iterator[Tensor]:
    return ((chunk - mean).to(dtype) for chunk in unit.chunks())


def _strata(unit: UnitRows, total: Moments, seed: int) -> list[Tensor]:
    """Disjoint systematic samples along the cosine with the mean: each takes its share of every part of the space."""
    height = torch.cat([chunk @ total.mean for chunk in unit.chunks()])
    order = height.argsort()
    size = min(REPLICATE_ROWS, len(order) // REPLICATES)
    step = len(order) / size
    starts = torch.randperm(int(step), generator=torch_generator(seed, "strata"))[:REPLICATES]
    return [order[(start + step * torch.arange(size, dtype=torch.float64)).long()] for start in starts.tolist()]


def _sampled_neighbours(
    unit: UnitRows, total: Moments, k: int, seed: int, share: Share
) -> tuple[Tensor, Tensor, Tensor]:
    rows = torch.randperm(len(unit.kept), generator=torch_generator(seed, "neighbours"))[:SAMPLED_QUERIES]
    queries = unit.take(rows).float()
    best, where = nearest(queries, _shifted(unit, total.mean, torch.float32), k, skip=rows, share=share)
    return rows, best + (unit.take(rows) @ total.mean).float()[:, None], where


def _intervals(found: list[_Found]) -> dict[str, list[float]]:
    """95 % intervals between replicates, by Student's t; the mean and deviation need none."""
    intervals = {}
    for name in ("median", "p10", "p25", "p75", "p90", "entropy", "uniformity"):
        values = torch.tensor([part.pairs[name] for part in found], dtype=torch.float64)
        half = _T_975 * values.std().item() / math.sqrt(len(values))
        key = name if name in ("entropy", "uniformity") else f"{name}_cosine"
        intervals[key] = [values.mean().item() - half, values.mean().item() + half]
    return intervals


def _named(figures: dict[str, Any]) -> dict[str, Any]:
    return {f"{name}_cosine": figures.get(name) for name in PAIR_NAMES}


def _mean(values: list[float | None]) -> float | None:
    known = [value for value in values if value is not None]
    return sum(known) / len(known) if known else None
