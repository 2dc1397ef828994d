"""Callbacks of a training run, and its JSON-lines log; see also `progress`, `curves`, `tracking` and `trackers`."""

from __future__ import annotations

import json
import logging
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Protocol, runtime_checkable

from twotower.core.files import replacing_file
from twotower.models.base import Model

log = logging.getLogger(__name__)

_GEOMETRY = "geometry/"
_CODES = "codes/"
_TRAINING = ("epoch", "step", "loss", "learning_rate", "seconds")


@dataclass(frozen=True)
class EpochRecord:
    """Describe one finished epoch; callbacks may add figures to its dicts."""

    epoch: int
    """Finished, from 1."""
    step: int
    """Optimiser steps done, over all epochs."""
    loss: float
    """Mean over the epoch's steps."""
    learning_rate: float
    seconds: float
    """Of training so far, validation left out."""
    metrics: dict[str, float] = field(default_factory=dict)
    """What validation gave, by name; empty where the epoch was not validated."""
    geometry: dict[str, float] = field(default_factory=dict)
    """Figures of the item vectors by name, where they are watched: see `Tracking`."""
    selectable: bool = True
    """Whether the weights were trained as they are served, so that they may be chosen: see `Phased`."""
    codes: dict[str, float] = field(default_factory=dict)
    """How codes were used in the epoch, where the model has any, and their longest list: see
    `twotower.towers.codes.quantiser.CodeUse` and `twotower.training.list_lengths.ListLengths`."""

    def to_json(self) -> dict[str, Any]:
        """Write the record as one flat object, a line of ``train.jsonl``; "selectable" only where it is false.

        Examples:
            >>> line = EpochRecord(1, 20, 0.5, 0.001, 2.0, {"auc": 0.7}, {"rankme": 3.0}).to_json()
            >>> line["epoch"], line["auc"], line["geometry/rankme"]
            (1, 0.7, 3.0)
        """
        values: dict[str, Any] = {name: getattr(self, name) for name in _TRAINING}
        values |= self.metrics | {_GEOMETRY + name: value for name, value in self.geometry.items()}
        values |= {_CODES + name: value for name, value in self.codes.items()}
        return values if self.selectable else values | {"selectable": False}

    @classmethod
    def from_json(cls, values: Mapping[str, Any]) -> EpochRecord:
        """Read what `to_json` wrote."""
        others = {name: value for name, value in values.items() if name not in (*_TRAINING, "selectable")}
        return cls(
            **{name: values[name] for name in _TRAINING},
            metrics={name: value for name, value in others.items() if not name.startswith((_GEOMETRY, _CODES))},
            geometry={name.removeprefix(_GEOMETRY): v for name, v in others.items() if name.startswith(_GEOMETRY)},
            selectable=values.get("selectable", True),
            codes={name.removeprefix(_CODES): v for name, v in others.items() if name.startswith(_CODES)},
        )


@runtime_checkable
class Callback(Protocol):
    """Watch a training: called at its start and end, after every epoch and every optimiser step."""

    def started(self, epochs: int, steps_per_epoch: int, step: int) -> None:
        """Handle the start of training, or its continuation, at ``step``."""
        ...

    def stepped(self, step: int) -> None:
        """Handle one finished optimiser step."""
        ...

    def epoch_done(self, record: EpochRecord, model: Model) -> None:
        """Handle a finished epoch, validated where the run does so. May raise `StopTraining`."""
        ...

    def finished(self) -> None:
        """Handle the end of training, however it ended."""
        ...


class StopTraining(Exception):  # noqa: N818 - it is a wish, not an error
    """Stop training after this epoch: raised by a callback; its text is the reason."""


class Silent:
    """Do nothing: others override what they need."""

    def started(self, epochs: int, steps_per_epoch: int, step: int) -> None:
        """Do nothing."""

    def stepped(self, step: int) -> None:
        """Do nothing."""

    def epoch_done(self, record: EpochRecord, model: Model) -> None:
        """Do nothing."""

    def finished(self) -> None:
        """Do nothing."""


class JsonLines(Silent):
    """Append one JSON object an epoch to a file.

    A resumed run first drops lines of epochs that it will do again.

    So it does with lines that are no records, such as one that a crash cut off, and says so.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self.last = 0

    def started(self, epochs: int, steps_per_epoch: int, step: int) -> None:
        """Drop records from after the checkpoint."""
        resumed = bool(step) and self.path.is_file()
        lines = self.path.read_bytes().decode("utf-8", errors="replace").split("\n") if resumed else []
        kept = []
        for number, line in enumerate(lines, 1):
            of_record = _step_of(line)
            if of_record is None and line.strip():
                log.warning(
                    "%s: line %s is damaged and dropped; the training itself goes on as it was", self.path, number
                )
            elif of_record is not None and of_record <= step:
                kept.append(line)
        self._write(kept)

    def epoch_done(self, record: EpochRecord, model: Model) -> None:
        """Append the record; a checkpoint of an epoch's last step has that epoch done, and recorded, again."""
        if record.epoch <= self.last:
            lines = self.path.read_text(encoding="utf-8").splitlines()
            self._write([line for line in lines if json.loads(line)["epoch"] < record.epoch])
        self.last = record.epoch
        with self.path.open("a", encoding="utf-8") as file:
            file.write(json.dumps(record.to_json()) + "\n")

    def _write(self, lines: list[str]) -> None:
        with replacing_file(self.path) as partial:
            partial.write_text("".join(line + "\n" for line in lines), encoding="utf-8")
        self.last = json.loads(lines[-1])["epoch"] if lines else 0


def _step_of(line: str) -> int | None:
    """The step of a record; None for a line that is none: a value is no number, or one of a training is missing."""
    try:
        record = json.loads(line)
    except (ValueError, RecursionError):
        return None
    whole = isinstance(record, dict) and set(_TRAINING) <= set(record) and "\ufffd" not in line
    if not whole or not all(isinstance(value, int | float) for value in record.values()):
        return None
    return record["step"] if isinstance(record["step"], int) and isinstance(record["epoch"], int) else None
