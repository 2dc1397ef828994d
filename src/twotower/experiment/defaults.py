"""Defaults of a run written down, so that a version with others trains the same model."""

from __future__ import annotations

from dataclasses import replace

from twotower.experiment.run import Run
from twotower.index.registry import index_parameters
from twotower.models.base import OffersChoices
from twotower.models.registry import all_settings


def spelled_out(run: Run) -> Run:
    """Return the run with the defaults of its model and its index written down."""
    model, index = run.model, run.index
    return replace(
        run,
        model=replace(model, settings=all_settings(model.name, model.settings)),
        index=replace(index, settings=index_parameters(index.kind) | index.settings),
    )


def with_choice(run: Run, model: OffersChoices) -> Run:
    """Return the run with the value that its model settled on, so that the same run again gives the same model."""
    settings = run.model.settings | {model.choice: getattr(model, model.choice)}
    return replace(run, model=replace(run.model, settings=settings))
