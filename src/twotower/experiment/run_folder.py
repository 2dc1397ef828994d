"""Folder of a run beside its bundle: the run, its data and its checkpoint, from which it may be resumed."""

from __future__ import annotations

import logging
from dataclasses import replace
from pathlib import Path

from twotower.core.errors import InputError
from twotower.core.files import read_json, replacing_file, write_json
from twotower.data.dataset import Dataset
from twotower.data.identity import fingerprint
from twotower.experiment.defaults import spelled_out
from twotower.experiment.run import Run
from twotower.training.callbacks import Silent
from twotower.training.trackers.base import NOTES

RUN = "run.toml"
"""The run, with all its settings written out."""
STATE = "train.safetensors"
"""The checkpoint of a run's training, in its folder; it stays when the run is finished, for one of more epochs."""
NOTE = "data.json"
"""What the run learnt from, by content, and whether it is finished."""

log = logging.getLogger(__name__)


class Claim(Silent):
    """Write run.toml when training starts.

    An invalid run fails before that, so an older checkpoint survives.

    Args:
        folder: of the run; None: there is nothing to note.
        run: what is trained.
        dataset: what it learns from.
        resume: whether the run goes on from the checkpoint in its folder, which then stays.
    """

    def __init__(self, folder: Path | None, run: Run, dataset: Dataset, *, resume: bool = False) -> None:
        self.folder, self.run, self.dataset, self.resume = folder, run, dataset, resume

    def started(self, epochs: int, steps_per_epoch: int, step: int) -> None:
        """Write the run when training starts: the first one, where a last fit follows."""
        self.made()

    def made(self) -> None:
        """Write the run, unless that is done; files of an earlier training there are removed."""
        folder, self.folder = self.folder, None
        if folder is None:
            return
        folder.mkdir(parents=True, exist_ok=True)
        if self.resume and spelled_out(Run.load(folder / RUN)) == self.run:
            return
        for checkpoint in folder.glob("*.safetensors"):
            if self.resume and checkpoint.name == STATE:
                continue  # the last fit of fewer epochs goes, the state that more of them go on from stays
            if not is_finished(folder):
                log.warning("%s: what an earlier training had done is dropped; --resume would have gone on", checkpoint)
            checkpoint.unlink()
        if not self.resume:
            (folder / NOTES).unlink(missing_ok=True)
        write_json(folder / NOTE, {"name": self.dataset.name, "fingerprint": fingerprint(self.dataset)})
        with replacing_file(folder / RUN) as partial:
            partial.write_text(self.run.to_toml(), encoding="utf-8")


def check_resumable(folder: Path, run: Run) -> bool:
    """Return whether there is a checkpoint to resume from, of the run that its folder notes, or of fewer epochs.

    Raises:
        InputError: if the run differs otherwise.
    """
    note = folder / RUN
    if not (folder / STATE).is_file():
        log.warning("%s: no checkpoint to resume from, so training starts from nothing", folder)
        return False
    check_longer(note, spelled_out(Run.load(note)), spelled_out(run))
    return True


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


def check_same_data(folder: Path, dataset: Dataset) -> None:
    """Refuse to resume with other data than those noted in the folder, by content.

    Raises:
        InputError: if they are others.
    """
    if not (folder / NOTE).is_file():
        log.warning("%s: does not note its data (an older twotower wrote it); it is taken to be the same", folder)
    elif read_json(folder / NOTE).get("fingerprint") != fingerprint(dataset):
        raise InputError(
            f"{folder}: its checkpoint was made with other data than '{dataset.name}' is now; prepare the data as they "
            "were, or train without --resume"
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
