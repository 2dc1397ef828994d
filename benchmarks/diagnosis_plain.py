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
    raw = _space(vectors)
    centred = vectors - vectors.mean(axis=0)
    _space(centred)
    _ranks(centred)
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


def _space(vectors: np.ndarray) -> dict[str, Any]:
    unit = vectors / np.linalg.norm(vectors, axis=1, keepdims=True)
    cosines = cosine_similarity(vectors)[np.triu_indices(len(vectors), k=1)].astype(np.float64)
    shares = np.percentile(cosines, [10, 25, 50, 75, 90])
    counts = np.histogram(cosines, bins=1000, range=(-1, 1))[0]
    share = counts[counts > 0] / counts.sum()
    distances, neighbours = (
        NearestNeighbors(n_neighbors=21, metric="cosine", algorithm="brute").fit(unit).kneighbors(unit)
    )
    nearest = 1.0 - distances[:, 1:]
    seen = np.bincount(neighbours[:, 1:11].ravel(), minlength=len(unit)).astype(float)
    chords = np.sqrt(2.0 * distances[:, 1:3])
    axes = np.linalg.eigh(unit.T @ unit)[1]
    partition = np.concatenate([np.exp(unit @ axes).sum(axis=0), np.exp(-unit @ axes).sum(axis=0)])
    mean = cosines.mean()
    return {
        "mean_cosine": mean,
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
        "isotropy": partition.min() / partition.max(),
        "improvement_over_random": (nearest[:, :3].mean() - mean) / mean,
        "top20_max": nearest[:, 0].mean(),
        "top20_min": nearest[:, -1].mean(),
        "hubness": ((seen - seen.mean()) ** 3).mean() / seen.std() ** 3,
        "anti_hubs": (seen == 0).mean(),
        "intrinsic_dimension": len(unit) / np.log(chords[:, 1] / chords[:, 0]).sum(),
    }


def _ranks(vectors: np.ndarray) -> dict[str, float]:
    singular = np.linalg.svd(vectors, compute_uv=False)
    share = singular / singular.sum()
    return {
        "participation_ratio": (singular**2).sum() ** 2 / (singular**4).sum(),
        "rankme": np.exp(-(share * np.log(share)).sum()),
        "stable_rank": (singular**2).sum() / singular[0] ** 2,
    }
