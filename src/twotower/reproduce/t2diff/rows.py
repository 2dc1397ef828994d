"""Runs of T2Diff's tables: every tower by the same schedule, sizes by data set."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any, NamedTuple

from twotower.experiment.recipes import default_run
from twotower.experiment.run import Data, Evaluation, ModelSection, Run
from twotower.training.config import Objective, Training

DATA = Data(split="leave-one-out")
RATE = 4e-3
WARM_UP = 50
"""Steps."""
PATIENCE = 4
"""Validations, one every second epoch."""
WIDTH = 32
COUNTED = ("popularity", "item_lists", "ease")


class Size(NamedTuple):
    """Configure what depends on the data set."""

    history: int
    batch: int
    epochs: int
    dropouts: tuple[float, ...]
    """What every trained row chooses from, on validation data."""
    dropout: float
    """That of rows that choose nothing."""
    ks: tuple[int, int]
    """The paper's cut-offs."""

    def beside(self, step: int) -> float:
        """Return the dropout that many places after the one of rows that choose nothing."""
        return self.dropouts[self.dropouts.index(self.dropout) + step]


SIZES = {
    "ml-1m": Size(200, 128, 30, (0.0, 0.1, 0.2, 0.4), 0.2, (2, 20)),
    "amazon-reviews-beauty": Size(50, 256, 20, (0.1, 0.3, 0.5, 0.7, 0.85), 0.5, (2, 20)),
    "kuairand-pure": Size(50, 128, 20, (0.1, 0.3, 0.5, 0.7, 0.85), 0.5, (10, 100)),
}
OTHERWISE = Size(50, 128, 20, (0.1, 0.3, 0.5), 0.3, (2, 20))

PAPER: dict[str, Any] = {
    "restored": "printed",
    "attention": "mixed",
    "normalise": False,
    "restore_steps": 50,
    "eta": 1.0,
}
"""T2Diff as printed: in training one pass from the true drift, when asked all 50 steps of the reverse process."""
TOWERS: dict[str, tuple[str, dict[str, Any]]] = {
    "sasrec": ("sasrec", {}),
    "gru4rec": ("gru4rec", {}),
    "caser": ("caser", {}),
    "bert4rec": ("bert4rec", {}),
    "mamba4rec": ("mamba4rec", {}),
    "stosa": ("stosa", {}),
    "contrast_vae": ("contrast_vae", {}),
    "diffurec": ("diffurec", {}),
    "dat_plus": ("dat_plus", {}),
    "dat_plus_causal": ("dat_plus", {"encoder": "causal"}),
    "hstu": ("hstu", {}),
    "lrurec": ("lrurec", {}),
    "mixed_attention": ("t2diff", {"restored": "none", "attention": "mixed"}),
    "t2diff_printed": ("t2diff", PAPER),
    "t2diff_as_served": ("t2diff", {"restored": "as_served"}),
    "t2diff": ("t2diff", {}),
}
"""Models and settings by row; all else is the model's default, with the width that `trained` is given."""
PASSES = {"bert4rec": 2}
"""Epochs, in those of others: cloze asks for a fifth of the places."""


def size_of(data: str) -> Size:
    """Return the sizes of a data set's name."""
    return SIZES.get(data, OTHERWISE)


def trained(
    row: str, size: Size, *, dropout: float, width: int = WIDTH, settings: Mapping[str, Any] | None = None
) -> Run:
    """Return one run of a row of `TOWERS`; ``settings`` of the model come on top.

    T2Diff's U-Net is as wide as its vectors, and its session no longer than the window.
    """
    name, own = TOWERS[row]
    shape: dict[str, Any] = {"dim": width, "history_length": size.history, "dropout": dropout}
    if name == "t2diff":
        shape["channels"] = width
    epochs = size.epochs * PASSES.get(row, 1)
    return Run(
        data=DATA,
        model=ModelSection(name, {**shape, **own, **(settings or {})}),
        objective=Objective("full_softmax"),
        training=Training(
            epochs=epochs,
            batch_size=size.batch,
            learning_rate=RATE,
            schedule="linear",
            warmup_steps=WARM_UP,
            evaluate_every=2,
            patience=PATIENCE,
            patience_loss=0.0,
        ),
        evaluation=Evaluation(ks=size.ks),
    )


def choices(row: str, size: Size, **more: Any) -> list[Run]:
    """Return what a row chooses from: one run a dropout."""
    return [trained(row, size, dropout=dropout, **more) for dropout in size.dropouts]


def counted(size: Size) -> dict[str, Sequence[Run]]:
    """Return the rows of closed forms, by their default runs."""
    return {name: [replace(default_run(name), data=DATA, evaluation=Evaluation(ks=size.ks))] for name in COUNTED}
