"""A time budget: how it is written, how much is left, and a callback that ends a training when its share is spent."""

from __future__ import annotations

import re
import time

from twotower.core.errors import InputError
from twotower.models.base import Model
from twotower.training.callbacks import EpochRecord, Silent, StopTraining

_UNITS = {"h": 3600.0, "m": 60.0, "s": 1.0}


def seconds_of(text: str | int | float) -> float:
    """Return the seconds of a budget such as 90s, 10m, 1h30m; a number is seconds.

    Raises:
        InputError: if it is none, or not above 0.

    Examples:
        >>> seconds_of("10m"), seconds_of("1h30m"), seconds_of("90s"), seconds_of(5)
        (600.0, 5400.0, 90.0, 5.0)
    """
    parts = re.findall(r"(\d+(?:\.\d+)?)\s*([hms])", str(text))
    whole = re.fullmatch(r"\s*(\d+(\.\d+)?\s*[hms]\s*)+", str(text))
    if isinstance(text, int | float) and not isinstance(text, bool):
        found = float(text)
    elif whole is not None:
        found = sum(float(number) * _UNITS[unit] for number, unit in parts)
    else:
        raise InputError(f"budget '{text}' is no time; write it as 90s, 10m or 1h30m")
    if not 0.0 < found < float("inf"):
        raise InputError(f"budget '{text}' must be above 0; write it as 90s, 10m or 1h30m")
    return found


def clock(seconds: int | float) -> str:
    """Return a time for people.

    Examples:
        >>> clock(7.4), clock(71), clock(3700)
        ('7 s', '1:11 min', '1:01:40 h')
    """
    whole = max(0, round(seconds))
    if whole < 60:
        return f"{whole} s"
    hours, minutes = divmod(whole // 60, 60)
    return f"{hours}:{minutes:02d}:{whole % 60:02d} h" if hours else f"{minutes}:{whole % 60:02d} min"


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

    Args:
        seconds: from now until the training, validations included, should be over.
    """

    def __init__(self, seconds: float) -> None:
        self.end = time.perf_counter() + seconds
        self.last = time.perf_counter()
        self.reached = False

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
