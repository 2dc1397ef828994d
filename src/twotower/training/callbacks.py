"""What watches a training run: progress on the terminal, a JSON-lines log, TensorBoard."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any, Protocol, runtime_checkable

from twotower.core.files import replacing_file
from twotower.core.terminal import visible
from twotower.models.base import Model

Record = dict[str, Any]
"""epoch (finished, from 1), step, loss (mean since the last record), learning_rate, seconds (of training so far), and
after a validation its metrics by name."""


@runtime_checkable
class Callback(Protocol):
    """Told of every finished epoch, and of every optimiser step's number."""

    def started(self, epochs: int, steps_per_epoch: int, step: int) -> None:
        """Training begins, or goes on, at ``step``."""
        ...

    def stepped(self, step: int) -> None:
        """One optimiser step is done."""
        ...

    def epoch_done(self, record: Record, model: Model) -> None:
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

    def epoch_done(self, record: Record, model: Model) -> None:
        """Nothing."""

    def finished(self) -> None:
        """Nothing."""


class JsonLines(Silent):
    """One JSON object an epoch, appended to a file. A resumed run first drops lines of epochs that it will redo."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self._last = 0

    def started(self, epochs: int, steps_per_epoch: int, step: int) -> None:
        """Drop records from after the checkpoint."""
        self.path.parent.mkdir(parents=True, exist_ok=True)
        self._keep("step", step)

    def epoch_done(self, record: Record, model: Model) -> None:
        """Append the record; a checkpoint of an epoch's last step has that epoch done, and recorded, again."""
        if record["epoch"] <= self._last:
            self._keep("epoch", record["epoch"] - 1)
        with self.path.open("a", encoding="utf-8") as file:
            file.write(json.dumps(record) + "\n")

    def _keep(self, name: str, most: int) -> None:
        text = self.path.read_text(encoding="utf-8") if most and self.path.is_file() else ""
        whole = text[: text.rfind("\n") + 1].splitlines()  # a killed run may have left half a line
        kept = [line for line in whole if json.loads(line)[name] <= most]
        with replacing_file(self.path) as partial:
            partial.write_text("".join(line + "\n" for line in kept), encoding="utf-8")
        self._last = json.loads(kept[-1])["epoch"] if kept else 0


class TensorBoard(Silent):
    """Every number of every record, for TensorBoard (extra ``tensorboard``)."""

    def __init__(self, folder: Path) -> None:
        from torch.utils.tensorboard import SummaryWriter

        self.writer = SummaryWriter(str(folder))

    def epoch_done(self, record: Record, model: Model) -> None:
        """Add the numbers at the record's step."""
        for name, value in record.items():
            if name not in ("epoch", "step"):
                self.writer.add_scalar(name, value, record["step"])

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

    def epoch_done(self, record: Record, model: Model) -> None:
        """Show the figures."""
        shown = {k: v for k, v in record.items() if k not in ("epoch", "step", "seconds", "learning_rate")}
        shown = {k: v for k, v in shown.items() if not k.startswith("geometry/") or k == "geometry/mean_cosine"}
        self.bar.update(self.task, figures="  ".join(f"{name} {value:.4f}" for name, value in shown.items()))

    def finished(self) -> None:
        """Remove the bar."""
        self.bar.stop()
