"""Names become models: add one by writing its file and one line here."""

from __future__ import annotations

import inspect
from importlib import import_module
from typing import Any

from twotower.core.errors import InputError, unknown_name
from twotower.core.schema import Schema
from twotower.models.base import Model

MODELS = {
    "two_tower": "twotower.models.two_tower:TwoTower",
    "sasrec": "twotower.models.sasrec:SASRec",
    "popularity": "twotower.models.popularity:Popularity",
    "random": "twotower.models.random:Random",
    "item_cosine": "twotower.models.item_cosine:ItemCosine",
    "ease": "twotower.models.ease:EASE",
    "dat": "twotower.models.dat:DAT",
    "cold": "twotower.models.cold:COLD",
    "int_tower": "twotower.models.int_tower:IntTower",
    "rank_tower": "twotower.models.rank_tower:RankTower",
    "fit": "twotower.models.fit:FIT",
    "semantic": "twotower.models.semantic:Semantic",
}


def model_class(name: str) -> type[Model]:
    """The class of a model's name.

    Raises:
        InputError: if no model has that name; names the closest.
    """
    if name not in MODELS:
        raise unknown_name("model", name, MODELS)
    module, attribute = MODELS[name].split(":")
    return getattr(import_module(module), attribute)


def model_parameters(name: str) -> dict[str, Any]:
    """The settings that a model takes and their defaults."""
    parameters = inspect.signature(model_class(name).__init__).parameters.values()
    return {p.name: p.default for p in parameters if p.kind is p.KEYWORD_ONLY}


def build_model(name: str, schema: Schema, parameters: dict[str, Any] | None = None) -> Model:
    """A new model: ``Class(schema, **parameters)``.

    Raises:
        InputError: if a parameter is unknown to the model (names the closest) or out of range.
    """
    cls, known = model_class(name), model_parameters(name)
    for key in parameters or {}:
        if key not in known:
            raise unknown_name(f"setting of model '{name}'", f"model.{key}", [f"model.{k}" for k in known])
    try:
        return cls(schema, **(parameters or {}))
    except InputError:
        raise
    except (TypeError, ValueError) as error:
        raise InputError(f"model '{name}': {error}") from error
