"""A time budget: how it is written, how much is left, and a callback that ends a training when its share is spent."""

from __future__ import annotations

import time

from twotower.models.base import Model
from twotower.training.callbacks import EpochRecord, Silent, StopTraining


class Budget:
    """Count wall seconds from now on."""

    def __init__(self, seconds: float) -> None:
        self.seconds = seconds
        self.start = time.perf_counter()

    @property
    def spent(self) -> float:
        """Return the seconds since the beginning."""
        return time.perf_counter() - self.start

    @property
    def left(self) -> float:
        """Return the seconds until the end, 0 after it."""
        return max(0.0, self.seconds - self.spent)


class TimeLimit(Silent):
    """End a training before an epoch that would not be done in time, or in the middle of one when time is up.

    The weights of the best validated epoch are kept. Where the first epoch is not done in time, those it has reached.
    The search of a closed form for its setting ends before a try that would be late, after the first one.

    Args:
        seconds: from now until the training, validations included, should be over.
    """

    def __init__(self, seconds: float) -> None:
        self.end = time.perf_counter() + seconds
        self.last = time.perf_counter()
        self.reached = False
        self.tries = 0

    def tried(self) -> bool:
        """Count a try of a closed form; return whether another as long as this one would end too late."""
        now = time.perf_counter()
        took, self.last = now - self.last, now
        self.tries += 1
        self.reached = now + took > self.end
        return self.reached

    def started(self, epochs: int, steps_per_epoch: int, step: int) -> None:
        """Handle the start of the first epoch."""
        self.last = time.perf_counter()

    def stepped(self, step: int) -> None:
        """Stop where time is up."""
        if time.perf_counter() > self.end:
            self._stop()

    def epoch_done(self, record: EpochRecord, model: Model) -> None:
        """Stop where another epoch as long as this one would end too late."""
        now = time.perf_counter()
        took, self.last = now - self.last, now
        if now + took > self.end:
            self._stop()

    def _stop(self) -> None:
        self.reached = True
        raise StopTraining("the time for this model is spent")


class StopAfter(Silent):
    """End a training after so many epochs, with the schedule of all of them."""

    def __init__(self, epochs: int) -> None:
        self.epochs = epochs

    def epoch_done(self, record: EpochRecord, model: Model) -> None:
        """Stop after the last one."""
        if record.epoch >= self.epochs:
            raise StopTraining("as many epochs as were best on validation")
