"""Description of a run by what a caller has: a name, a class or a run, data or their path, a loss, a sampler."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

from twotower.core.errors import InputError, unknown_name
from twotower.data.dataset import Dataset
from twotower.experiment.recipes import RECIPES, default_run, recipe
from twotower.experiment.run import Run
from twotower.experiment.sources import SAMPLERS
from twotower.losses.base import Loss
from twotower.losses.registry import LOSSES
from twotower.models.base import Model
from twotower.models.registry import MODELS, model_class
from twotower.sampling.base import Sampler
from twotower.training.sources import NegativeSource


def described(model: str | type[Model] | Run, data: Dataset | Path | str | None) -> Run:
    """Return the run of a model on data, with the settings that it starts from.

    Args:
        model: name of a model or recipe, class of a registered model, or a run.
        data: a data set, or the path of a prepared one; None: the run names it.

    Raises:
        InputError: if the name or class is unknown, or either is something else.
    """
    if isinstance(model, Run):
        run = model
    elif isinstance(model, str):
        if model not in MODELS and model not in RECIPES:
            raise unknown_name("model or recipe", model, {*MODELS, *RECIPES})
        run = default_run(model) if model in MODELS else recipe(model)
    else:
        if isinstance(model, Model):
            name = type(model).__name__
            raise InputError(f"model is an object: hand over its class, {name}, and its settings as keywords")
        model_class(model)
        run = default_run(MODELS.name_of(model))
    if isinstance(data, Dataset):
        path = "" if data.folder is None else str(data.folder)
    elif isinstance(data, Path | str):
        path = str(data)
    elif data is None:
        return run
    else:
        raise InputError(
            f"data is a {type(data).__name__}; make it a Dataset first: twotower.Dataset.from_frames(events)"
        )
    return replace(run, data=replace(run.data, path=path))


def in_memory(run: Run, data: Dataset | Path | str | None) -> Dataset | None:
    """Return the data set that was handed over, if it is one; None where the run names a folder.

    Raises:
        InputError: if there are no data.
    """
    if isinstance(data, Dataset):
        return data
    if not run.data.path:
        raise InputError("no data: hand over a Dataset, such as Dataset.from_frames(events), or a prepared folder")
    return None


def with_loss(run: Run, loss: Any) -> tuple[Run, Loss | None]:
    """Return the run with a loss by name or class, or with an object, which is returned too.

    Raises:
        InputError: if it is not registered.
    """
    if loss is None:
        return run, None
    named = isinstance(loss, str | type)
    name = LOSSES.name_of(loss if named else type(loss))
    return replace(run, objective=replace(run.objective, loss=name)), None if named else loss


def with_sampler(run: Run, sampler: Any) -> tuple[Run, Sampler | None]:
    """Return the run with one source of negatives by name, class or function, or an object, which is returned too.

    Raises:
        InputError: if it is not registered.
    """
    if sampler is None:
        return run, None
    is_object = hasattr(sampler, "sample") and not isinstance(sampler, type)
    name = SAMPLERS.name_of(type(sampler) if is_object else sampler)
    return replace(run, sampling=replace(run.sampling, sources=(NegativeSource(name),))), sampler if is_object else None
