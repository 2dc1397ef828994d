"""Splits as data: the log to train on, and for validation and test what is known and what is to be found."""

from __future__ import annotations

from typing import NamedTuple

from torch import Tensor

from twotower.data.log import Log


class Targets(NamedTuple):
    """Hold the task of an evaluation: given ``history``, find ``truth``. Both logs cover the same user rows.

    Only users with at least one event in ``truth`` are asked about. ``history`` keeps events of whatever label: all of
    its items are masked from answers (`twotower.data.log.Log.seen`), while a model reads its positives.
    """

    history: Log
    truth: Log

    def users(self) -> Tensor:
        """Return the user rows to evaluate, ascending: int64 [queries]."""
        return self.truth.lengths.nonzero()[:, 0]


class Split(NamedTuple):
    """Hold a log cut in three, and in words what leaks from one part into another."""

    train: Log
    validation: Targets
    test: Targets
    known: Log
    """Training and validation events together: what a last fit before the test, or before serving, may learn from."""
    leaks: str
