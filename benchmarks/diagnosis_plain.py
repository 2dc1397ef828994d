"""The figures of a diagnosis as a plain NumPy and scikit-learn script has them, for `diagnosis.py`."""

from __future__ import annotations

from typing import Any

import numpy as np
from sklearn.cluster import KMeans
from sklearn.decomposition import PCA
from sklearn.metrics import davies_bouldin_score, silhouette_score
from sklearn.metrics.pairwise import cosine_similarity
from sklearn.neighbors import NearestNeighbors


def plain(vectors: np.ndarray) -> dict[str, Any]:
    """Raw and centred figures, each with scikit-learn's function where there is one."""
    raw = _space(vectors, self_pairs=True)
    centred = vectors - vectors.mean(axis=0)
    _space(centred)
    _ranks(centred)
    _baselines(vectors)
    variances = vectors.var(axis=0)
    held = np.sort(variances)[::-1].cumsum() / variances.sum()
    PCA().fit(vectors)
    labels = KMeans(5, n_init=10, random_state=0).fit_predict(vectors)
    norms = np.linalg.norm(vectors, axis=1)
    return {
        **raw,
        **_ranks(vectors),
        "effective_dimensions": int((variances > 0.01 * variances.max()).sum()),
        "dimensions_for_90_percent": int((held < 0.9).sum()) + 1,
        "davies_bouldin": davies_bouldin_score(vectors, labels),
        "silhouette": silhouette_score(vectors, labels),
        "duplicates": len(vectors) - len(np.unique(vectors, axis=0)),
        "norm_cv": float(norms.std() / norms.mean()),
    }


def _space(vectors: np.ndarray, *, self_pairs: bool = False) -> dict[str, Any]:
    unit = vectors / np.linalg.norm(vectors, axis=1, keepdims=True)
    cosines = cosine_similarity(vectors)[np.triu_indices(len(vectors), k=1)].astype(np.float64)
    if self_pairs:  # the paper's reading
        _pairs(np.append(cosines, np.ones(len(vectors))))
    found = NearestNeighbors(n_neighbors=21, metric="cosine", algorithm="brute").fit(unit)
    distances, neighbours = found.kneighbors(unit)
    nearest = 1.0 - distances[:, 1:]
    seen = np.bincount(neighbours[:, 1:11].ravel(), minlength=len(unit)).astype(float)
    chords = np.sqrt(2.0 * distances[:, 1:3])
    axes = np.linalg.eigh(unit.T @ unit)[1]
    partition = np.concatenate([np.exp(unit @ axes).sum(axis=0), np.exp(-unit @ axes).sum(axis=0)])
    figures = _pairs(cosines)
    mean = figures["mean_cosine"]
    _decay(nearest)
    return {
        **figures,
        "isotropy": partition.min() / partition.max(),
        "improvement_over_random": (nearest[:, :3].mean() - mean) / mean,
        "top20_max": nearest[:, 0].mean(),
        "top20_min": nearest[:, -1].mean(),
        "hubness": ((seen - seen.mean()) ** 3).mean() / seen.std() ** 3,
        "anti_hubs": (seen == 0).mean(),
        "intrinsic_dimension": len(unit) / np.log(chords[:, 1] / chords[:, 0]).sum(),
        "neighbour_stability": _stability(unit, neighbours, found),
    }


def _pairs(cosines: np.ndarray) -> dict[str, Any]:
    shares = np.percentile(cosines, [10, 25, 50, 75, 90])
    counts = np.histogram(cosines, bins=1000, range=(-1, 1))[0]
    share = counts[counts > 0] / counts.sum()
    return {
        "mean_cosine": cosines.mean(),
        "median_cosine": shares[2],
        "std_cosine": cosines.std(),
        "min_cosine": cosines.min(),
        "max_cosine": cosines.max(),
        "p10_cosine": shares[0],
        "p25_cosine": shares[1],
        "p75_cosine": shares[3],
        "p90_cosine": shares[4],
        "entropy": -(share * np.log2(share)).sum(),
        "uniformity": np.log(np.exp(4.0 * cosines - 4.0).mean()),
    }


def _stability(unit: np.ndarray, neighbours: np.ndarray, found: NearestNeighbors) -> float:
    draw = np.random.default_rng(0)
    rows = draw.permutation(len(unit))[:512]
    noise = draw.normal(size=(len(rows), unit.shape[1]))
    moved = unit[rows] + 0.05 * noise / np.linalg.norm(noise, axis=1, keepdims=True)
    after = found.kneighbors(moved, n_neighbors=11, return_distance=False)
    return float(np.mean([np.isin(neighbours[row, 1:11], near).mean() for row, near in zip(rows, after, strict=True)]))


def _decay(nearest: np.ndarray) -> np.ndarray:
    """Share of a line's residual that the best elbow removes, for each query."""
    rank = np.arange(nearest.shape[1])
    line = np.stack([np.ones_like(rank), rank], axis=1).astype(float)
    best = straight = np.linalg.lstsq(line, nearest.T, rcond=None)[1]
    for elbow in range(1, nearest.shape[1] - 2):
        bent = np.column_stack([line, np.maximum(rank - elbow, 0)])
        best = np.minimum(best, np.linalg.lstsq(bent, nearest.T, rcond=None)[1])
    return 1.0 - best / straight


def _baselines(vectors: np.ndarray) -> None:
    draw = np.random.default_rng(0)
    sample = vectors[draw.permutation(len(vectors))[:2048]]
    for rows in (sample, draw.permuted(sample, axis=0), draw.normal(size=sample.shape)):
        around = rows - rows.mean(axis=0)
        unit = around / np.linalg.norm(around, axis=1, keepdims=True)
        _ranks(unit - unit.mean(axis=0))
        cosines = cosine_similarity(unit[:512], unit)
        np.sort(cosines, axis=1)[:, -11:-1].mean() - cosines.mean()


def _ranks(vectors: np.ndarray) -> dict[str, float]:
    singular = np.linalg.svd(vectors, compute_uv=False)
    share = singular / singular.sum()
    return {
        "participation_ratio": (singular**2).sum() ** 2 / (singular**4).sum(),
        "rankme": np.exp(-(share * np.log(share)).sum()),
        "stable_rank": (singular**2).sum() / singular[0] ** 2,
    }
