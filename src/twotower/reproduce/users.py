"""Values of users of a table's trainings: means over seeds, the test over users, and the file that keeps them."""

from __future__ import annotations

import io
from collections.abc import Collection, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors.torch import load_file
from torch import Tensor

from twotower.core.files import replacing_file
from twotower.metrics.intervals import paired_permutation
from twotower.reproduce.study import Cell


def mean_over_seeds(cells: Sequence[Cell], folder: Path) -> dict[str, Tensor]:
    """Return the mean over seeds of each user's values, float32; empty where a cell kept none.

    Where every seed asks other users, a user's mean is over the seeds that ask it: ``users`` names them.
    """
    loaded = []
    for cell in cells:
        path = cell.path(folder).with_suffix(".safetensors")
        if not path.is_file():
            return {}
        loaded.append(load_file(path))
    if "users" not in loaded[0]:
        return {name: torch.stack([part[name].double() for part in loaded]).mean(dim=0).float() for name in loaded[0]}
    users, place = torch.cat([part["users"].long() for part in loaded]).unique(return_inverse=True)
    counts = place.bincount(minlength=len(users))
    means = {"users": users}
    for name in loaded[0].keys() - {"users"}:
        total = torch.zeros(len(users), dtype=torch.float64)
        total.index_add_(0, place, torch.cat([part[name].double() for part in loaded]))
        means[name] = (total / counts).float()
    return means


def users_test(first: Mapping[str, Tensor], second: Mapping[str, Tensor], metric: str) -> float | None:
    """Return p of a paired permutation test over the users that both have; None where one has no values of users."""
    if metric not in first or metric not in second:
        return None
    own, other = first[metric], second[metric]
    if "users" in first and "users" in second:
        own = own[torch.isin(first["users"], second["users"])]
        other = other[torch.isin(second["users"], first["users"])]
    return paired_permutation(own, other).p_value if len(own) == len(other) and len(own) else None


def write_users(values: Mapping[str, Mapping[str, Tensor]], metrics: Collection[str], path: Path) -> bool:
    """Write the shown metrics of every variant as a compressed ``.npz``: ``VARIANT/METRIC``, and ``VARIANT/users``.

    From it `users_test` gives the marks of all variants with as many seeds as the reference again. Nothing is written
    where no variant has values of users.
    """
    arrays: dict[str, Any] = {
        f"{variant}/{name}": value.numpy()
        for variant, part in values.items()
        for name, value in part.items()
        if name in metrics or name == "users"
    }
    if not arrays:
        return False
    buffer = io.BytesIO()
    np.savez_compressed(buffer, **arrays)
    with replacing_file(path) as partial:
        partial.write_bytes(buffer.getvalue())
    return True


def read_users(path: Path) -> dict[str, dict[str, Tensor]]:
    """Return what `write_users` wrote, by variant."""
    found: dict[str, dict[str, Tensor]] = {}
    with np.load(path, allow_pickle=False) as arrays:
        for key in arrays.files:
            variant, _, name = key.partition("/")
            found.setdefault(variant, {})[name] = torch.from_numpy(arrays[key])
    return found
