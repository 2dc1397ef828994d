"""State of a stopped training: its best epoch so far, and what a resume needs."""

from __future__ import annotations

import logging
from dataclasses import replace
from pathlib import Path

from twotower.core.errors import InputError
from twotower.core.files import read_json, write_json
from twotower.data.dataset import Dataset
from twotower.experiment.candidates import judged_by
from twotower.experiment.learn import new_model
from twotower.experiment.run import Run
from twotower.models.base import Model
from twotower.training.callbacks import EpochRecord
from twotower.training.checkpoint import load_checkpoint

STATE = "train.safetensors"
"""The checkpoint of a run's training, in its folder; it stays when the run is finished, for one of more epochs."""
NOTE = "data.json"

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


def check_longer(note: Path, stopped: Run, asked: Run) -> None:
    """Refuse to go on with other settings than the run had; more epochs are let through where they change no step.

    Args:
        note: the file of the stopped run, for the message.
        stopped: with all its settings written out.
        asked: likewise.

    Raises:
        InputError: says which setting differs, or why the number of epochs cannot be changed.
    """
    epochs, before = asked.training.epochs, stopped.training.epochs
    same = replace(asked, training=replace(asked.training, epochs=before))
    if stopped != same:
        was, now = (one.to_toml().splitlines() for one in (stopped, same))
        other = next((line for line in was if line not in now), "other settings")
        raise InputError(
            f"{note}: the run that was stopped had other settings ({other}); repeat them, or train without --resume"
        )
    if epochs < before:
        raise InputError(
            f"{note}: the run has {before} epochs, and may go on with more but not with {epochs}; train without "
            "--resume"
        )
    if epochs > before and asked.training.schedule != "constant":
        raise InputError(
            f"{note}: training.schedule = '{asked.training.schedule}' lowers the rate over all {before} epochs, so "
            f"that a run of {epochs} is another from its first step; train without --resume"
        )


def note_finished(folder: Path, run: Run) -> None:
    """Note that the bundle of a run is written, and leave of its checkpoints the one to go on from.

    A run that ``training.geometry = "stop"`` may have ended leaves none: one of more epochs would have ended there too.
    """
    for checkpoint in folder.glob("*.safetensors"):
        if checkpoint.name != STATE or run.training.geometry == "stop":
            checkpoint.unlink()
    if (folder / NOTE).is_file():
        write_json(folder / NOTE, read_json(folder / NOTE) | {"finished": True})


def is_finished(folder: Path) -> bool:
    """Return whether `note_finished` was called for the run of a folder."""
    return (folder / NOTE).is_file() and bool(read_json(folder / NOTE).get("finished"))
