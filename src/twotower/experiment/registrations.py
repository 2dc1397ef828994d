"""Parts from outside the package that a run names: noted in its bundle, asked for when the bundle is evaluated."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from twotower.core.registry import Registry
from twotower.data.splitters import SPLITTERS
from twotower.experiment.run import Run
from twotower.experiment.sources import SAMPLERS
from twotower.losses.registry import LOSSES
from twotower.serving.registrations import OF_A_MODEL, check_noted, note

OF_A_RUN: Mapping[str, Registry[Any]] = {"loss": LOSSES, "sampler": SAMPLERS, "split": SPLITTERS}
"""Parts that a run names beside its model and index; answers do not need them."""


def own_parts(run: Run) -> list[dict[str, str]]:
    """Return what a bundle notes of the run's scorer, tower, loss, samplers and split, where they are from outside."""
    names = [(key, run.model.settings.get(key)) for key in OF_A_MODEL]
    names += [("loss", run.objective.loss), ("split", run.data.split)]
    names += [("sampler", source.name) for source in run.sampling.sources]
    return note({**OF_A_MODEL, **OF_A_RUN}, names)


def check_parts(folder: Path, manifest: dict[str, Any]) -> None:
    """Refuse to evaluate a bundle whose run names a loss, sampler or split that is not registered in this process.

    Raises:
        InputError: says which import is missing.
    """
    check_noted(folder, manifest, OF_A_RUN)
