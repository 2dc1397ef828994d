"""Best epoch of a run that was stopped."""

from __future__ import annotations

import logging
from dataclasses import replace
from pathlib import Path

from twotower.data.dataset import Dataset
from twotower.experiment.candidates import judged_by
from twotower.experiment.learn import new_model
from twotower.experiment.run import Run
from twotower.experiment.run_folder import STATE
from twotower.models.base import Model
from twotower.training.callbacks import EpochRecord
from twotower.training.checkpoint import load_checkpoint

log = logging.getLogger(__name__)


def best_so_far(run: Run, dataset: Dataset, folder: Path) -> tuple[Run, Model, list[EpochRecord]] | None:
    """Return the model of the best epoch of a stopped run, and the run without the last fit that it did not come to.

    Args:
        run: that was stopped.
        dataset: on the device of the run.
        folder: of the run, with its checkpoint.

    Returns:
        The run, the model and one record for each epoch; None where no epoch has been validated yet.
    """
    state = load_checkpoint(folder / STATE)
    progress = state["progress"]
    if not state["best"]:
        return None
    model = new_model(run, dataset)
    model.load_state_dict(state["best"])
    log.warning(
        "stopped after %d of %d epochs: kept is epoch %d, the best by %s so far; --resume goes on",
        progress["epoch"],
        run.training.epochs,
        progress["best_epoch"],
        judged_by(run),
    )
    return (
        replace(run, training=replace(run.training, refit=False)),
        model,
        [EpochRecord.from_json(line) for line in progress["records"]],
    )
