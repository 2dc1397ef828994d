"""Choice of a tracker by a word, as ``twotower train --track`` takes it."""

from __future__ import annotations

from pathlib import Path

from twotower.core.errors import InputError, unknown_name
from twotower.training.trackers.base import Tracker

KINDS = ("tensorboard", "mlflow", "wandb")


def tracker(word: str, folder: Path | None = None) -> Tracker:
    """Return the tracker of a word: ``tensorboard:FOLDER``, ``mlflow:ADDRESS`` or ``wandb:PROJECT``.

    What follows the colon may be left out: see the class of each.

    Args:
        word: the kind, and where.
        folder: of the run: without a folder of its own, TensorBoard writes into ``tensorboard`` in it.

    Raises:
        InputError: if the kind is unknown, its package is not installed, or TensorBoard has no folder.
    """
    kind, _, where = word.partition(":")
    if kind == "tensorboard":
        from twotower.training.trackers.tensorboard import TensorBoard

        if not where and folder is None:
            raise InputError("tensorboard: name a folder, as in tensorboard:runs/events")
        return TensorBoard(where or Path(folder or "") / "tensorboard")
    if kind == "mlflow":
        from twotower.training.trackers.mlflow import MLflow

        return MLflow(where)
    if kind == "wandb":
        from twotower.training.trackers.wandb import Wandb

        return Wandb(where)
    raise unknown_name("tracker", kind, KINDS)
