"""The record of an epoch, and the lines that it is kept as."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from twotower.training.callbacks import EpochRecord, JsonLines

LINE = (
    '{"epoch": 2, "step": 40, "loss": 3.25, "learning_rate": 0.001, "seconds": 1.5, "recall@10": 0.125, '
    '"ndcg@10": 0.0625, "geometry/mean_cosine": 0.5, "geometry/rankme": 7.0}'
)
"""As every version so far has written it."""


def test_a_line_of_an_earlier_version_is_read_and_written_to_the_letter() -> None:
    record = EpochRecord.from_json(json.loads(LINE))
    assert record == EpochRecord(
        epoch=2,
        step=40,
        loss=3.25,
        learning_rate=0.001,
        seconds=1.5,
        metrics={"recall@10": 0.125, "ndcg@10": 0.0625},
        geometry={"mean_cosine": 0.5, "rankme": 7.0},
    )
    assert json.dumps(record.to_json()) == LINE


@pytest.mark.parametrize("selectable", [True, False])
def test_whether_weights_may_be_chosen_survives_the_line(selectable: bool) -> None:
    record = EpochRecord(1, 20, 0.5, 0.1, 2.0, {"auc": 0.7}, selectable=selectable)
    assert EpochRecord.from_json(json.loads(json.dumps(record.to_json()))) == record


def test_the_use_of_codes_survives_the_line() -> None:
    record = EpochRecord(1, 20, 0.5, 0.1, 2.0, {"auc": 0.7}, {"rankme": 3.0}, codes={"used": 0.5, "perplexity": 0.25})
    line = record.to_json()
    assert line["codes/used"] == 0.5
    assert EpochRecord.from_json(json.loads(json.dumps(line))) == record


def test_a_resumed_log_keeps_what_the_checkpoint_has_seen(tmp_path: Path) -> None:
    path = tmp_path / "train.jsonl"
    path.write_text(LINE + "\n" + LINE.replace("40", "60") + "\n", encoding="utf-8")
    JsonLines(path).started(3, 20, 40)
    assert path.read_text(encoding="utf-8") == LINE + "\n"


@pytest.mark.parametrize(
    "line",
    [
        LINE.replace("epoch", "epoci"),
        LINE.replace('"loss"', '"lo3s"'),
        LINE.replace("0.125", '"0.125"'),
        LINE.replace('"epoch": 2', '"epoch": 2.5'),
        "[40]",
        LINE[:-1],
    ],
)
def test_a_line_that_is_no_whole_record_is_dropped_with_a_word(
    line: str, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    path = tmp_path / "train.jsonl"
    path.write_text(LINE + "\n" + line + "\n", encoding="utf-8")
    JsonLines(path).started(3, 20, 60)
    assert path.read_text(encoding="utf-8") == LINE + "\n"
    assert "line 2 is damaged and dropped" in caplog.text
