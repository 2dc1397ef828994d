"""Callbacks of a training run: progress on the terminal, a JSON-lines log, TensorBoard."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any, Protocol, runtime_checkable

from twotower.core.terminal import visible
from twotower.models.base import Model

Record = dict[str, Any]
"""epoch (finished, from 1), step, loss (mean since the last record), learning_rate, seconds (of training so far), and
after a validation its metrics by name."""


@runtime_checkable
class Callback(Protocol):
    """Watch a training: called at its start and end, after every epoch and every optimiser step."""

    def started(self, epochs: int, steps_per_epoch: int, step: int) -> None:
        """Handle the start of training, or its continuation, at ``step``."""
        ...

    def stepped(self, step: int) -> None:
        """Handle one finished optimiser step."""
        ...

    def epoch_done(self, record: Record, model: Model) -> None:
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

    def epoch_done(self, record: Record, model: Model) -> None:
        """Do nothing."""

    def finished(self) -> None:
        """Do nothing."""


class JsonLines(Silent):
    """Append one JSON object an epoch to a file.

    A resumed run first drops lines of epochs that it will do again.
    """

    def __init__(self, path: Path) -> None:
        self.path = path

    def started(self, epochs: int, steps_per_epoch: int, step: int) -> None:
        """Drop records from after the checkpoint."""
        lines = self.path.read_text(encoding="utf-8").splitlines() if step and self.path.is_file() else []
        self.path.parent.mkdir(parents=True, exist_ok=True)
        kept = [line for line in lines if json.loads(line)["step"] <= step]
        self.path.write_text("".join(line + "\n" for line in kept), encoding="utf-8")

    def epoch_done(self, record: Record, model: Model) -> None:
        """Append the record."""
        with self.path.open("a", encoding="utf-8") as file:
            file.write(json.dumps(record) + "\n")


class TensorBoard(Silent):
    """Write every number of every record for TensorBoard (extra ``tensorboard``)."""

    def __init__(self, folder: Path) -> None:
        from torch.utils.tensorboard import SummaryWriter

        self.writer = SummaryWriter(str(folder))

    def epoch_done(self, record: Record, model: Model) -> None:
        """Add the numbers at the record's step."""
        for name, value in record.items():
            if name not in ("epoch", "step"):
                self.writer.add_scalar(name, value, record["step"])

    def finished(self) -> None:
        """Flush and close the writer."""
        self.writer.close()


class Progress(Silent):
    """Show a bar with loss and metrics on standard error; silent when that is no terminal."""

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

    def epoch_done(self, record: Record, model: Model) -> None:
        """Show the figures."""
        shown = {k: v for k, v in record.items() if k not in ("epoch", "step", "seconds", "learning_rate")}
        shown = {k: v for k, v in shown.items() if not k.startswith("geometry/") or k == "geometry/mean_cosine"}
        self.bar.update(self.task, figures="  ".join(f"{name} {value:.4f}" for name, value in shown.items()))

    def finished(self) -> None:
        """Remove the bar."""
        self.bar.stop()
