"""Short trainings that SparCode's smaller tables share: one split, one encoder, few choices, so that rows are cheap.

Users, histories, vectors and measures are those of the table ``sparcode``. Here a cell has 8 epochs in batches of
4,096, the first half without codes, against 1,024 shared items; where scores are networks, 6 epochs in batches of 2,048
against 128. A row's figures are to be compared within its table.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

from twotower.experiment.run import Run
from twotower.reproduce.sparcode.table import SCORES, TRAINED, coded, counted, twin
from twotower.training.config import Objective, Sampling, Training
from twotower.training.sources import NegativeSource

QUICK = replace(TRAINED, epochs=8, batch_size=4096, warmup_steps=100)
SHARED = 1024
NETWORK = TRAINED
OF_NETWORK = 128
"""Items that a score by a network is trained against."""
RATES = (6e-3, 2e-3)
LISTS: dict[str, Any] = {"ahead": True, "flat": True, "decay": 0.8, "shrink": 100.0}
"""Of counted lists on ML-1M, as validation chose in the table ``sparcode``."""
COUNTED: dict[str, Sequence[Run]] = {"item_lists": [counted("item_lists", LISTS)]}
"""The row of counted lists, without learning, that every table of users with histories has."""
ONE_SEED = dict.fromkeys(COUNTED, 1)


def form(
    settings: dict[str, Any], training: Training = QUICK, negatives: int = SHARED, *, rate: float | None = None
) -> Run:
    """Return the run of a form of SparCode whose codes start after half of the epochs."""
    if settings.get("codes") != "none":
        settings = {**settings, "warm_up": training.epochs / 2}
    return coded(settings, at_rate(training, rate), negatives)


def sampled_twin(
    settings: dict[str, Any], training: Training = QUICK, negatives: int = SHARED, *, rate: float | None = None
) -> Run:
    """Return the run of a two-tower twin with the cosine and the loss of SparCode."""
    run = twin("self_attention", {**SCORES[0], **settings}, at_rate(training, rate))
    sampling = Sampling((NegativeSource("uniform", {"number": negatives}),))
    return replace(run, objective=Objective("sampled_softmax"), sampling=sampling)


def against_all(run: Run) -> Run:
    """Return the run with the full softmax: every item is a negative."""
    return replace(run, objective=Objective("full_softmax"), sampling=Sampling())


def at_rate(training: Training, rate: float | None) -> Training:
    """Return the training with another learning rate; None: its own."""
    return training if rate is None else replace(training, learning_rate=rate)
