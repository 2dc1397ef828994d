"""Rows without a training event are judged apart: the verdict is of the others, and the cold ones are told."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import save_file

from twotower.cli.main import main
from twotower.diagnosis import diagnose
from twotower.diagnosis.report import write_report
from twotower.diagnosis.vectors import Vectors
from twotower.experiment.checks import check_space

WARM, COLD = 150, 255


def table(seed: int = 0) -> tuple[np.ndarray, np.ndarray]:
    """Warm rows that are spread, and 63 % of cold ones, all but the same as on the first day; shuffled together."""
    draw = np.random.default_rng(seed)
    vectors = np.concatenate([draw.normal(size=(WARM, 32)), 0.01 * draw.normal(size=(COLD, 32)) + draw.normal(size=32)])
    events = np.concatenate([draw.integers(1, 9, size=WARM), np.zeros(COLD, dtype=np.int64)])
    order = draw.permutation(len(vectors))
    return vectors[order], events[order]


def test_a_good_model_with_63_percent_of_cold_items_is_healthy() -> None:
    vectors, events = table()
    assert diagnose(vectors).verdict == "collapsed", "the case must be one that the cold rows decide"
    found = diagnose(vectors, popularity=events)
    assert found.verdict == "healthy"
    assert (found.read["rows"], found.statistics["vectors"]) == (WARM + COLD, WARM)
    assert (found.cold["rows"], found.cold["of"], found.cold["verdict"]) == (COLD, WARM + COLD, "collapsed")
    assert found.cold["figures"]["mean_cosine"] > 0.98
    assert "255 of 405 rows (63.0%) have no training event" in found.cold["sentence"]
    assert check_space(found.to_json()).fine


def test_the_figures_of_the_others_are_those_without_the_cold_rows() -> None:
    vectors, events = table(1)
    alone = diagnose(vectors[events > 0], popularity=events[events > 0])
    found = diagnose(vectors, popularity=events)
    assert found.statistics == alone.statistics
    assert alone.cold == {}


def test_a_collapse_of_the_others_is_no_less_one() -> None:
    vectors, events = table(2)
    vectors[events > 0] += 30.0
    assert diagnose(vectors, popularity=events).verdict == "collapsed"


def test_rows_that_nobody_saw_at_all_are_judged_together() -> None:
    vectors, _ = table(3)
    found = diagnose(vectors, popularity=np.zeros(len(vectors)))
    assert (found.cold, found.statistics["vectors"]) == ({}, WARM + COLD)


def test_one_cold_row_is_counted_and_has_no_verdict_of_its_own() -> None:
    vectors, events = table(4)
    vectors, events = vectors[events > 0], events[events > 0]
    events[7] = 0
    found = diagnose(vectors, popularity=events)
    assert (found.cold["rows"], found.cold["verdict"], found.statistics["vectors"]) == (1, None, WARM - 1)


def test_positive_pairs_keep_their_rows() -> None:
    vectors, events = table(5)
    warm = np.flatnonzero(events > 0)
    pairs = torch.tensor([[int(warm[0]), int(warm[9])], [int(np.flatnonzero(events == 0)[0]), int(warm[1])]])
    first, second = (vectors[row] / np.linalg.norm(vectors[row]) for row in (warm[0], warm[9]))
    found = diagnose(vectors, popularity=events, positive_pairs=pairs)
    assert found.statistics["alignment"] == pytest.approx(float(np.square(first - second).sum()))


@pytest.mark.parametrize("kind", ["array", "tensor"])
def test_a_part_of_rows_reads_its_own_alone(kind: str) -> None:
    values = np.arange(20.0).reshape(10, 2)
    part = Vectors(values if kind == "array" else torch.from_numpy(values)).part(torch.tensor([1, 4, 8]))
    assert torch.cat(list(part.chunks())).tolist() == values[[1, 4, 8]].tolist()
    assert part.take(torch.tensor([2, 0])).tolist() == values[[8, 1]].tolist()
    assert (part.count, len(part.norms)) == (3, 3)


@pytest.mark.usefixtures("quick_map")
def test_a_bundle_is_judged_by_the_events_that_its_model_learnt_from(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    vectors, events = table(6)
    bundle = tmp_path / "bundle"
    (bundle / "items").mkdir(parents=True)
    (bundle / "histories").mkdir()
    save_file({"state": torch.from_numpy(vectors).float()}, bundle / "items" / "states.safetensors")
    np.save(bundle / "items" / "ids.npy", np.arange(2, len(vectors) + 2))
    np.save(bundle / "histories" / "items.npy", np.arange(2, len(vectors) + 2))  # the test events are there too
    np.save(bundle / "items" / "events.npy", events)
    page = tmp_path / "page.html"
    for words in (["--json"], []):
        with pytest.raises(SystemExit) as stop:
            main(["diagnose", str(bundle), *words, *([] if words else ["--html", str(page)])])
        assert stop.value.code == 0
        out = capsys.readouterr().out
        if words:
            found = json.loads(out)
            assert (found["verdict"], found["cold"]["rows"], found["cold"]["verdict"]) == ("healthy", COLD, "collapsed")
        else:
            assert "HEALTHY" in out
            assert "cold rows: 255 of 405 rows (63.0%)" in " ".join(out.split())
    assert "255 of 405 rows (63.0%) have no training event" in page.read_text(encoding="utf-8")


@pytest.mark.usefixtures("quick_map")
def test_a_page_of_vectors_with_cold_rows_is_of_all_of_them(tmp_path: Path) -> None:
    vectors, events = table(7)
    found = diagnose(vectors, popularity=events)
    write_report(tmp_path / "page.html", found, vectors, popularity=events.astype(float).tolist())
    assert "healthy" in (tmp_path / "page.html").read_text(encoding="utf-8")
