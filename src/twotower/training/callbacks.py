"""What watches a training run: a JSON-lines log and TensorBoard; see also `progress`, `curves` and `tracking`."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any, Protocol, runtime_checkable

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
        self.last = 0

    def started(self, epochs: int, steps_per_epoch: int, step: int) -> None:
        """Drop records from after the checkpoint."""
        lines = self.path.read_text(encoding="utf-8").splitlines() if step and self.path.is_file() else []
        self.path.parent.mkdir(parents=True, exist_ok=True)
        kept = [line for line in lines if json.loads(line)["step"] <= step]
        self.last = json.loads(kept[-1])["epoch"] if kept else 0
        self.path.write_text("".join(line + "\n" for line in kept), encoding="utf-8")

    def epoch_done(self, record: Record, model: Model) -> None:
        """Append the record; it replaces the last line where that is of the same epoch, judged once more."""
        if record["epoch"] == self.last:
            lines = self.path.read_text(encoding="utf-8").splitlines()[:-1]
            self.path.write_text("".join(line + "\n" for line in lines), encoding="utf-8")
        self.last = record["epoch"]
        with self.path.open("a", encoding="utf-8") as file:
            file.write(json.dumps(record) + "\n")


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
