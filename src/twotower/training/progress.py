"""Shows how a training goes: a bar on a terminal, one line an epoch elsewhere; loss, validation metric, time left."""

from __future__ import annotations

import sys
import time
from collections.abc import Callable

from twotower.core.terminal import visible
from twotower.models.base import Model
from twotower.training.callbacks import EpochRecord, Silent


class Progress(Silent):
    """Show loss, validation metric and time left on standard error.

    The time left is that of all remaining epochs at the mean speed so far, validations counted; early stopping makes
    it less.

    Args:
        title: what is trained, such as the model's name.
        metric: the validation metric that is shown, such as "ndcg@10".
        quiet: show nothing.
        clock: gives seconds.
    """

    def __init__(
        self, title: str, metric: str = "", *, quiet: bool = False, clock: Callable[[], float] = time.monotonic
    ) -> None:
        from rich.console import Console
        from rich.progress import BarColumn, Progress, TextColumn

        self.title, self.metric, self.quiet, self.clock = visible(title), metric, quiet, clock
        self.trainings = 0
        self.on_terminal = sys.stderr.isatty()
        self.bar = Progress(
            TextColumn("{task.description}", markup=False),
            BarColumn(bar_width=20),
            TextColumn("{task.fields[figures]}", markup=False),
            TextColumn("{task.fields[left]}", markup=False),
            console=Console(file=sys.stderr),
            disable=quiet or not self.on_terminal,
            transient=True,
        )

    def started(self, epochs: int, steps_per_epoch: int, step: int) -> None:
        """Show the bar; a second training of one run is its last fit, on training and validation events."""
        self.trainings += 1
        self.name = self.title if self.trainings == 1 else f"{self.title}, last fit"
        self.epochs, self.total, self.first, self.step = epochs, epochs * steps_per_epoch, step, step
        self.begun = self.clock()
        self.best: tuple[float, int] | None = None
        self.task = self.bar.add_task(self.name, total=self.total, completed=step, figures="", left="")
        self.bar.start()

    def stepped(self, step: int) -> None:
        """Move the bar."""
        self.step = step
        if not self.bar.disable:
            self.bar.update(self.task, completed=step, left=self.left())

    def epoch_done(self, record: EpochRecord, model: Model) -> None:
        """Show the figures of the epoch."""
        text = f"epoch {record.epoch}/{self.epochs}, {self.figures(record)}"
        self.bar.update(self.task, figures=text, left=self.left())
        if not self.on_terminal and not self.quiet:
            print(f"{self.name}: {text}, {self.left()}", file=sys.stderr, flush=True)  # noqa: T201

    def finished(self) -> None:
        """Remove the bar."""
        if not self.bar.disable:  # else older versions of rich write an empty line
            self.bar.stop()
        self.bar.remove_task(self.task)

    def figures(self, record: EpochRecord) -> str:
        """Return loss, validation metric beside the best so far, mean cosine of item vectors and use of codes.

        The last two where they are watched, and where there are any.
        """
        parts = [f"loss {record.loss:.4f}"]
        if self.metric in record.metrics:
            value = record.metrics[self.metric]
            better = self.best is None or value > self.best[0]
            if better or self.best is None:
                self.best = (value, record.epoch)
            # what was best before a resume is not known here
            beside = "" if self.first else " (best)" if better else f" (best {self.best[0]:.4f} in {self.best[1]})"
            parts.append(f"{self.metric} {value:.4f}{beside}")
        if "mean_cosine" in record.geometry:
            parts.append(f"mean cosine {record.geometry['mean_cosine']:.4f}")
        if record.codes:
            parts.append(
                f"{100 * record.codes['used']:.0f} % of codes used, perplexity {record.codes['perplexity']:.2f}"
            )
        return ", ".join(parts)

    def left(self) -> str:
        """Return the time that the remaining steps take at the mean speed so far; at the end, the time that passed."""
        passed, done = self.clock() - self.begun, self.step - self.first
        if self.step >= self.total:
            return f"in {duration(passed)}"
        return f"{duration(passed / max(done, 1) * (self.total - self.step))} left"


def duration(seconds: int | float) -> str:
    """Write seconds for people.

    Examples:
        >>> duration(0.4), duration(59.6), duration(200), duration(7500)
        ('0 s', '60 s', '3 min 20 s', '2 h 05 min')
    """
    whole = round(seconds)
    if whole < 120:
        return f"{whole} s"
    if whole < 3600:
        return f"{whole // 60} min {whole % 60:02} s"
    return f"{whole // 3600} h {whole % 3600 // 60:02} min"
