"""Names become models. Add one of ours by its file and one line in `names`; one of your own by `MODELS.register`.

A sequence encoder's line, or its registration, makes it a model: see `twotower.models.sequential`.
"""

from __future__ import annotations

import inspect
from typing import Any

from twotower.core.errors import InputError, shown, unknown_name
from twotower.core.registry import Registry
from twotower.core.schema import Schema
from twotower.models.base import Model
from twotower.models.names import GROUP, KNOWN
from twotower.models.sequential import sequential_model
from twotower.models.size import build_within_memory
from twotower.towers.sequence.base import SequenceEncoder

MODELS: Registry[type[Model]] = Registry(
    "model",
    "twotower.MODELS",
    KNOWN,
    group=GROUP,
)


def model_class(model: str | type[Model]) -> type[Model]:
    """Return the class of a model's name; a class is returned as it is.

    Raises:
        InputError: if no model has that name (the closest is named), or what has it is no model.
    """
    found: Any = MODELS.get(model)
    if isinstance(found, type) and issubclass(found, SequenceEncoder):
        return sequential_model(found)  # type: ignore[arg-type]  # a class is hashable
    if not (isinstance(found, type) and issubclass(found, Model)):
        raise InputError(f"model {shown(model)} is no class that inherits twotower.Model")
    return found


def model_parameters(name: str) -> dict[str, Any]:
    """Return the settings that a model takes and their defaults."""
    parameters = inspect.signature(model_class(name).__init__).parameters.values()
    return {p.name: p.default for p in parameters if p.kind is p.KEYWORD_ONLY}


def all_settings(name: str, settings: dict[str, Any]) -> dict[str, Any]:
    """Return the settings with all defaults, as TOML reads them back: lists instead of tuples."""
    whole = model_parameters(name) | settings
    return {key: list(value) if isinstance(value, tuple) else value for key, value in whole.items()}


MOST = 2**31 - 1
"""Bound of a whole number in a model's settings: larger ones overflow before any memory is asked for."""
MOST_LAYERS = 1000
"""Bound of a number of layers, which are built one by one: a larger one would run on for hours and take all memory."""


def build_model(name: str, schema: Schema, parameters: dict[str, Any] | None = None) -> Model:
    """Build a new model: ``Class(schema, **parameters)``.

    Raises:
        InputError: if a parameter is unknown to the model (names the closest) or out of range, or the model would take
            more memory than is free.
    """
    cls, known = model_class(name), model_parameters(name)
    for key in parameters or {}:
        if key not in known:
            raise unknown_name(f"setting of model '{name}'", f"model.{key}", [f"model.{k}" for k in known])
        _check_kind(f"model.{key}", (parameters or {})[key], known[key])
    try:
        return build_within_memory(cls, name, schema, parameters or {})
    except InputError:
        raise
    except (TypeError, ValueError) as error:
        raise InputError(f"model '{name}': {error}") from error
    except (RuntimeError, ArithmeticError, IndexError) as error:
        given = ", ".join(f"{key} = {shown(value)}" for key, value in (parameters or {}).items())
        raise InputError(
            f"model '{name}' cannot be built with {given[:200]}: {str(error).splitlines()[0][:200]}"
        ) from error


def _check_kind(key: str, value: Any, default: Any) -> None:
    """Refuse a value that is of another kind than the setting's default; what has none is left to the model."""
    is_number, is_whole = isinstance(value, int | float), isinstance(value, int)
    if isinstance(value, bool) != isinstance(default, bool) and isinstance(default, bool | int | float):
        wanted = "true or false" if isinstance(default, bool) else "a number"
    elif isinstance(default, int) and not (is_whole and value >= 0):
        wanted = "a whole number of at least 0"
    elif isinstance(default, float) and not is_number:
        wanted = "a number"
    elif isinstance(default, str) and not isinstance(value, str):
        wanted = "text"
    elif isinstance(default, tuple) and not _like(value, default):
        wanted = f"a list such as {list(default)}"
    elif isinstance(default, int) and value > (most := MOST_LAYERS if key.endswith("layers") else MOST):
        wanted = f"at most {most:,}"
    else:
        return
    raise InputError(f"{key} = {shown(value)}: {wanted} is wanted")


def _like(value: object, default: tuple[object, ...]) -> bool:
    kinds = {type(part) for part in default}
    return isinstance(value, list | tuple) and (not kinds or all(type(part) in kinds for part in value))
