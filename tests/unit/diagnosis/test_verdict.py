"""What is judged healthy, suspect and collapsed, by which reasons, and what bad input is told."""

from __future__ import annotations

import json
from importlib import resources
from pathlib import Path

import numpy as np
import pytest
import torch

import twotower
from twotower.cli.main import main
from twotower.core.errors import InputError
from twotower.diagnosis import diagnose
from twotower.diagnosis.thresholds import load_thresholds


def gaussian(rows: int = 255, dim: int = 64, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).normal(size=(rows, dim))


def reasons(vectors: np.ndarray, **options: object) -> dict[str, str]:
    return {reason.name: reason.level for reason in diagnose(vectors, **options).reasons}  # type: ignore[arg-type]


@pytest.mark.parametrize(("rows", "dim"), [(255, 128), (50, 128), (500, 8), (12, 4), (3, 2), (2, 5)])
def test_random_vectors_are_healthy(rows: int, dim: int) -> None:
    found = diagnose(gaussian(rows, dim))
    assert (found.verdict, found.reasons) == ("healthy", [])


def test_the_papers_case_has_collapsed() -> None:
    # one vector for all, and what differs lies in a few directions that every coordinate shares
    draw = np.random.default_rng(0)
    vectors = draw.normal(size=128) * 2.4 + draw.normal(size=(255, 3)) @ draw.normal(size=(3, 128)) * 0.5
    found = diagnose(vectors + 0.05 * draw.normal(size=(255, 128)))
    assert found.statistics["mean_cosine"] > 0.8
    assert found.statistics["effective_dimensions"] > 120  # the paper's own count does not see it
    assert found.verdict == "collapsed"


def test_a_cone_is_suspect_and_its_centred_figures_are_healthy() -> None:
    found = diagnose(gaussian() + 3.0 * gaussian(1))
    assert [(reason.name, reason.level) for reason in found.reasons] == [("cone", "suspect")]
    assert abs(found.centred["mean_cosine"]) < 0.01
    assert found.centred["rankme"] > 0.8 * 64


def carried(offset: float) -> np.ndarray:
    vectors = gaussian(200, 12)
    vectors[:, 5] = 40.0 * vectors[:, 5] + offset
    return vectors


def test_a_dimension_that_carries_the_space_alone_is_named() -> None:
    found = diagnose(carried(0.0))
    sentences = {reason.name: reason.sentence for reason in found.reasons}
    assert "dimension 5 (from 0) alone carries" in sentences["dominant_direction"]
    assert "dimension 5 (from 0) alone carries" in sentences["rank"]
    assert (found.centred["largest_dimension"], found.statistics["largest_dimension"]) == (5, 5)
    unit = carried(0.0) / np.linalg.norm(carried(0.0), axis=1, keepdims=True)
    assert found.statistics["largest_dimension_share"] == pytest.approx((unit**2).mean(0)[5])


def test_a_dimension_that_makes_the_cone_is_named() -> None:
    found = diagnose(gaussian(200, 12) + 40.0 * np.eye(12)[7])
    assert "dimension 7 (from 0) alone carries" in found.reasons[0].sentence
    assert (found.reasons[0].name, found.centred["largest_dimension_share"] < 0.2) == ("shared_direction", True)


def test_a_direction_that_no_dimension_carries_names_none() -> None:
    found = diagnose(gaussian() + 3.0 * gaussian(1))
    assert "alone" not in found.reasons[0].sentence


@pytest.mark.usefixtures("quick_map")
def test_text_json_and_page_name_the_column_that_carries_a_space(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    columns = [f"f{number}" for number in range(12)]
    columns[5] = "weight"
    table = tmp_path / "items.csv"
    np.savetxt(table, carried(0.0), delimiter=",", header=",".join(columns), comments="")
    page = tmp_path / "page.html"
    for words in (["--json"], ["--html", str(page)]):
        with pytest.raises(SystemExit):
            main(["diagnose", str(table), *words])
        out = " ".join(capsys.readouterr().out.split())
        assert "'weight' (dimension 5, from 0) alone carries" in out
    assert "&#x27;weight&#x27; (dimension 5, from 0) alone carries" in page.read_text(encoding="utf-8")


def test_a_cone_with_structure_within_is_excused() -> None:
    draw = np.random.default_rng(0)
    topics = draw.normal(size=(25, 64))[draw.integers(25, size=400)]
    found = diagnose(topics + 0.3 * draw.normal(size=(400, 64)) + 2.6 * draw.normal(size=64))
    assert 0.8 < found.statistics["mean_cosine"] < 0.88
    assert found.verdict == "healthy"


@pytest.mark.parametrize(
    ("spoil", "reason", "level"),
    [
        (lambda v: v + 30.0, "shared_direction", "collapsed"),
        (lambda v: v[:, :2] @ gaussian(2) + 1e-4 * v, "rank", "collapsed"),
        (lambda v: np.tile(v[:10], (20, 1)), "duplicates", "collapsed"),
        (lambda v: np.r_[v, v[:60]], "duplicates", "suspect"),
        (lambda v: np.where(np.arange(len(v))[:, None] < 5, 100 * v, v), "norms", "suspect"),
        (lambda v: np.where(np.arange(64) < 20, 0.3, v), "dead_dimensions", "suspect"),
        (lambda v: np.where(np.arange(len(v))[:, None] < 30, 0.0, v), "zero_vectors", "suspect"),
        (lambda v: v + 40 * gaussian(len(v), 1, seed=1) * gaussian(1), "dominant_direction", "collapsed"),
    ],
)
def test_planted_failures_are_named(spoil, reason: str, level: str) -> None:
    assert reasons(spoil(gaussian())).get(reason) == level


def test_popularity_capture_needs_popularity_to_be_named() -> None:
    popularity = np.random.default_rng(1).pareto(1.0, size=255) * 5
    vectors = gaussian() + 8 * np.log1p(popularity)[:, None] * gaussian(1) / 8
    assert reasons(vectors, popularity=popularity)["popularity"] == "collapsed"
    assert "popularity" not in reasons(vectors)


@pytest.mark.parametrize("value", [0.0, 1.0])
def test_identical_vectors_have_collapsed_and_undefined_figures_are_null(value: float) -> None:
    found = diagnose(np.full((30, 8), value))
    assert found.verdict == "collapsed"
    assert found.reasons[0].name == "identical"
    assert found.statistics["silhouette"] is None
    assert found.statistics["hubness"] is None
    assert found.centred["rankme"] is None
    assert "NaN" not in json.dumps(found.to_json(), allow_nan=False)


def test_zero_vectors_are_counted_and_left_out_of_cosines() -> None:
    vectors = gaussian(100)
    spoiled = np.r_[vectors, np.zeros((3, 64))]
    found = diagnose(spoiled)
    assert found.statistics["zero_vectors"] == 3
    assert found.statistics["duplicates"] == 2
    assert found.statistics["mean_cosine"] == pytest.approx(diagnose(vectors).statistics["mean_cosine"], abs=1e-12)
    assert any("3 zero vector(s)" in note for note in found.notes)


def test_fewer_vectors_than_clusters_is_stated() -> None:
    found = diagnose(gaussian(4, 6))
    assert found.statistics["davies_bouldin"] is None
    assert any("clusters" in note for note in found.notes)


@pytest.mark.parametrize(
    ("vectors", "message"),
    [
        (np.zeros(5), "expected a 2-d array"),
        (np.zeros((1, 5)), "1 vector"),
        (np.zeros((0, 5)), "0 vector"),
        (np.zeros((5, 1)), "1 dimension"),
        (np.array([["a", "b"], ["c", "d"]]), "expected real numbers"),
        (torch.zeros(3, 3, dtype=torch.complex64), "expected real numbers"),
        (np.array([[1.0, 2], [np.nan, 1], [np.inf, 0]]), r"2 of 3 rows hold NaN or inf \(rows 1, 2\)"),
    ],
)
def test_bad_vectors(vectors: object, message: str) -> None:
    with pytest.raises(InputError, match=message):
        diagnose(vectors)  # type: ignore[arg-type]


def test_bad_rows_are_named_by_their_ids() -> None:
    with pytest.raises(InputError, match=r"1 of 2 rows hold NaN or inf \(ids second\)"):
        diagnose(np.array([[1.0, 2], [np.nan, 1]]), ids=["first", "second"])


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"popularity": np.ones(3)}, "one number for each of the 20"),
        ({"popularity": -np.ones(20)}, "at least 0"),
        ({"positive_pairs": torch.tensor([[0, 20]])}, "row numbers must be from 0 to 19"),
        ({"positive_pairs": torch.tensor([0, 2])}, "positive pairs"),
    ],
)
def test_bad_companions(options: dict[str, object], message: str) -> None:
    with pytest.raises(InputError, match=message):
        diagnose(gaussian(20, 3), **options)  # type: ignore[arg-type]


@pytest.mark.parametrize("dtype", [np.float16, np.float32, np.int32])
def test_every_real_type_is_read(dtype: type) -> None:
    assert diagnose((gaussian() * 100).astype(dtype)).verdict == "healthy"


def test_the_same_seed_gives_the_same_answer() -> None:
    assert diagnose(gaussian(), seed=4).to_json() == diagnose(gaussian(), seed=4).to_json()


class TestThresholds:
    def test_the_reference_shows_the_shipped_file(self) -> None:
        page = Path(__file__).resolve().parents[3] / "docs" / "reference" / "diagnosis.md"
        shipped = resources.files("twotower.diagnosis").joinpath("thresholds.toml").read_text(encoding="utf-8")
        assert f"```toml\n{shipped}```" in page.read_text(encoding="utf-8")

    def test_a_file_replaces_single_numbers(self, tmp_path: Path) -> None:
        own = tmp_path / "own.toml"
        own.write_text("[cone]\nsuspect = 0.99\nalways = 0.995\n")
        vectors = gaussian() + 3.0 * gaussian(1)
        assert diagnose(vectors).verdict == "suspect"
        assert diagnose(vectors, thresholds=own).verdict == "healthy"
        assert load_thresholds(own)["rank"] == load_thresholds()["rank"]

    @pytest.mark.parametrize(
        ("text", "message"),
        [
            ("[cones]\nsuspect = 1\n", "unknown reason 'cones'; did you mean 'cone'"),
            ("[cone]\nsupsect = 1\n", "unknown threshold 'supsect'; did you mean 'suspect'"),
            ("[cone]\nsuspect = 'high'\n", "must be a number"),
            ("cone = 3\n", "must be a table"),
            ("[cone\n", "not valid TOML"),
        ],
    )
    def test_bad_files(self, tmp_path: Path, text: str, message: str) -> None:
        (tmp_path / "own.toml").write_text(text)
        with pytest.raises(InputError, match=message):
            load_thresholds(tmp_path / "own.toml")


class TestCommand:
    def run(self, capsys: pytest.CaptureFixture[str], *words: object) -> tuple[int, str, str]:
        with pytest.raises(SystemExit) as stopped:
            main(["diagnose", *map(str, words)])
        out, err = capsys.readouterr()
        return int(stopped.value.code or 0), out, err

    def test_json_is_one_object_with_the_agreed_names(self, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
        np.save(tmp_path / "v.npy", gaussian())
        status, out, _ = self.run(capsys, tmp_path / "v.npy", "--json")
        value = json.loads(out)
        assert status == 0
        assert {"verdict", "reasons", "statistics", "centred", "causes", "with_self_pairs"} <= set(value)
        cosines = ["mean", "median", "std", "min", "max", "p10", "p25", "p75", "p90"]
        assert {f"{name}_cosine" for name in cosines} <= set(value["statistics"])
        assert {
            *("vectors", "dimensions", "entropy", "effective_dimensions", "dimensions_for_90_percent"),
            *("davies_bouldin", "silhouette", "improvement_over_random", "participation_ratio", "rankme"),
            *("stable_rank", "isotropy", "uniformity", "hubness", "anti_hubs", "duplicates", "intrinsic_dimension"),
        } <= set(value["statistics"])

    def test_collapsed_exits_with_three(self, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
        np.save(tmp_path / "v.npy", gaussian() + 30.0)
        status, out, _ = self.run(capsys, tmp_path / "v.npy")
        assert status == 3
        assert "COLLAPSED" in out
        assert len(out.splitlines()) < 45

    def test_bad_input_is_one_line_and_two(self, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
        np.save(tmp_path / "v.npy", np.zeros(5))
        status, out, err = self.run(capsys, tmp_path / "v.npy", "--json")
        assert (status, out) == (2, "")
        assert err.startswith("error: ")
        assert len(err.splitlines()) == 1


def test_the_package_offers_diagnose() -> None:
    assert twotower.diagnose is diagnose
