"""Patience: which evaluations count against a training, and what outweighs them."""

from __future__ import annotations

import pytest

from twotower.training.callbacks import EpochRecord
from twotower.training.config import Training
from twotower.training.patience import is_out_of_patience

CONFIG = Training(patience=2, patience_steps=10, patience_loss=0.01, metric="ndcg@10")


def records(*judged: tuple[int, float | None], loss: float = 1.0, falls: float = 0.0) -> list[EpochRecord]:
    """One a pair of step and metric (None: no evaluation), with a loss that falls by a share each time."""
    return [
        EpochRecord(
            epoch, step, loss * (1 - falls) ** epoch, 0.1, 1.0, metrics={} if value is None else {"ndcg@10": value}
        )
        for epoch, (step, value) in enumerate(judged, start=1)
    ]


@pytest.mark.parametrize(
    ("judged", "over"),
    [
        ([(10, 0.3), (20, 0.2), (30, 0.1)], True),
        ([(10, 0.3), (20, 0.2), (29, 0.1)], False),
        ([(10, 0.3), (15, 0.2), (20, 0.2), (25, 0.1), (30, 0.1)], True),
        ([(10, 0.3), (20, None), (30, None)], False),
        ([(10, 0.3), (20, 0.2)], False),
    ],
    ids=["two worse", "the second too near", "some too near", "epochs without evaluation", "one worse"],
)
def test_evaluations_count_that_lie_some_steps_apart(judged, over):
    assert is_out_of_patience(records(*judged), 1, CONFIG) == over


@pytest.mark.parametrize(("falls", "over"), [(0.02, False), (0.005, True), (-0.1, True)])
def test_a_loss_that_still_falls_outweighs_them(falls, over):
    assert is_out_of_patience(records((10, 0.3), (20, 0.2), (30, 0.1), falls=falls), 1, CONFIG) == over


def test_nothing_ends_where_nothing_can_be_served_yet_or_no_patience_is_set():
    worse = records((10, 0.3), (20, 0.2), (30, 0.1))
    assert not is_out_of_patience(worse, 0, CONFIG)
    assert not is_out_of_patience(worse, 1, Training(patience=0))
