"""Are stored arrays what their schema says? Numbers out of range are refused here, not read from other memory later."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from twotower.core.errors import InputError, cut
from twotower.core.records import Features
from twotower.core.schema import Feature, Schema, Side
from twotower.data.log import Log


def read_array(path: Path, dtype: torch.dtype) -> Tensor:
    """Read a stored array as ``dtype``: whole numbers stay whole.

    Raises:
        InputError: if the file is missing, is no array of numbers, or has fractions where whole numbers belong.
    """
    try:
        stored = torch.from_numpy(np.load(path, allow_pickle=False))
    except FileNotFoundError:
        raise InputError(f"{path}: no such file; take a fresh copy of its folder") from None
    except Exception as error:  # a changed header is read by NumPy's parser, which raises what it likes
        why = cut(" ".join(str(error).split()) or type(error).__name__, 120)
        raise InputError(f"{path}: damaged, no array of numbers ({why}); take a fresh copy of its folder") from None
    if not dtype.is_floating_point and (stored.is_floating_point() or stored.is_complex()):
        raise InputError(f"{path}: damaged, holds {stored.dtype}, not whole numbers; take a fresh copy of its folder")
    return stored.to(dtype)


def check_log(log: Log, schema: Schema, folder: Path) -> None:
    """Refuse a log whose parts differ in length, or that names users or items that are not there.

    Raises:
        InputError: names the array.
    """
    events = len(log.items) if log.items.ndim else -1
    plain = log.offsets.ndim == 1 and log.items.ndim == 1
    if not plain or len(log.offsets) != schema.num_users + 1 or int(log.offsets[-1]) != events:
        raise _wrong(folder, "offsets", f"is not that of {schema.num_users:,} users and {events:,} events")
    if int(log.offsets[0]) != 0 or bool((log.offsets.diff() < 0).any()):
        raise _wrong(folder, "offsets", "does not rise from 0")
    if not _within(log.items, schema.num_items):
        raise _wrong(folder, "items", f"names rows beyond the {schema.num_items:,} of the catalogue")
    for name, column in (("times", log.times), ("labels", log.labels)):
        if column is not None and column.shape != log.items.shape:
            raise _wrong(
                folder, name, f"has the shape {tuple(column.shape)}, not one value for each of {events:,} events"
            )


def check_features(features: Features, schema: Schema, side: Side, folder: Path) -> None:
    """Refuse features of another shape than the schema's, or with values outside their vocabulary.

    Raises:
        InputError: names the feature.
    """
    rows = schema.num_users if side == "user" else schema.num_items
    for feature in schema.features(side):
        column, shape = features[feature.name], (rows, *_shape(feature))
        if tuple(column.shape) != shape:
            raise _wrong(folder, feature.name, f"has the shape {tuple(column.shape)}, its schema says {shape}")
        if feature.is_discrete and not _within(column, feature.size):
            raise _wrong(folder, feature.name, f"holds values beyond the {feature.size:,} of its vocabulary")


def _shape(feature: Feature) -> tuple[int, ...]:
    if feature.kind == "vector":
        return (feature.size,)
    return (feature.width,) if feature.kind in ("multi_categorical", "text") else ()


def _within(column: Tensor, rows: int) -> bool:
    return not column.numel() or (int(column.min()) >= 0 and int(column.max()) < rows)


def _wrong(folder: Path, name: str, what: str) -> InputError:
    return InputError(f"{folder}: damaged: its array '{name}' {what}; take a fresh copy, or make it again")
