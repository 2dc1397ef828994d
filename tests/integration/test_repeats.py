"""A log where people come back to what they had: it is said, the choice is taken, and the bundle answers as judged."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import twotower
from twotower.cli.main import main
from twotower.data.describe import describe
from twotower.experiment.recipes import default_run
from twotower.experiment.run import Run

Capture = pytest.CaptureFixture[str]


def write_log(folder: Path) -> Path:
    """200 people with three favourites each among 300 songs: four events in five are of the favourites."""
    draw = np.random.default_rng(3)
    lines = ["user,item,time"]
    for user in range(200):
        favourites = draw.choice(300, size=3, replace=False)
        for step in range(12):
            item = draw.choice(favourites) if draw.random() < 0.8 else draw.integers(300)
            lines.append(f"u{user},i{item},{1_600_000_000 + 1_000 * step + user}")
    (folder / "log.csv").write_text("\n".join(lines) + "\n")
    (folder / "spec.toml").write_text(
        'name = "songs"\n[interactions]\npath = "log.csv"\nuser = "user"\nitem = "item"\ntime = "time"\n'
    )
    return folder / "spec.toml"


@pytest.fixture(scope="module")
def songs(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("songs")
    twotower.Dataset.prepare(write_log(folder), folder / "prepared")
    return folder / "prepared"


def trained(songs: Path, to: Path, *settings: str) -> Any:
    run: Run = default_run("item_cosine").with_settings([f"data.path={songs}", *settings])
    return twotower.train(run, to=to)


def call(capsys: Capture, *words: object) -> tuple[str, str]:
    with pytest.raises(SystemExit) as stop:
        main([str(word) for word in words])
    told = capsys.readouterr()
    assert stop.value.code == 0, told.err
    return told.out, told.err


def test_describe_and_prepare_say_how_many_repeats_and_what_to_do(songs: Path, capsys: Capture) -> None:
    data = twotower.Dataset.load(songs)
    found = describe(data)["repeats"]
    slow = sum(
        item in seen[:place]
        for user in range(2, data.schema.num_users)
        for seen in [data.log.items[data.log.offsets[user] : data.log.offsets[user + 1]].tolist()]
        for place, item in enumerate(seen)
    )
    assert found["events"] == slow
    assert found["share"] == pytest.approx(slow / (data.log.num_events - 200))
    assert found["share"] > 0.4
    assert any("evaluation.mask_seen = false" in line for line in data.manifest["treatments"])
    out, _ = call(capsys, "data", "describe", songs)
    assert "of a user's later events are of items seen before" in " ".join(out.split())


def test_masking_decides_everything_and_the_bundle_answers_as_it_was_judged(
    songs: Path, tmp_path: Path, capsys: Capture
) -> None:
    masked = trained(songs, tmp_path / "masked").test.metrics["recall@10"]
    kept = trained(songs, tmp_path / "kept", "evaluation.mask_seen=false").test.metrics["recall@10"]
    assert kept > 5 * masked

    def items(bundle: str, *more: str) -> set[str]:
        out, _ = call(capsys, "recommend", tmp_path / bundle, "--user", "u5", "-k", 10, "--json", *more)
        return {item["id"] for item in json.loads(out)["items"]}

    seen = {record.id for record in twotower.load(tmp_path / "kept").seen("u5")}
    assert not items("masked") & seen
    assert items("kept") & seen
    assert items("masked", "--include-seen") & seen
    assert not items("kept", "--leave-out-seen") & seen

    def recall(bundle: str, *more: str) -> float:
        out, _ = call(capsys, "evaluate", tmp_path / bundle, "--json", *more)
        return float(json.loads(out)["metrics"]["recall@10"])

    assert recall("masked") == pytest.approx(masked)
    assert recall("masked", "--include-seen") == pytest.approx(kept)
    assert recall("kept") == pytest.approx(kept)
    assert recall("kept", "--leave-out-seen") == pytest.approx(masked)
    assert twotower.evaluate(tmp_path / "masked", include_seen=True).metrics["recall@10"] == pytest.approx(kept)


def test_figures_that_masking_decides_say_so(songs: Path, tmp_path: Path, capsys: Capture) -> None:
    trained(songs, tmp_path / "masked")
    out, _ = call(capsys, "evaluate", tmp_path / "masked", "--json")
    assert any("seen before and so counted as missed (--include-seen" in line for line in json.loads(out)["notices"])
