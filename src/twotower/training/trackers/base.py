"""Tracker: a callback that follows a whole run, from its settings to the card of its bundle."""

from __future__ import annotations

import contextlib
import json
import logging
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from twotower.core.errors import InputError, cut, shown
from twotower.core.files import read_json, write_json
from twotower.models.base import Model
from twotower.training.callbacks import EpochRecord, Silent

log = logging.getLogger(__name__)

FINISHED, STOPPED, FAILED = "finished", "stopped", "failed"
PHASES = ("train", "refit")
"""What the figures of the first training and of the last fit (``training.refit``) begin with."""


NOTES = "tracking.json"
"""Where a run's folder keeps the ids that the services gave it; a run that starts from nothing drops it."""


@dataclass(frozen=True, kw_only=True)
class TrackedRun:
    """Describe a run to its trackers."""

    title: str
    """Such as "sasrec on ml-100k"."""
    toml: str
    """The run file."""
    settings: Mapping[str, Any]
    """Every setting by its whole name, such as "training.epochs"."""
    folder: Path | None = None
    """Of the run, beside its bundle; None: nothing is written."""
    resume: bool = False
    """Whether it goes on from the checkpoint in ``folder``."""


class Tracker(Silent, ABC):
    """Write settings, figures and files of a run to one service; a subclass says how.

    Figures are named ``train/loss``, ``validation/ndcg@10``, ``geometry/rankme``, ``codes/used``, ``test/ndcg@10``;
    those of a last fit begin with ``refit/``. The service is opened when training starts, so that a run that is refused
    leaves no trace. A service that fails later is given up with one warning: training goes on.
    """

    service: str
    """Its name in messages."""

    def __init__(self) -> None:
        self._run: TrackedRun | None = None
        self._fits = 0
        self._open = self._lost = False

    @abstractmethod
    def open(self, run: TrackedRun, step: int) -> None:
        """Start or continue a run that has done ``step`` optimiser steps; note its settings.

        Raises:
            InputError: if the service cannot be reached.
        """

    @abstractmethod
    def log(self, figures: Mapping[str, float], step: int) -> None:
        """Write figures of one epoch."""

    @abstractmethod
    def summarise(self, figures: Mapping[str, float]) -> None:
        """Write the figures of the test."""

    @abstractmethod
    def keep(self, file: Path) -> None:
        """Keep a text file beside the figures."""

    @abstractmethod
    def close(self, status: str) -> None:
        """End as "finished", "stopped" (by Ctrl-C) or "failed"."""

    def describe(self, run: TrackedRun) -> None:
        """Take what is known of the run; called before it trains, and again where it settles a setting by itself."""
        self._run = run

    def started(self, epochs: int, steps_per_epoch: int, step: int) -> None:
        """Open the service, at the first training; a second one is the last fit."""
        self._fits += 1
        self._begin(step)

    def epoch_done(self, record: EpochRecord, model: Model) -> None:
        """Write the figures of the record."""
        phase = PHASES[min(self._fits, len(PHASES)) - 1]
        figures: dict[str, float] = {
            f"{phase}/{name}": float(getattr(record, name)) for name in ("epoch", "loss", "learning_rate", "seconds")
        }
        figures |= {f"validation/{name}": float(value) for name, value in record.metrics.items()}
        figures |= {f"geometry/{name}": float(value) for name, value in record.geometry.items()}
        figures |= {f"codes/{name}": float(value) for name, value in record.codes.items()}
        self._safely(lambda: self.log(figures, record.step))

    def tested(self, metrics: Mapping[str, float]) -> None:
        """Write the metrics of the test; for a closed form this is where the run begins."""
        self._begin(0)
        self._safely(lambda: self.summarise({f"test/{name}": float(value) for name, value in metrics.items()}))

    def written(self, file: Path) -> None:
        """Keep a file, such as the model card."""
        self._safely(lambda: self.keep(file))

    def ended(self, status: str) -> None:
        """Close the service; the tracker may then follow another run."""
        if self._lost and self._open:
            with contextlib.suppress(Exception):  # it has had its warning
                self.close(status)
        self._safely(lambda: self.close(status))
        self._fits, self._open, self._lost = 0, False, False

    def _begin(self, step: int) -> None:
        if not self._open and not self._lost:
            if self._run is None:
                raise InputError(f"{self.service} follows a whole run: hand it to twotower.train(callbacks=[…])")
            self.open(self._run, step)
            self._open = True

    def _safely(self, action: Callable[[], None]) -> None:
        if self._lost or not self._open:
            return
        try:
            action()
        except Exception as error:
            self._lost = True
            log.warning("%s: %s; it is given up, and the training goes on", self.service, told(error))


@contextlib.contextmanager
def tracked(trackers: Sequence[Tracker], run: TrackedRun) -> Iterator[None]:
    """Let trackers follow the run of a block, and close them when it ends, however it does."""
    status = FAILED
    for tracker in trackers:
        tracker.describe(run)
    try:
        yield
        status = FINISHED
    except KeyboardInterrupt:
        status = STOPPED
        raise
    finally:
        for tracker in trackers:
            tracker.ended(status)


def flat(values: Mapping[str, Any], above: str = "") -> dict[str, Any]:
    """Return nested tables as one, with dots between the names; lists are written as JSON.

    Examples:
        >>> flat({"model": {"name": "sasrec", "hidden": [4, 2]}, "training": {"epochs": 5}})
        {'model.name': 'sasrec', 'model.hidden': '[4, 2]', 'training.epochs': 5}
    """
    found: dict[str, Any] = {}
    for name, value in values.items():
        if isinstance(value, Mapping):
            found |= flat(value, f"{above}{name}.")
        else:
            plain = value is None or isinstance(value, bool | int | float | str)
            found[above + name] = value if plain else json.dumps(value, ensure_ascii=False, default=str)
    return found


def told(error: Exception) -> str:
    """Return what an error of a service says, on one short line."""
    return cut(f"{type(error).__name__}: {shown(str(error), 200)[1:].removesuffix(chr(39))}", 240)


def note_id(run: TrackedRun, service: str, **values: str) -> None:
    """Keep what a resumed run needs to go on in the service: its id and where."""
    if run.folder is not None:
        write_json(run.folder / NOTES, {**_notes(run.folder), service: values})


def noted_id(run: TrackedRun, service: str, **where: str) -> str | None:
    """Return the id under which a resumed run was tracked in the same place; None: it is a new one."""
    found = _notes(run.folder).get(service, {}) if run.resume and run.folder is not None else {}
    same = "id" in found and all(found.get(name) == value for name, value in where.items())
    return str(found["id"]) if same else None


def _notes(folder: Path) -> dict[str, Any]:
    return read_json(folder / NOTES) if (folder / NOTES).is_file() else {}
