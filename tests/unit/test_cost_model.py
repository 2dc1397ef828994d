"""The cost model: every measured point is as near as the page says, and the page holds what the program prints."""

from __future__ import annotations

import importlib.util
import sys
from collections import Counter
from pathlib import Path
from types import ModuleType

import pytest

ROOT = Path(__file__).resolve().parents[2]


@pytest.fixture(scope="module")
def model() -> ModuleType:
    spec = importlib.util.spec_from_file_location("cost_model", ROOT / "benchmarks" / "cost_model.py")
    assert spec is not None
    assert spec.loader is not None
    made = importlib.util.module_from_spec(spec)
    sys.modules["cost_model"] = made
    spec.loader.exec_module(made)
    return made


def test_every_measured_point_is_within_the_factor_that_is_stated(model: ModuleType) -> None:
    found = model.points()
    assert not [(one.what, one.unit, round(one.ratio, 2)) for one in found if not one.holds]
    units = Counter(one.unit for one in found)
    assert units["MiB"] >= 20, "memory of training, serving and preparing"
    assert units["ms"] >= 12
    assert units["us"] >= 3


def test_points_that_no_constant_was_fitted_to_are_among_them(model: ModuleType) -> None:
    fresh = [one for one in model.points() if "not fitted to" in one.what]
    assert len(fresh) == len(model.CHECKS)
    assert max(abs(one.ratio - 1) for one in fresh) < 0.1, "dimensions and items enter as the formula says"


def test_the_page_holds_the_table_that_the_program_prints(model: ModuleType) -> None:
    page = (ROOT / "docs" / "concepts" / "cost.md").read_text(encoding="utf-8")
    assert model.table(model.points()) in page, "benchmarks/cost_model.py prints another table"


def test_a_point_beyond_its_factor_does_not_hold(model: ModuleType) -> None:
    assert model.Point("memory", "MiB", 100.0, 124.0).holds
    assert not model.Point("memory", "MiB", 100.0, 126.0).holds
    assert not model.Point("memory", "MiB", 100.0, 79.0).holds


def test_the_numbers_of_the_paper_exercise_follow_from_the_formulas(model: ModuleType) -> None:
    assert model.sharded_mib(1e9, 64, 100) / 1024 == pytest.approx(2.4, abs=0.05)
    assert model.in_batch_mib(409_600, 100) / 1024 == pytest.approx(14.7, abs=0.05)
    assert model.search_ms(1e9, 64) == pytest.approx(32_000)
    assert model.scored_us(1e9, 64) / 1e6 == pytest.approx(5.6, abs=0.05)
    assert model.index_bytes("hnsw", 64) * 1e9 / 2**30 == pytest.approx(672, abs=1)


def test_catalogues_of_a_hundred_thousand_to_ten_million_items_on_a_gpu_are_among_them(model: ModuleType) -> None:
    found = [one for one in model.points() if one.what.startswith("memory of a GPU beyond")]
    assert len(found) == 6
    for items in ("100,000", "1,000,000", "10,000,000"):
        assert sum(f", {items} items," in one.what for one in found) == 2, "sampled and full softmax"
