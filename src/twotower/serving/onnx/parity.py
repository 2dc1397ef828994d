"""Loss of an exported graph: against PyTorch, which must be next to nothing, and by weights of 8 bits."""

from __future__ import annotations

import logging
import shutil
import warnings
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from twotower.core.errors import InputError
from twotower.core.records import Items, State, Users
from twotower.core.states import to_tensors
from twotower.models.base import Model

TOLERANCE = 1e-4
"""Largest difference from PyTorch, as a share of the largest number of a state (or of 1, where that is more)."""

Arrays = dict[str, NDArray[Any]]


class Graph:
    """Hold one graph under ONNX Runtime, with the names of its outputs."""

    def __init__(self, path: Path, outputs: list[str]) -> None:
        import onnxruntime

        options = onnxruntime.SessionOptions()
        options.log_severity_level = 3
        options.intra_op_num_threads = 1
        self.path, self.outputs = path, outputs
        self._session: Any = onnxruntime.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])
        self._inputs = {part.name for part in self._session.get_inputs()}

    def run(self, feed: Arrays) -> Arrays:
        """Return the outputs by name; what the graph does not read is left out."""
        found = self._session.run(None, {name: value for name, value in feed.items() if name in self._inputs})
        return dict(zip(self.outputs, found, strict=True))


def user_feed(model: Model, users: Users) -> Arrays:
    """Return users as the inputs of the user tower's graph."""
    feed = {"ids": users.ids, "history": users.history}
    if users.history_times is not None:
        feed["times"] = users.history_times
    names = [feature.name for feature in model.schema.user_features]
    feed |= {f"feature_{place}": users.features[name] for place, name in enumerate(names)}
    return {name: part.cpu().numpy() for name, part in feed.items()}


def item_feed(model: Model, items: Items) -> Arrays:
    """Return items as the inputs of the item tower's graph."""
    names = [feature.name for feature in model.schema.item_features]
    feed = {"ids": items.ids} | {f"feature_{at}": (items.features or {})[name] for at, name in enumerate(names)}
    return {name: part.cpu().numpy() for name, part in feed.items()}


def score_feed(users: Arrays, items: Arrays) -> Arrays:
    """Return the states of users and items as the inputs of the score's graph."""
    return {f"users_{name}": part for name, part in users.items()} | {
        f"items_{name}": part for name, part in items.items()
    }


def arrays(state: State) -> Arrays:
    """Return the tensors of a state as arrays by name."""
    return {name: part.detach().cpu().numpy() for name, part in to_tensors(state).items()}


def difference(pairs: Iterable[tuple[Arrays, Arrays]], what: str) -> float:
    """Return the largest difference of ONNX Runtime from PyTorch, pair by pair of (found, wanted).

    Raises:
        InputError: if it is more than `TOLERANCE`, or a shape differs: such a graph must not be served.
    """
    worst = 0.0
    for found, wanted in pairs:
        for name, right in wanted.items():
            if found[name].shape != right.shape:
                raise InputError(f"{what}: '{name}' has shape {found[name].shape}, and PyTorch gives {right.shape}")
            if right.size:
                scale = max(1.0, float(np.abs(right).max()))
                gap = np.abs(found[name].astype(np.float64) - right.astype(np.float64)).max()
                worst = max(worst, float(gap) / scale)
    if not worst <= TOLERANCE:
        raise InputError(f"{what}: its graph differs from PyTorch by {worst:.2g}, over {TOLERANCE:g}; report the model")
    return worst


def write_int8(source: Path, target: Path) -> None:
    """Write a graph again with weights of 8 bits, its activations quantised as it runs."""
    from onnxruntime.quantization import QuantType, quantize_dynamic

    before = logging.root.manager.disable
    logging.disable(logging.WARNING)  # of steps that dynamic quantisation does not need
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            quantize_dynamic(str(source), str(target), weight_type=QuantType.QInt8)
    except Exception as error:  # the library raises its own kinds
        why = " ".join(str(error).split())[:160]
        logging.disable(before)
        logging.getLogger(__name__).warning("%s stays of 32 bits (%s)", source.name, why)
        shutil.copyfile(source, target)
    finally:
        logging.disable(before)


def relative_error(whole: Arrays, quantised: Arrays) -> float | None:
    """Return the mean over rows of the length of the difference, as a share of the length of the row.

    Examples:
        >>> relative_error({"state": np.ones((2, 4))}, {"state": np.ones((2, 4)) * 0.5})
        0.5
    """
    shares = []
    for name, right in whole.items():
        if right.dtype.kind == "f" and right.size:
            flat = right.reshape(len(right), -1).astype(np.float64)
            gap = np.linalg.norm(quantised[name].reshape(len(right), -1) - flat, axis=1)
            length = np.linalg.norm(flat, axis=1)
            shares.append(np.divide(gap, length, out=np.zeros_like(gap), where=length > 0))
    return float(np.concatenate(shares).mean()) if shares else None


def kept(whole: NDArray[Any], quantised: NDArray[Any], k: int) -> float:
    """Return the share of the best ``k`` by one table of scores [users, items] that are among those by the other.

    Examples:
        >>> kept(np.array([[3.0, 2, 1]]), np.array([[3.0, 1, 2]]), 2)
        0.5
    """
    best = [torch.from_numpy(scores.copy()).topk(k).indices for scores in (whole, quantised)]
    return float((best[0][:, :, None] == best[1][:, None, :]).any(dim=2).float().mean())


def widened(users: Users, width: int) -> Users:
    """Return users whose histories are padded at the end to ``width`` at least."""
    more = width - users.history.shape[1]
    if more <= 0:
        return users

    def pad(part: Tensor) -> Tensor:
        return torch.nn.functional.pad(part, (0, more))

    times = None if users.history_times is None else pad(users.history_times)
    return users._replace(history=pad(users.history), history_times=times)
