"""The synthetic set: drawn as promised, with levels that are what can be reached."""

from __future__ import annotations

import itertools
import json
import math
from collections import Counter
from pathlib import Path
from typing import Any

import duckdb
import numpy as np
import pytest

from twotower.cli.main import main
from twotower.core.errors import InputError
from twotower.data import sources
from twotower.data.sources.synthetic import TASTES, Synthetic, World, draw_events, plant
from twotower.data.sources.synthetic_truth import Levels

SMALL = Synthetic(users=60, items=45, cold_items=4, events=9, seed=3)


def rows(path: Path) -> list[tuple[Any, ...]]:
    return duckdb.sql(f"SELECT * FROM '{path}'").fetchall()


@pytest.fixture(scope="module")
def drawn(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return sources.get("synthetic", tmp_path_factory.mktemp("drawn") / "raw").parent


def slow_levels(taken: list[list[int]], log_weights: list[list[float]], k: int, cold: int) -> dict[str, float]:
    """The definition in Python floats, one user and one item after the other."""
    counts = Counter(item for items in taken for item in items[:-2])
    total: Counter[str] = Counter()
    for items, logs in zip(taken, log_weights, strict=True):
        left = [item for item in range(len(logs)) if item not in items[:-1]]
        whole = math.fsum(math.exp(logs[item]) for item in left)
        chance = {item: math.exp(logs[item]) / whole for item in left}
        best = sorted(left, key=lambda item: -logs[item])[:k]
        popular = sorted(left, key=lambda item: (-counts[item], item))[:k]
        total["best"] += math.fsum(chance[item] for item in best)
        total["best_ndcg"] += math.fsum(chance[item] / math.log2(place + 2) for place, item in enumerate(best))
        total["popularity"] += math.fsum(chance[item] for item in popular)
        total["realised"] += float(items[-1] in best)
        total["random"] += min(1.0, k / (len(left) + cold))
    return {name: value / len(taken) for name, value in total.items()}


@pytest.mark.parametrize("k", [1, 5, 20])
def test_levels_match_the_definition(k: int) -> None:
    generator = np.random.default_rng(5)
    world = plant(SMALL, generator)
    taken = list(draw_events(world, SMALL, generator))
    levels = Levels.of(
        taken, lambda users: world.log_weights(users, SMALL.items, SMALL.strength), num_items=SMALL.items, num_cold=4
    )
    weights = [[SMALL.strength * float(u @ i) + p for i, p in zip(world.items[:45], world.popularity, strict=False)]
               for u in world.users]  # fmt: skip
    expected = slow_levels([items.tolist() for items in taken], weights, k, 4)
    assert levels.best_possible[f"recall@{k}"] == pytest.approx(expected["best"], rel=1e-12)
    assert levels.best_possible[f"ndcg@{k}"] == pytest.approx(expected["best_ndcg"], rel=1e-12)
    assert levels.popularity[f"recall@{k}"] == pytest.approx(expected["popularity"], rel=1e-12)
    assert levels.realised[f"hit_rate@{k}"] == pytest.approx(expected["realised"], rel=1e-12)
    assert levels.random[f"recall@{k}"] == pytest.approx(expected["random"], rel=1e-12)


def test_events_follow_the_weights_without_putting_back() -> None:
    # The chance of a pair of first events is w_a / sum * w_b / (sum - w_a).
    number = 40_000
    settings = Synthetic(users=number, items=10, cold_items=0, events=5, strength=0.0)
    weights = np.array([8.0, 4.0, 2.0, 1.0, 1.0, 1.0, 0.5, 0.25, 0.125, 0.125])
    world = World(np.zeros((number, 1)), np.zeros((10, 1)), np.log(weights))
    pairs = Counter(tuple(items[:2]) for items in draw_events(world, settings, np.random.default_rng(0)))
    for pair in ((0, 1), (1, 0), (2, 0), (0, 3), (3, 9)):
        chance = weights[pair[0]] / weights.sum() * weights[pair[1]] / (weights.sum() - weights[pair[0]])
        spread = math.sqrt(chance * (1 - chance) / number)
        assert pairs[pair] / number == pytest.approx(chance, abs=4.5 * spread)


def test_same_settings_same_files_and_another_seed_others(tmp_path: Path) -> None:
    one, two = (sources.get("synthetic", tmp_path / name, settings=SMALL).parent for name in ("one", "two"))
    other = sources.get("synthetic", tmp_path / "other", settings=Synthetic(60, 45, 4, 9, seed=4)).parent
    for name in ("interactions.parquet", "users.parquet", "items.parquet"):
        assert rows(one / name) == rows(two / name)
        assert rows(one / name) != rows(other / name)
    for name in ("truth.json", "truth.npz", "spec.toml"):
        assert (one / name).read_bytes() == (two / name).read_bytes()


def test_events_are_in_order_without_repeats_and_never_of_cold_items(drawn: Path) -> None:
    log = rows(drawn / "interactions.parquet")
    assert len({(user, item) for user, item, _ in log}) == len(log)
    assert all(a[0] < b[0] or (a[0] == b[0] and a[2] < b[2]) for a, b in itertools.pairwise(log))
    lengths = Counter(user for user, _, _ in log)
    assert len(lengths) == 1000
    assert min(lengths.values()) >= 5
    assert np.mean(list(lengths.values())) == pytest.approx(30, abs=0.6)
    listed = {row[0] for row in rows(drawn / "items.parquet")}
    assert len(listed) == 525
    assert {f"i{number:06d}" for number in range(500, 525)} == listed - {f"i{number:06d}" for number in range(500)}
    assert max(item for _, item, _ in log) < "i000500"


def test_levels_are_in_order_and_luck_is_as_large_as_stated(drawn: Path) -> None:
    truth = json.loads((drawn / "truth.json").read_text())
    for metric in ("recall@5", "recall@10", "recall@20", "ndcg@10"):
        best, popular, chance = (truth[level][metric] for level in ("best_possible", "popularity", "random"))
        assert best > 2 * popular > 4 * chance > 0
        assert abs(truth["realised"][metric] - best) < 4 * truth["standard_error"][metric]
    assert truth["best_possible"]["hit_rate@10"] == truth["best_possible"]["recall@10"]


def test_without_taste_popularity_is_nearly_the_best(tmp_path: Path) -> None:
    flat = Synthetic(users=800, items=100, cold_items=0, events=20, strength=0.0)
    truth = json.loads((sources.get("synthetic", tmp_path / "raw", settings=flat).parent / "truth.json").read_text())
    assert truth["popularity"]["recall@10"] == pytest.approx(truth["best_possible"]["recall@10"], rel=0.02)


def test_features_tell_of_the_vectors(drawn: Path) -> None:
    truth = np.load(drawn / "truth.npz", allow_pickle=False)
    people, things = rows(drawn / "users.parquet"), rows(drawn / "items.parquet")
    liked = [row[2] == f"likes {TASTES[taste]}" for row, taste in zip(people, truth["users"].argmax(1), strict=True)]
    assert np.mean(liked) == pytest.approx(0.8 + 0.2 / 8, abs=0.05)
    assert np.corrcoef([row[1] for row in people], truth["users"][:, -1])[0, 1] > 0.8
    assert [row[2] for row in things] == [TASTES[taste] for taste in truth["items"].argmax(1)]
    assert np.corrcoef([row[4] for row in things], truth["items"][:, -1])[0, 1] < -0.5
    assert len({row[1] for row in things}) > 400
    assert all(len(row[1].split()) == 3 for row in things)


def test_true_ranking_scores_what_is_realised_on_the_prepared_data(drawn: Path, tmp_path: Path) -> None:
    from twotower.data.dataset import Dataset
    from twotower.data.prepare.prepare import prepare
    from twotower.data.splitters import split_log

    truth = np.load(drawn / "truth.npz", allow_pickle=False)
    dataset = Dataset.load(prepare(drawn / "spec.toml", tmp_path / "prepared"))
    assert dataset.schema.num_items == 525 + 2
    test = split_log(dataset.log, "leave-one-out").test
    weights = 3.0 * truth["users"] @ truth["items"][:500].T + truth["popularity"][:500]
    hits = 0
    for user in test.users().tolist():
        seen = test.history.items[test.history.offsets[user] : test.history.offsets[user + 1]].numpy() - 2
        scores = weights[user - 2].copy()
        scores[seen] = -np.inf
        found = int(test.truth.items[test.truth.offsets[user]]) - 2
        hits += found in np.argsort(-scores)[:10]
    levels = json.loads((drawn / "truth.json").read_text())
    assert hits / 1000 == pytest.approx(levels["realised"]["recall@10"])


def test_command_draws_as_told(tmp_path: Path) -> None:
    with pytest.raises(SystemExit) as stopped:
        main(["data", "get", "synthetic", "--to", str(tmp_path / "raw"), "--users", "30", "--items", "40", "--events",
              "7", "--cold-items", "2", "--strength", "1.5", "--seed", "9"])  # fmt: skip
    assert stopped.value.code == 0
    settings = json.loads((tmp_path / "raw" / "truth.json").read_text())["settings"]
    assert settings == {"users": 30, "items": 40, "cold_items": 2, "events": 7, "strength": 1.5, "seed": 9}


@pytest.mark.parametrize(
    ("settings", "said"),
    [
        ({"users": 0}, "needs a user"),
        ({"items": 9}, "10 items"),
        ({"events": 4}, "between 5 and half"),
        ({"items": 20, "events": 11}, "between 5 and half"),
        ({"strength": float("nan")}, "strength"),
    ],
)
def test_settings_out_of_range_are_refused(settings: dict[str, Any], said: str) -> None:
    with pytest.raises(InputError, match=said):
        Synthetic(**settings)
