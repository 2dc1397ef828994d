"""What watches a training run: progress on the terminal, a JSON-lines log, TensorBoard."""

from __future__ import annotations

import json
import sys
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Protocol, runtime_checkable

from twotower.core.files import replacing_file
from twotower.core.terminal import visible
from twotower.models.base import Model

_GEOMETRY = "geometry/"
_TRAINING = ("epoch", "step", "loss", "learning_rate", "seconds")


@dataclass(frozen=True)
class EpochRecord:
    """Describe one finished epoch; callbacks may add figures to its two dicts."""

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

    def to_json(self) -> dict[str, Any]:
        """Write the record as one flat object, a line of ``train.jsonl``; "selectable" only where it is false.

        Examples:
            >>> line = EpochRecord(1, 20, 0.5, 0.001, 2.0, {"auc": 0.7}, {"rankme": 3.0}).to_json()
            >>> line["epoch"], line["auc"], line["geometry/rankme"]
            (1, 0.7, 3.0)
        """
        values: dict[str, Any] = {name: getattr(self, name) for name in _TRAINING}
        values |= self.metrics | {_GEOMETRY + name: value for name, value in self.geometry.items()}
        return values if self.selectable else values | {"selectable": False}

    @classmethod
    def from_json(cls, values: Mapping[str, Any]) -> EpochRecord:
        """Read what `to_json` wrote."""
        others = {name: value for name, value in values.items() if name not in (*_TRAINING, "selectable")}
        return cls(
            **{name: values[name] for name in _TRAINING},
            metrics={name: value for name, value in others.items() if not name.startswith(_GEOMETRY)},
            geometry={name.removeprefix(_GEOMETRY): v for name, v in others.items() if name.startswith(_GEOMETRY)},
            selectable=values.get("selectable", True),
        )


@runtime_checkable
class Callback(Protocol):
    """Told of every finished epoch, and of every optimiser step's number."""

    def started(self, epochs: int, steps_per_epoch: int, step: int) -> None:
        """Training begins, or goes on, at ``step``."""
        ...

    def stepped(self, step: int) -> None:
        """One optimiser step is done."""
        ...

    def epoch_done(self, record: EpochRecord, model: Model) -> None:
        """An epoch is done, and validated where the run asks for it. May raise `StopTraining`."""
        ...

    def finished(self) -> None:
        """Training is over, however it ended."""
        ...


class StopTraining(Exception):  # noqa: N818 - it is a wish, not an error
    """Raised by a callback to end training after this epoch; its text says why."""


class Silent:
    """A callback that does nothing: others override what they need."""

    def started(self, epochs: int, steps_per_epoch: int, step: int) -> None:
        """Nothing."""

    def stepped(self, step: int) -> None:
        """Nothing."""

    def epoch_done(self, record: EpochRecord, model: Model) -> None:
        """Nothing."""

    def finished(self) -> None:
        """Nothing."""


class JsonLines(Silent):
    """One JSON object an epoch, appended to a file. A resumed run first drops lines of epochs that it will redo."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def started(self, epochs: int, steps_per_epoch: int, step: int) -> None:
        """Drop records from after the checkpoint."""
        text = self.path.read_text(encoding="utf-8") if step and self.path.is_file() else ""
        whole = text[: text.rfind("\n") + 1].splitlines()  # a killed run may have left half a line
        kept = [line for line in whole if json.loads(line)["step"] <= step]
        with replacing_file(self.path) as partial:
            partial.write_text("".join(line + "\n" for line in kept), encoding="utf-8")

    def epoch_done(self, record: EpochRecord, model: Model) -> None:
        """Append the record."""
        with self.path.open("a", encoding="utf-8") as file:
            file.write(json.dumps(record.to_json()) + "\n")


class TensorBoard(Silent):
    """Every number of every record, for TensorBoard (extra ``tensorboard``)."""

    def __init__(self, folder: Path) -> None:
        from torch.utils.tensorboard import SummaryWriter

        self.writer = SummaryWriter(str(folder))

    def epoch_done(self, record: EpochRecord, model: Model) -> None:
        """Add the numbers at the record's step."""
        for name, value in record.to_json().items():
            if name not in ("epoch", "step"):
                self.writer.add_scalar(name, value, record.step)

    def finished(self) -> None:
        """Flush and close."""
        self.writer.close()


class Progress(Silent):
    """A bar with loss and metrics on standard error; silent when that is no terminal."""

    def __init__(self, title: str) -> None:
        from rich.console import Console
        from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

        self.title = visible(title)
        self.bar = Progress(
            TextColumn("{task.description}", markup=False),
            BarColumn(),
            MofNCompleteColumn(),
            TimeRemainingColumn(),
            TextColumn("{task.fields[figures]}", markup=False),
            console=Console(file=sys.stderr),
            disable=not sys.stderr.isatty(),
            transient=True,
        )

    def started(self, epochs: int, steps_per_epoch: int, step: int) -> None:
        """Show the bar."""
        self.task = self.bar.add_task(self.title, total=epochs * steps_per_epoch, completed=step, figures="")
        self.bar.start()

    def stepped(self, step: int) -> None:
        """Move the bar."""
        self.bar.update(self.task, completed=step)

    def epoch_done(self, record: EpochRecord, model: Model) -> None:
        """Show the figures."""
        shown = {"loss": record.loss, **record.metrics}
        if "mean_cosine" in record.geometry:
            shown["mean cosine"] = record.geometry["mean_cosine"]
        self.bar.update(self.task, figures="  ".join(f"{name} {value:.4f}" for name, value in shown.items()))

    def finished(self) -> None:
        """Remove the bar."""
        self.bar.stop()
