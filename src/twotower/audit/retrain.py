"""Remedies that train again, on the events that a bundle keeps."""

from __future__ import annotations

import tempfile
from dataclasses import replace
from pathlib import Path

from twotower.audit.text import Readers, enrich_bundle
from twotower.core.errors import InputError
from twotower.experiment.recipes import recipe
from twotower.experiment.run import Run
from twotower.experiment.train import train
from twotower.models.registry import model_parameters
from twotower.serving.bundle import Bundle

FEATURE_DROPOUT = 0.5
"""Share of fields set to missing in the training that prevents a collapse."""


def train_again(bundle: Bundle, strategy: str, to: Path, readers: Readers, notes: list[str], device: str) -> Bundle:
    """Train the bundle of a model that needs less: its own with feature dropout, or "semantic", on ``device``.

    Raises:
        InputError: if the bundle keeps no events, its model cannot leave features out or did so already, or as
            `enrich_bundle`.
    """
    dataset, run = bundle.dataset, Run.load(bundle.folder / "run.toml")
    if not bundle.dataset.log.num_events:
        raise InputError(f"{bundle.folder}: keeps no events to train on")
    with tempfile.TemporaryDirectory(prefix="twotower-") as folder:
        if strategy == "semantic":
            own = recipe("semantic")
            training = replace(own.training, seed=run.training.seed)
            run = replace(own, data=run.data, training=training, evaluation=run.evaluation, index=run.index)
            notes.append("trained anew as model 'semantic', which reads texts alone")
            if readers.columns():
                dataset = enrich_bundle(bundle, readers, Path(folder))
                run = replace(run, model=replace(run.model, settings=run.model.settings | readers.settings()))
        else:
            if "feature_dropout" not in model_parameters(run.model.name):
                raise InputError(f"model '{run.model.name}' has no feature_dropout; two_tower has")
            before = run.model.settings.get("feature_dropout", 0.0)
            if before >= FEATURE_DROPOUT:
                raise InputError(f"{bundle.folder}: was trained with feature_dropout = {before} already")
            settings = run.model.settings | {"feature_dropout": FEATURE_DROPOUT}
            run = replace(run, model=replace(run.model, settings=settings))
            notes.append(f"trained again with model.feature_dropout = {FEATURE_DROPOUT} in place of {before}")
        train(replace(run, training=replace(run.training, device=device)), to=to, dataset=dataset)
    return Bundle.load(to)
