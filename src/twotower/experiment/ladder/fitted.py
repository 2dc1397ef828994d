"""Result of `fit`: the choice, every model of the ladder, and where bundle, page and spec are."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from twotower.core.durations import clock
from twotower.core.html import html_table
from twotower.data.dataset import Dataset
from twotower.data.split import Split
from twotower.experiment.ladder.pick import Choice
from twotower.experiment.ladder.rungs import METRIC, Rung


@dataclass(frozen=True, repr=False)
class Fitted:
    """Hold the result of `fit`."""

    choice: Choice
    rungs: list[Rung]
    """In the order of the ladder, those left out too."""
    dataset: Dataset
    split: Split
    bundle: Path
    report: Path
    """The page."""
    spec: Path
    """The TOML of the data."""
    last_fit: str
    """What the bundle's model has learnt from, in words."""
    diagnosis: dict[str, Any] | None
    """Of the bundle's item vectors; None for a model without any."""
    mask_seen: bool
    repeats: float
    """The share of validation events whose item the user had seen before."""
    stopped: bool = False
    """Whether Ctrl-C ended the ladder; a resumed fit goes on."""
    notes: list[str] = field(default_factory=list)
    """What was guessed and done to the data."""
    index: str | None = None
    """Kind of the bundle's index; None: there is none, and the model scores all items."""

    def __repr__(self) -> str:
        return f"Fitted({self.choice.name} on {self.dataset.name}: {self.bundle})"

    def _repr_html_(self) -> str:
        """Show the models of the ladder, their figures and the reason of the choice as a table in a notebook."""
        rows = []
        for rung in self.rungs:
            low, high = (0.0, 0.0) if rung.validation is None else rung.validation.intervals()[METRIC]
            figure = "" if rung.validation is None else f"{rung.validation.metrics[METRIC]:.4f} [{low:.3f}, {high:.3f}]"
            test = "" if rung.test is None else f"{rung.test.metrics[METRIC]:.4f}"
            rows.append((rung.name, figure or rung.left_out, test, clock(rung.seconds)))
        head = ("model", f"validation {METRIC}", f"test {METRIC}", "time")
        return html_table(head, rows, caption=f"{self.choice.name} is taken: {self.choice.reason}")

    @property
    def winner(self) -> Rung:
        """Return the chosen rung; its own bundle is trained on the training events alone, and can be evaluated."""
        return next(rung for rung in self.rungs if rung.name == self.choice.name)

    def to_json(self) -> dict[str, Any]:
        """Return plain values: the choice, and one entry a model."""
        return {
            "model": self.choice.name,
            "reason": self.choice.reason,
            "bundle": str(self.bundle),
            "report": str(self.report),
            "spec": str(self.spec),
            "last_fit": self.last_fit,
            "index": self.index,
            "stopped": self.stopped,
            "mask_seen": self.mask_seen,
            "models": [
                {
                    "model": rung.name,
                    "validation": None if rung.validation is None else rung.validation.metrics[METRIC],
                    "test": None if rung.test is None else rung.test.metrics[METRIC],
                    "p": self.choice.p_values.get(rung.name),
                    "seconds": round(rung.seconds, 1),
                    "short": rung.short,
                    "left_out": rung.left_out,
                }
                for rung in self.rungs
            ],
        }


def line(rung: Rung) -> str:
    """Return what became of a model, in one line."""
    if rung.validation is None:
        return f"{rung.name}: left out: {rung.left_out}"
    low, high = rung.validation.intervals()[METRIC]
    short = ", stopped by its time" if rung.short else ""
    figure = rung.validation.metrics[METRIC]
    return f"{rung.name}: validation {METRIC} {figure:.4f} [{low:.3f}, {high:.3f}], {clock(rung.seconds)}{short}"
