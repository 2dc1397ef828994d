"""What a person sees of a training: a bar on a terminal, one line an epoch in a file, nothing with ``-q``."""

from __future__ import annotations

import io
import sys

import pytest

from twotower.core.schema import Schema
from twotower.models.registry import build_model
from twotower.training.callbacks import EpochRecord
from twotower.training.progress import Progress, duration

MODEL = build_model("popularity", Schema(4, 4))


class Screen(io.StringIO):
    """A terminal as far as Python can tell."""

    def isatty(self) -> bool:
        return True


class Clock:
    """A clock that the test moves."""

    def __init__(self) -> None:
        self.now = 100.0

    def __call__(self) -> float:
        return self.now


def record(epoch: int, loss: float, **metrics: float) -> EpochRecord:
    return EpochRecord(epoch, 10 * epoch, loss, 0.1, 1.0, metrics)


def run(progress: Progress, clock: Clock, *, first: int = 0, scores: tuple[float | None, ...]) -> None:
    """Four epochs of ten steps, three seconds an epoch, from ``first`` on."""
    progress.started(4, 10, 10 * first)
    for epoch, score in enumerate(scores, first + 1):
        for step in range(10 * epoch - 9, 10 * epoch + 1):
            clock.now += 0.3
            progress.stepped(step)
        more = {} if score is None else {"ndcg@10": score, "recall@10": 0.9}
        progress.epoch_done(record(epoch, 5.0 - epoch, **more), MODEL)
    progress.finished()


@pytest.fixture
def clock() -> Clock:
    return Clock()


def test_a_file_gets_one_line_an_epoch_with_loss_metric_and_time_left(capsys, clock):
    run(Progress("sasrec\x1b[31m", "ndcg@10", clock=clock), clock, scores=(0.05, None, 0.04, 0.07))
    out, errors = capsys.readouterr()
    assert out == ""
    assert errors.splitlines() == [
        "sasrec\\x1b[31m: epoch 1/4, loss 4.0000, ndcg@10 0.0500 (best), 9 s left",
        "sasrec\\x1b[31m: epoch 2/4, loss 3.0000, 6 s left",
        "sasrec\\x1b[31m: epoch 3/4, loss 2.0000, ndcg@10 0.0400 (best 0.0500 in 1), 3 s left",
        "sasrec\\x1b[31m: epoch 4/4, loss 1.0000, ndcg@10 0.0700 (best), in 12 s",
    ]


def test_a_resumed_training_counts_its_own_steps_and_claims_no_best(capsys, clock):
    run(Progress("sasrec", "ndcg@10", clock=clock), clock, first=2, scores=(0.05, 0.06))
    assert capsys.readouterr().err.splitlines() == [
        "sasrec: epoch 3/4, loss 2.0000, ndcg@10 0.0500, 3 s left",
        "sasrec: epoch 4/4, loss 1.0000, ndcg@10 0.0600, in 6 s",
    ]


def test_the_last_fit_is_told_from_the_first_training(capsys, clock):
    progress = Progress("sasrec", "ndcg@10", clock=clock)
    run(progress, clock, scores=(0.05,))
    run(progress, clock, scores=(None,))
    assert capsys.readouterr().err.splitlines()[1].startswith("sasrec, last fit: epoch 1/4, loss 4.0000, ")


def test_a_terminal_shows_the_same_in_a_bar_and_is_left_clean(monkeypatch, clock):
    monkeypatch.setattr(sys, "stderr", Screen())
    monkeypatch.setenv("COLUMNS", "120")
    monkeypatch.setenv("TERM", "xterm")
    progress = Progress("sasrec", "ndcg@10", clock=clock)
    progress.started(4, 10, 0)
    clock.now += 3.0
    progress.stepped(10)
    progress.epoch_done(record(1, 4.0, **{"ndcg@10": 0.05}), MODEL)
    progress.bar.refresh()
    shown = sys.stderr.getvalue()  # type: ignore[attr-defined]
    assert "epoch 1/4, loss 4.0000, ndcg@10 0.0500 (best)" in shown
    assert "9 s left" in shown
    progress.finished()
    assert "\n" not in sys.stderr.getvalue().rpartition("\x1b[2K")[2]  # type: ignore[attr-defined]


@pytest.mark.parametrize("stream", [io.StringIO, Screen])
def test_quiet_shows_nothing(stream, monkeypatch, clock):
    monkeypatch.setattr(sys, "stderr", stream())
    run(Progress("sasrec", "ndcg@10", quiet=True, clock=clock), clock, scores=(0.05, 0.06))
    assert sys.stderr.getvalue() == ""  # type: ignore[attr-defined]


def test_minutes_and_hours_are_written_as_such():
    assert [duration(value) for value in (119.4, 119.6, 3599.4, 3600.0, 90000.0)] == [
        "119 s",
        "2 min 00 s",
        "59 min 59 s",
        "1 h 00 min",
        "25 h 00 min",
    ]


def test_a_training_is_silent_with_q_and_says_its_epochs_without(tiny_dataset, tmp_path, monkeypatch, capsys):
    import logging

    from twotower.cli.main import main
    from twotower.experiment import train as whole

    real = whole.train
    monkeypatch.setattr(whole, "train", lambda run, **more: real(run, dataset=tiny_dataset, **more))
    words = ["train", "--data", "x", "--model", "two_tower", "--set", "training.epochs=2", "--set", "model.dim=4"]
    ours = logging.getLogger("twotower")
    handlers, level = list(ours.handlers), ours.level
    try:
        for first, lines in (([], 2), (["-q"], 0)):
            with pytest.raises(SystemExit):
                main([*first, *words, "--to", str(tmp_path / "b")])
            errors = capsys.readouterr().err.splitlines()
            assert len([line for line in errors if line.startswith("two_tower: epoch ")]) == lines
    finally:
        ours.handlers[:] = handlers
        ours.setLevel(level)
