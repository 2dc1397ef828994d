"""The search space of each model: which keys of its run are tuned, and between what. Add a model by one line."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

from twotower.core.errors import InputError, unknown_name
from twotower.experiment.run import Run, read_run_file
from twotower.experiment.tuning.axes import Axis, Grid, Range, Value, axis_of
from twotower.models.base import ClosedForm
from twotower.models.registry import all_settings, model_class, model_parameters
from twotower.models.sequential import Sequential

TUNABLE = ("model", "objective", "sampling", "training", "clusters")
"""Sections whose keys may be tuned; data and evaluation say what is judged."""

DROPOUT = Range(0.0, 0.6)
TEMPERATURE = Range(0.05, 0.3, log=True)
DECAY = Grid((0.0, 0.01, 0.1, 1.0))
WIDTH = Grid((64, 128, 256))

TRAINED: dict[str, Axis] = {
    "training.learning_rate": Range(3e-4, 1e-2, log=True),
    "training.batch_size": Grid((64, 128, 256, 512)),
    "training.weight_decay": DECAY,
}
"""Of every model that is trained by steps and has no line of its own."""

SEQUENCES: dict[str, Axis] = {
    **TRAINED,
    "training.batch_size": Grid((32, 64, 128, 256)),
    "model.dropout": DROPOUT,
    "model.temperature": TEMPERATURE,
    "model.dim": WIDTH,
    "model.layers": Grid((1, 2, 3)),
}
"""Of SASRec and the other sequence encoders, as far as an encoder has the setting."""

PRE_RANKER: dict[str, Axis] = {
    **TRAINED,
    "training.batch_size": Grid((1024, 2048, 4096)),
    "model.dropout": DROPOUT,
    "model.field_dim": Grid((8, 16, 32)),
    "model.user_id": Grid((False, True)),
}

SPACES: dict[str, dict[str, Axis]] = {
    "two_tower": {
        **TRAINED,
        "training.learning_rate": Range(1e-3, 3e-2, log=True),
        "training.batch_size": Grid((256, 512, 1024, 2048)),
        "model.temperature": TEMPERATURE,
        "model.history_dropout": DROPOUT,
        "model.dim": WIDTH,
        "model.pooling": Grid(("mean", "both")),
    },
    "t2diff": {**SEQUENCES, "model.diffusion_weight": Grid((0.1, 1.0))},
    "sparcode": {**TRAINED, "model.dropout": DROPOUT, "model.dim": WIDTH},
    "tdm": {
        **TRAINED,
        "training.batch_size": Grid((512, 1024, 2048)),
        "model.dropout": DROPOUT,
        "model.dim": Grid((32, 64)),
        "model.parts": Grid((1, 2, 4)),
        "model.negatives": Grid((16, 32, 64)),
    },
    "all_to_all": {**TRAINED, "model.dropout": DROPOUT, "model.dim": Grid((32, 64)), "model.layers": Grid((1, 2, 3))},
    "sparcode_twin": {
        **TRAINED,
        "model.temperature": TEMPERATURE,
        "model.dropout": DROPOUT,
        "model.dim": WIDTH,
    },
    "dropoutnet": {
        **TRAINED,
        "model.user_dropout": Grid((0.3, 0.5, 0.8)),
        "model.dropout": DROPOUT,
        "model.factor_dim": WIDTH,
    },
    "deezernet": {**TRAINED, "model.dropout": DROPOUT, "model.factor_dim": WIDTH},
    "melu": {**TRAINED, "model.inner_rate": Range(1e-3, 1.0, log=True), "model.dim": Grid((16, 32, 64))},
    "cluster_popularity": {
        "model.clusters": Grid((5, 10, 20, 50, 100)),
        "model.smoothing": Range(1e2, 1e5, log=True),
    },
    "semantic": {**TRAINED, "model.dropout": DROPOUT},
    "dat": {**PRE_RANKER, "model.mimic_weight": Grid((0.1, 1.0))},
    "cold": PRE_RANKER,
    "int_tower": {**PRE_RANKER, "model.contrastive_weight": Grid((0.0, 0.1))},
    "rank_tower": PRE_RANKER,
    "fit": PRE_RANKER,
    "ease": {"model.lambda_": Range(1.0, 1e4, log=True)},
    "mixture": {"model.weight": Range(0.05, 20.0, log=True)},
    "sparse_ease": {"model.lambda_": Range(1.0, 1e4, log=True), "model.neighbours": Grid((50, 100, 200))},
    "item_cosine": {"model.neighbours": Grid((20, 50, 100, 200, 500)), "model.shrink": Grid((0.0, 1.0, 10.0, 100.0))},
    "item_lists": {
        "model.window": Grid((3, 10, 30)),
        "model.ahead": Grid((False, True)),
        "model.flat": Grid((False, True)),
        "model.decay": Grid((0.5, 0.7, 0.8, 0.9)),
        "model.shrink": Grid((0.0, 1.0, 10.0, 100.0)),
    },
    "popularity": {},
    "random": {},
}


def space_of(run: Run, *, fixed: tuple[str, ...] = (), own: Mapping[str, Any] | None = None) -> dict[str, Axis]:
    """Return what is tuned in a run: the model's space and the run's own values, narrowed by what a user wrote.

    Args:
        run: as it is without tuning.
        fixed: keys, such as "training.batch_size", that stay as they are in the run.
        own: what a user wrote, by key: it takes the place of the model's own axis, and may add keys. A single value
            holds the key there.

    Raises:
        InputError: if a key is unknown, a value cannot stand there, or nothing is left to tune.
    """
    cls, name = model_class(run.model.name), run.model.name
    kind = {} if issubclass(cls, ClosedForm) else SEQUENCES if issubclass(cls, Sequential) else TRAINED
    space: dict[str, Axis] = {}
    for key, axis in SPACES.get(name, kind).items():
        if key in fixed or (key.startswith("model.") and key.partition(".")[2] not in model_parameters(name)):
            continue
        value = value_in(run, key)
        if value == 0 and isinstance(axis, Range) and axis.log:
            space[key] = axis  # EASE's 0: to be chosen
        else:
            space[key] = axis.widened(value)
    for key, value in (own or {}).items():
        _check_key(run, key)
        axis = axis_of(key, value)
        for one in axis.values if isinstance(axis, Grid) else (axis.low, axis.high):
            with_values(run, {key: one})  # a value that cannot stand there is refused now
        if isinstance(axis, Range) and type(value_in(run, key)) is int:
            if not (axis.low.is_integer() and axis.high.is_integer()):
                raise InputError(f"[tune]: {key} takes whole numbers: give whole ones as low and high")
            axis = replace(axis, whole=True)
        space[key] = axis
    if not any(not isinstance(axis, Grid) or len(axis.values) > 1 for axis in space.values()):
        raise InputError(f"model '{name}' has nothing left to tune: write keys and their values in [tune], or --space")
    return space


def load_tuned(path: Path) -> tuple[Run, dict[str, Any]]:
    """Return a run file, and what its section [tune] says, by key: "model.dropout", or dropout in [tune.model].

    Raises:
        InputError: if the file is no run, or [tune] is no table.
    """
    values = read_run_file(path)
    own = values.pop("tune", {})
    if not isinstance(own, dict):
        raise InputError(f"{path}: 'tune' is a section: write [tune] and its keys below")
    flat: dict[str, Any] = {}
    for key, value in own.items():
        inner = {f"{key}.{name}": one for name, one in value.items()} if isinstance(value, dict) else {key: value}
        flat |= {key: value} if "." in key else inner
    return Run.from_dict(values, str(path)), flat


def value_in(run: Run, key: str) -> Any:
    """Return the value of a key such as "training.batch_size" in a run, or the model's default."""
    section, _, name = key.partition(".")
    values = run.to_dict()[section]
    return (all_settings(run.model.name, run.model.settings) if section == "model" else values).get(name)


def with_values(run: Run, values: Mapping[str, Value]) -> Run:
    """Return the run with the values of a trial."""
    described = run.to_dict()
    for key, value in values.items():
        section, _, name = key.partition(".")
        if type(value_in(run, key)) is int and isinstance(value, float) and value.is_integer():
            value = int(value)
        described[section][name] = value
    return Run.from_dict(described, "[tune]")


def _check_key(run: Run, key: str) -> None:
    section, dot, name = key.partition(".")
    known = {part: set(values) for part, values in run.to_dict().items()}
    known["model"] = set(model_parameters(run.model.name))
    if not dot or section not in TUNABLE or name not in known[section]:
        tunable = [f"{part}.{one}" for part in TUNABLE for one in known[part]]
        raise unknown_name("key", key, tunable, "[tune]")
