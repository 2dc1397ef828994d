"""Weights & Biases: a run of a project, on the service or in a folder to upload later (extra ``wandb``)."""

from __future__ import annotations

import os
import secrets
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from twotower.core.errors import InputError
from twotower.training.trackers.base import FAILED, TrackedRun, Tracker, note_id, noted_id, told

STEP = "step"
"""The figure that is the horizontal axis of all others: a resumed run may do an epoch again."""


class Wandb(Tracker):
    """Write a run to Weights & Biases: settings as its configuration, figures, run file and model card as files.

    Who is asking, where the service is and whether it is asked at all (``WANDB_MODE=offline``) is said by
    Weights & Biases' own variables. A resumed run goes on under its id.

    Args:
        project: its name, or ``team/project``; empty: ``WANDB_PROJECT``, else "twotower".

    Raises:
        InputError: if wandb is not installed.
    """

    service = "Weights & Biases"

    def __init__(self, project: str = "") -> None:
        super().__init__()
        try:
            import wandb
        except ImportError:
            raise InputError("tracking by Weights & Biases needs its package: pip install 'twotower[wandb]'") from None
        self._wandb: Any = wandb
        team, _, name = project.rpartition("/")
        self.project, self.team = name or os.environ.get("WANDB_PROJECT", "") or "twotower", team or None
        self._at: Any = None

    def open(self, run: TrackedRun, step: int) -> None:
        """Start a run, or go on with the one that was begun; its files lie in ``WANDB_DIR``, else in the run's folder.

        Raises:
            InputError: if the service refuses.
        """
        known = noted_id(run, "wandb", project=self.project)
        name = known or secrets.token_hex(4)
        if run.folder is not None:
            run.folder.mkdir(parents=True, exist_ok=True)
        folder = os.environ.get("WANDB_DIR") or run.folder
        try:
            self._at = self._wandb.init(
                project=self.project,
                entity=self.team,
                name=run.title,
                id=name,
                resume="allow",
                dir=None if folder is None else str(folder),
                config=dict(run.settings),
                settings=self._wandb.Settings(silent=True, console="off"),
            )
            self._at.config.update(dict(run.settings), allow_val_change=True)
            self._at.define_metric("*", step_metric=STEP)
            (Path(self._at.dir) / "run.toml").write_text(run.toml, encoding="utf-8")
        except Exception as error:
            raise InputError(f"Weights & Biases: {told(error)}") from None
        note_id(run, "wandb", id=name, project=self.project)

    def log(self, figures: Mapping[str, float], step: int) -> None:
        """Add a point to each curve."""
        self._at.log({STEP: step, **figures})

    def summarise(self, figures: Mapping[str, float]) -> None:
        """Set the figures of the test in the summary of the run."""
        self._at.summary.update(dict(figures))

    def keep(self, file: Path) -> None:
        """Keep the file as an artefact of type "model-card"."""
        artefact = self._wandb.Artifact(f"card-{self._at.id}", type="model-card")
        artefact.add_file(str(file))
        self._at.log_artifact(artefact)

    def close(self, status: str) -> None:
        """End the run."""
        self._at.finish(exit_code=1 if status == FAILED else 0)
        self._at = None
