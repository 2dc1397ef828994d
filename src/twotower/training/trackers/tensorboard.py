"""TensorBoard: event files in a folder (extra ``tensorboard``)."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING

from twotower.core.errors import InputError
from twotower.training.trackers.base import TrackedRun, Tracker

if TYPE_CHECKING:
    from torch.utils.tensorboard import SummaryWriter


class TensorBoard(Tracker):
    """Write a run as TensorBoard reads it: curves, settings as hyperparameters, run file and model card as texts.

    Args:
        folder: of the event files; ``tensorboard --logdir`` names it or one above.

    Raises:
        InputError: if TensorBoard is not installed.
    """

    service = "TensorBoard"

    def __init__(self, folder: Path | str) -> None:
        super().__init__()
        try:
            from torch.utils.tensorboard import SummaryWriter
        except ImportError:
            raise InputError("tracking by TensorBoard needs its package: pip install 'twotower[tensorboard]'") from None
        self.folder = Path(folder)
        self._make = SummaryWriter
        self._writer: SummaryWriter | None = None
        self._settings: dict[str, bool | str | float | int] = {}

    def open(self, run: TrackedRun, step: int) -> None:
        """Open an event file; a resumed run takes back the figures of epochs that it does again."""
        self._writer = self._make(str(self.folder), purge_step=step + 1 if step else None)
        self._writer.add_text("run", "\n".join(f"    {line}" for line in run.toml.splitlines()))
        self._settings = {
            name: value if isinstance(value, bool | int | float | str) else str(value)
            for name, value in run.settings.items()
        }

    def log(self, figures: Mapping[str, float], step: int) -> None:
        """Add a point to each curve."""
        for name, value in figures.items():
            self._events.add_scalar(name, value, step)
        self._events.flush()

    def summarise(self, figures: Mapping[str, float]) -> None:
        """Add the settings with the figures of the test, so that its page of hyperparameters compares runs."""
        self._events.add_hparams(self._settings, dict(figures), run_name=".")

    def keep(self, file: Path) -> None:
        """Show the file on the page of texts."""
        self._events.add_text(file.name, file.read_text(encoding="utf-8"))

    def close(self, status: str) -> None:
        """Write what is left, and close the file."""
        self._events.close()
        self._writer = None

    @property
    def _events(self) -> SummaryWriter:
        assert self._writer is not None, "it is open from the start of training on"
        return self._writer
