"""Every statistic against a slow float64 reference from its formula, and against scikit-learn where it has one."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch

from twotower.diagnosis import diagnose
from twotower.diagnosis.clusters import davies_bouldin, silhouette
from twotower.diagnosis.geometry import dimension_figures
from twotower.diagnosis.neighbours import intrinsic_dimension
from twotower.diagnosis.similarity import describe_histogram, describe_values, pair_moments, with_self
from twotower.ops.cosines import directions, nearest, pair_cosines, scan_pairs, top_k
from twotower.ops.kmeans import kmeans
from twotower.ops.spectrum import moments


def space(rows: int, dim: int, *, shift: float = 0.5, seed: int = 0) -> np.ndarray:
    draw = np.random.default_rng(seed)
    centres = draw.normal(size=(7, dim))
    return centres[draw.integers(7, size=rows)] + 0.6 * draw.normal(size=(rows, dim)) + shift * draw.normal(size=dim)


def slow_cosines(vectors: np.ndarray) -> list[float]:
    found = []
    for i in range(len(vectors)):
        for j in range(i + 1, len(vectors)):
            a, b = vectors[i], vectors[j]
            dot = sum(float(x) * float(y) for x, y in zip(a, b, strict=True))
            found.append(dot / math.sqrt(sum(float(x) ** 2 for x in a)) / math.sqrt(sum(float(y) ** 2 for y in b)))
    return found


def slow_percentile(values: list[float], share: float) -> float:
    ordered = sorted(values)
    place = share * (len(ordered) - 1)
    low = int(place)
    high = min(low + 1, len(ordered) - 1)
    return ordered[low] * (1 - (place - low)) + ordered[high] * (place - low)


def slow_entropy(values: list[float]) -> float:
    counts: dict[int, int] = {}
    for value in values:
        bin_ = min(int((value + 1) / 2 * 1000), 999)
        counts[bin_] = counts.get(bin_, 0) + 1
    return -sum(c / len(values) * math.log2(c / len(values)) for c in counts.values())


@pytest.mark.parametrize(("rows", "dim", "self_pairs"), [(37, 5, False), (23, 41, True)])
def test_cosine_figures_match_the_formulas(rows: int, dim: int, self_pairs: bool) -> None:
    vectors = space(rows, dim)
    found = diagnose(vectors)
    figures = found.with_self_pairs if self_pairs else found.statistics
    cosines = slow_cosines(vectors) + [1.0] * (rows if self_pairs else 0)
    mean = sum(cosines) / len(cosines)
    expected = {
        "mean_cosine": mean,
        "std_cosine": math.sqrt(sum((c - mean) ** 2 for c in cosines) / len(cosines)),
        "median_cosine": slow_percentile(cosines, 0.5),
        "p10_cosine": slow_percentile(cosines, 0.1),
        "p25_cosine": slow_percentile(cosines, 0.25),
        "p75_cosine": slow_percentile(cosines, 0.75),
        "p90_cosine": slow_percentile(cosines, 0.9),
        "min_cosine": min(cosines),
        "max_cosine": max(cosines),
        "entropy": slow_entropy(cosines),
    }
    for name, value in expected.items():
        assert figures[name] == pytest.approx(value, abs=1e-10), name
    assert found.with_self_pairs["pairs"] == rows * (rows + 1) // 2
    assert found.statistics["pairs"] == rows * (rows - 1) // 2


def test_neighbour_figures_match_the_formulas() -> None:
    vectors = space(43, 9)
    figures = diagnose(vectors).statistics
    unit = vectors / np.sqrt((vectors**2).sum(1, keepdims=True))
    ranked = []
    for i in range(43):
        ranked.append(sorted(((float(unit[i] @ unit[j]), j) for j in range(43) if j != i), reverse=True))
    mean = np.mean(slow_cosines(vectors))
    top3 = np.mean([row[rank][0] for row in ranked for rank in range(3)])
    counts = [sum(j in [other for _, other in row[:10]] for row in ranked) for j in range(43)]
    deviation = [count - np.mean(counts) for count in counts]
    skew = np.mean([d**3 for d in deviation]) / np.mean([d**2 for d in deviation]) ** 1.5
    ratios = [math.sqrt((1 - row[1][0]) / (1 - row[0][0])) for row in ranked]
    assert figures["improvement_over_random"] == pytest.approx((top3 - mean) / mean, rel=1e-10)
    assert figures["top20_max"] == pytest.approx(np.mean([row[0][0] for row in ranked]), abs=1e-12)
    assert figures["top20_min"] == pytest.approx(np.mean([row[19][0] for row in ranked]), abs=1e-12)
    assert figures["hubness"] == pytest.approx(skew, rel=1e-10)
    assert figures["anti_hubs"] == pytest.approx(np.mean([count == 0 for count in counts]))
    assert figures["intrinsic_dimension"] == pytest.approx(43 / sum(math.log(r) for r in ratios), rel=1e-8)


def test_rank_and_dimension_figures_match_the_formulas() -> None:
    vectors = space(61, 13) * np.r_[5.0, np.ones(9), 0.05, 0.01, 0.0]
    found = diagnose(vectors)
    variances = [float(np.mean((vectors[:, d] - np.mean(vectors[:, d])) ** 2)) for d in range(13)]
    kept, running = sorted(variances, reverse=True), 0.0
    for needed in range(1, 14):
        running += kept[needed - 1]
        if running >= 0.9 * sum(variances):
            break
    assert found.statistics["effective_dimensions"] == sum(v > 0.01 * max(variances) for v in variances)
    assert found.statistics["dimensions_for_90_percent"] == needed
    assert found.statistics["dead_dimensions"] == sum(v < 1e-4 * np.mean(variances) for v in variances)
    for figures, matrix in ((found.statistics, vectors), (found.centred, vectors - vectors.mean(0))):
        singular = np.linalg.svd(matrix, compute_uv=False)
        share = [s / singular.sum() for s in singular if s > 1e-9]
        squares = [s**2 for s in singular]
        assert figures["rankme"] == pytest.approx(math.exp(-sum(p * math.log(p) for p in share)), rel=1e-6)
        assert figures["participation_ratio"] == pytest.approx(sum(squares) ** 2 / sum(s**2 for s in squares))
        assert figures["stable_rank"] == pytest.approx(sum(squares) / max(squares))


def test_uniformity_isotropy_and_alignment_match_the_formulas() -> None:
    vectors = space(29, 6)
    unit = vectors / np.linalg.norm(vectors, axis=1, keepdims=True)
    pairs = torch.tensor([[0, 5], [3, 28], [7, 7]])
    figures = diagnose(vectors, positive_pairs=pairs).statistics
    gaps = [np.sum((unit[i] - unit[j]) ** 2) for i in range(29) for j in range(i + 1, 29)]
    axes = np.linalg.eigh(unit.T @ unit)[1]
    partition = [sum(math.exp(sign * float(u @ axis)) for u in unit) for axis in axes.T for sign in (1, -1)]
    assert figures["uniformity"] == pytest.approx(math.log(np.mean([math.exp(-2 * gap) for gap in gaps])), abs=1e-10)
    assert figures["isotropy"] == pytest.approx(min(partition) / max(partition), abs=1e-10)
    assert figures["alignment"] == pytest.approx(np.mean([np.sum((unit[a] - unit[b]) ** 2) for a, b in pairs.tolist()]))


def test_length_and_popularity_figures_match_the_formulas() -> None:
    scipy_stats = pytest.importorskip("scipy.stats")
    draw = np.random.default_rng(3)
    popularity = draw.integers(1, 30, size=53)
    vectors = space(53, 4) + np.log1p(popularity)[:, None] * np.array([1.0, 0.2, 0.0, -0.3])
    figures = diagnose(vectors, popularity=popularity).statistics
    lengths = [math.sqrt(sum(x * x for x in row)) for row in vectors.tolist()]
    logged = np.log1p(popularity)
    explained = total = 0.0
    for d in range(4):
        slope, intercept = np.polyfit(logged, vectors[:, d], 1)
        explained += np.var(slope * logged + intercept)
        total += np.var(vectors[:, d])
    assert figures["norm_mean"] == pytest.approx(np.mean(lengths))
    assert figures["norm_cv"] == pytest.approx(np.std(lengths) / np.mean(lengths))
    assert figures["norm_max_over_median"] == pytest.approx(max(lengths) / np.median(lengths))
    assert figures["norm_top_share"] == pytest.approx(max(lengths) ** 2 / sum(x * x for x in lengths), rel=1e-10)
    assert figures["norm_popularity_correlation"] == pytest.approx(scipy_stats.spearmanr(lengths, popularity)[0])
    assert figures["popularity_variance_share"] == pytest.approx(explained / total)


@pytest.mark.parametrize("shift", [0.0, 5.0])
def test_counted_cosines_agree_with_sorted_ones(shift: float) -> None:
    unit = torch.from_numpy(space(700, 11, shift=shift))
    unit = unit / unit.norm(dim=1, keepdim=True)
    single, double = directions(unit, dtype=torch.float32), directions(unit, dtype=torch.float64)
    scan = scan_pairs(single, 20)
    cosines = pair_cosines(double).sort().values
    assert scan.histogram is not None
    assert int(scan.histogram.sum()) == len(cosines) == 700 * 699 // 2
    for self_pairs in (0, 700):
        counted, listed = describe_histogram(scan.histogram, self_pairs), describe_values(cosines, self_pairs)
        for name, value in listed.items():
            # a cosine on the edge of one of the 1000 coarse bins may fall on either side
            assert counted[name] == pytest.approx(value, abs=1e-3 if name == "entropy" else 1e-6), name
    mean, deviation = pair_moments(moments([unit]))
    assert mean == pytest.approx(cosines.mean().item(), abs=1e-12)
    assert deviation == pytest.approx(cosines.std(correction=0).item(), rel=1e-9)
    everything = torch.cat([cosines, torch.ones(700)])
    assert with_self(mean, deviation, 700) == pytest.approx(
        (everything.mean().item(), everything.std(correction=0).item()), rel=1e-9
    )


def test_a_narrow_cone_keeps_its_neighbours_in_single_precision() -> None:
    unit = torch.from_numpy(np.ones(16) + 1e-5 * space(500, 16))
    unit = unit / unit.norm(dim=1, keepdim=True)
    scan = scan_pairs(directions(unit, dtype=torch.float32), 1)
    gaps = torch.cdist(unit, unit, compute_mode="donot_use_mm_for_euclid_dist").fill_diagonal_(torch.inf)
    assert (scan.neighbours[:, 0] == gaps.argmin(1)).double().mean() > 0.99


@pytest.mark.parametrize(("rows", "columns", "k"), [(3, 64 * 40, 7), (5, 100, 3), (2, 64 * 9, 2)])
def test_top_k_of_groups_is_the_top_k(rows: int, columns: int, k: int) -> None:
    scores = torch.randn(rows, columns, generator=torch.Generator().manual_seed(0))
    values, where = top_k(scores, k)
    for row in range(rows):
        expected = sorted(range(columns), key=lambda c: -scores[row, c].item())[:k]
        assert where[row].tolist() == expected
        assert values[row].tolist() == [scores[row, c].item() for c in expected]


def test_nearest_in_chunks_is_nearest_at_once() -> None:
    rows = torch.from_numpy(space(83, 5))
    queries, own = rows[[3, 40, 82]] * 2.0, torch.tensor([3, 40, 82])
    _, where = nearest(queries, iter(rows.split(19)), 4, skip=own)
    for place, query in enumerate(own.tolist()):
        scores = [(-float(queries[place] @ rows[j]), j) for j in range(83) if j != query]
        assert where[place].tolist() == [j for _, j in sorted(scores)[:4]]
    short, ids = nearest(queries, iter([rows[:2]]), 4)
    assert ids[:, 2:].eq(-1).all()
    assert short[:, 2:].eq(-torch.inf).all()


def test_two_nn_finds_the_dimension_of_a_plane() -> None:
    draw = torch.Generator().manual_seed(1)
    plane = torch.rand(4000, 3, generator=draw, dtype=torch.float64)
    gaps = torch.cdist(plane, plane).fill_diagonal_(torch.inf).topk(2, largest=False).values
    assert intrinsic_dimension(gaps, 0.0) == pytest.approx(3.0, abs=0.2)


class TestScikitLearn:
    """The same figure as scikit-learn's to 1e-6."""

    @pytest.mark.parametrize(("rows", "dim"), [(255, 128), (1700, 17)])
    def test_clustering_scores(self, rows: int, dim: int) -> None:
        metrics = pytest.importorskip("sklearn.metrics")
        vectors = torch.from_numpy(space(rows, dim))
        dtype = torch.float64 if rows < 1000 else torch.float32
        labels = kmeans(vectors, 5, generator=torch.Generator().manual_seed(0)).labels
        expected = metrics.davies_bouldin_score(vectors.numpy(), labels.numpy())
        assert davies_bouldin(vectors, labels) == pytest.approx(expected, abs=1e-6)
        expected = metrics.silhouette_score(vectors.numpy(), labels.numpy())
        assert silhouette(vectors.to(dtype), labels) == pytest.approx(expected, abs=1e-6)

    def test_a_cluster_of_one_scores_zero(self) -> None:
        metrics = pytest.importorskip("sklearn.metrics")
        vectors, labels = torch.from_numpy(space(31, 4)), torch.tensor([0] + [1] * 17 + [2] * 13)
        expected = metrics.silhouette_score(vectors.numpy(), labels.numpy())
        assert silhouette(vectors, labels) == pytest.approx(expected, abs=1e-12)

    def test_kmeans_reaches_the_same_inertia(self) -> None:
        cluster = pytest.importorskip("sklearn.cluster")
        vectors = space(600, 12)
        expected = cluster.KMeans(5, n_init=20, random_state=0).fit(vectors)
        found = kmeans(torch.from_numpy(vectors), 5, restarts=20, generator=torch.Generator().manual_seed(0))
        assert found.inertia == pytest.approx(expected.inertia_, rel=0.01)
        own = [np.sum((vectors[row] - found.centres[label].numpy()) ** 2) for row, label in enumerate(found.labels)]
        assert sum(own) == pytest.approx(found.inertia, rel=1e-9)

    def test_cosines_and_principal_variance(self) -> None:
        metrics = pytest.importorskip("sklearn.metrics.pairwise")
        decomposition = pytest.importorskip("sklearn.decomposition")
        vectors = space(1300, 21)  # above the count where cosines are sorted
        found = diagnose(vectors)
        cosines = metrics.cosine_similarity(vectors)[np.triu_indices(len(vectors), 1)]
        for name, share in (("p10", 10), ("p25", 25), ("median", 50), ("p75", 75), ("p90", 90)):
            assert found.statistics[f"{name}_cosine"] == pytest.approx(np.percentile(cosines, share), abs=1e-6)
        assert found.statistics["mean_cosine"] == pytest.approx(cosines.mean(), abs=1e-10)
        assert found.statistics["std_cosine"] == pytest.approx(cosines.std(), abs=1e-10)
        assert found.statistics["max_cosine"] == pytest.approx(cosines.max(), abs=1e-6)
        assert found.statistics["min_cosine"] == pytest.approx(cosines.min(), abs=1e-6)
        ratio = decomposition.PCA().fit(vectors).explained_variance_ratio_
        assert found.curves["variance_spectrum"] == pytest.approx(ratio, abs=1e-9)
        assert found.statistics["principal_dimensions_for_90_percent"] == int((ratio.cumsum() < 0.9).sum()) + 1


@pytest.mark.slow
def test_samples_agree_with_all_pairs() -> None:
    vectors = space(9000, 16, seed=2)
    exact, sampled = diagnose(vectors), diagnose(vectors, exact_rows=4000)
    assert any("stratified" in note for note in sampled.notes)
    assert sampled.statistics["mean_cosine"] == pytest.approx(exact.statistics["mean_cosine"], abs=1e-12)
    assert sampled.statistics["std_cosine"] == pytest.approx(exact.statistics["std_cosine"], abs=1e-12)
    for name in ("median_cosine", "p10_cosine", "p90_cosine"):
        low, high = sampled.statistics["intervals"][name]
        width = high - low
        assert 0 < width < 0.05
        assert low - width < exact.statistics[name] < high + width
    assert sampled.statistics["top20_min"] == pytest.approx(exact.statistics["top20_min"], abs=0.01)
    assert sampled.statistics["neighbour_stability"] == pytest.approx(exact.statistics["neighbour_stability"], abs=0.05)


def test_a_dimension_is_dead_by_the_mean_variance_and_not_by_the_largest():
    """One dimension of ten varies by 1, so the mean is a tenth of it: 5e-5 lives, 5e-6 is dead."""
    variances = torch.tensor([1.0, *[5e-5] * 6, *[5e-6] * 3], dtype=torch.float64)
    signs = torch.tensor([1.0, -1.0], dtype=torch.float64).repeat(8)
    figures = dimension_figures(moments([signs[:, None] * variances.sqrt()]))
    assert figures["dead_dimensions"] == 3
