"""The ONNX graphs of one model: its user tower, its item tower and, where that is no inner product, its score."""

from __future__ import annotations

import contextlib
import logging
import warnings
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from twotower.core.errors import InputError
from twotower.core.records import Items, State, Users
from twotower.core.states import map_state, to_tensors
from twotower.models.base import Model

OPSET = 18
LEAST_LENGTH = 4
"""Places of a history that a graph is handed at least; padding takes up what is left."""


class UserTower(nn.Module):
    """Hold a model's user tower over plain tensors: what a graph can be made of."""

    def __init__(self, model: Model) -> None:
        super().__init__()
        self.model = model
        self.names = [feature.name for feature in model.schema.user_features]

    def forward(self, ids: Tensor, history: Tensor, times: Tensor | None, features: list[Tensor]) -> tuple[Tensor, ...]:
        """Return the tensors of the users' states."""
        users = Users(ids, dict(zip(self.names, features, strict=True)), history, times)
        return tuple(to_tensors(self.model.encode_users(users)).values())


class ItemTower(nn.Module):
    """Hold a model's item tower over plain tensors."""

    def __init__(self, model: Model) -> None:
        super().__init__()
        self.model = model
        self.names = [feature.name for feature in model.schema.item_features]

    def forward(self, ids: Tensor, features: list[Tensor]) -> tuple[Tensor, ...]:
        """Return the tensors of the items' states."""
        items = Items(ids, dict(zip(self.names, features, strict=True)))
        return tuple(to_tensors(self.model.encode_items(items)).values())


class Score(nn.Module):
    """Hold a model's score of every user with every item, over the tensors of their states."""

    def __init__(self, model: Model, users: State, items: State) -> None:
        super().__init__()
        self.model = model
        self.kinds = [None if isinstance(state, Tensor) else type(state) for state in (users, items)]

    def forward(self, users: list[Tensor], items: list[Tensor]) -> Tensor:
        """Return scores: [users, items]."""
        states = [
            parts[0] if kind is None else kind(*parts) for kind, parts in zip(self.kinds, (users, items), strict=True)
        ]
        return self.model.score(*states)


def check_exportable(model: Model, name: str) -> None:
    """Refuse a model whose class says that it has no ONNX form.

    Raises:
        InputError: with what the class says.
    """
    if model.no_onnx:
        raise InputError(f"model '{name}' has no ONNX form: {model.no_onnx}")


def write_user_tower(model: Model, sample: Users, path: Path, *, length: int | None) -> dict[str, list[str]]:
    """Write the user tower's graph for any number of users.

    Args:
        model: of the tower.
        sample: users with a history of `LEAST_LENGTH` places at least, or of ``length``.
        path: of the graph.
        length: places of every history; None: as many as there are, `LEAST_LENGTH` at least.

    Returns:
        The names of its inputs and outputs.

    Raises:
        InputError: if the model cannot be made into a graph.
    """
    rows = torch.export.Dim("users", min=1)
    features = [sample.features[feature.name] for feature in model.schema.user_features]
    wide = {0: rows}
    if length is None:
        wide[1] = torch.export.Dim("length", min=LEAST_LENGTH, max=model.history_length or 1 << 20)
    shapes = {
        "ids": {0: rows},
        "history": wide,
        "times": None if sample.history_times is None else wide,
        "features": [{0: rows} for _ in features],
    }
    given = (sample.ids, sample.history, sample.history_times, features)
    inputs = ["ids", "history", *(["times"] if sample.history_times is not None else [])]
    inputs += [f"feature_{place}" for place in range(len(features))]
    return _write(UserTower(model), given, shapes, inputs, _names(model.encode_users(sample)), path)


def write_item_tower(model: Model, sample: Items, path: Path) -> dict[str, list[str]]:
    """Write the item tower's graph; rows are free.

    Returns:
        The names of its inputs and outputs.

    Raises:
        InputError: if the model cannot be made into a graph.
    """
    rows = torch.export.Dim("items", min=1)
    features = [(sample.features or {})[feature.name] for feature in model.schema.item_features]
    shapes = {"ids": {0: rows}, "features": [{0: rows} for _ in features]}
    inputs = ["ids", *(f"feature_{place}" for place in range(len(features)))]
    return _write(ItemTower(model), (sample.ids, features), shapes, inputs, _names(model.encode_items(sample)), path)


def write_score(model: Model, users: State, items: State, path: Path) -> dict[str, list[str]]:
    """Write the score's graph, from the states of sample users and items; both counts are free.

    Returns:
        The names of its inputs and outputs.

    Raises:
        InputError: if the model cannot be made into a graph.
    """
    sides, shapes, inputs = [], {}, []
    for side, state in (("users", users), ("items", items)):
        parts = to_tensors(map_state(Tensor.clone, state))
        sides.append(list(parts.values()))
        shapes[side] = [{0: torch.export.Dim(side, min=1)} for _ in parts]
        inputs += [f"{side}_{name}" for name in parts]
    return _write(Score(model, users, items), tuple(sides), shapes, inputs, ["scores"], path)


def _names(state: State) -> list[str]:
    return list(to_tensors(state))


def _write(
    module: nn.Module, given: tuple[Any, ...], shapes: dict[str, Any], inputs: list[str], outputs: list[str], path: Path
) -> dict[str, list[str]]:
    try:
        with torch.no_grad(), _quiet():
            # On its own, `torch.onnx.export` goes on with a graph that has taken on the sample's sizes.
            program = torch.export.export(module.eval(), given, dynamic_shapes=shapes, strict=False)
            made = torch.onnx.export(
                program,
                dynamo=True,
                input_names=inputs,
                output_names=outputs,
                opset_version=OPSET,
                verbose=False,
            )
    except Exception as error:  # the exporter raises its own kinds, with pages of advice
        text = " ".join(str(error).split())[:200]
        raise InputError(f"this model cannot be made into an ONNX graph ({type(error).__name__}: {text})") from error
    assert made is not None
    inlets = made.model.graph.inputs
    for inlet in [inlet for inlet in inlets if not inlet.uses()]:  # one that is not read would keep the sample's shape
        inlets.remove(inlet)
    made.save(str(path))
    return {"inputs": [str(inlet.name) for inlet in inlets], "outputs": outputs}


@contextlib.contextmanager
def _quiet() -> Iterator[None]:
    """The exporter tells of every operator of packages that are not there."""
    before = logging.root.manager.disable
    logging.disable(logging.WARNING)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        logging.disable(before)
