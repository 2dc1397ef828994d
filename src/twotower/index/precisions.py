"""Precisions of stored scores: float32, float16, and uint8 with an offset and a step for each list."""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from twotower.core.errors import InputError, unknown_name

PRECISIONS = ("float32", "float16", "uint8")


class Stored(NamedTuple):
    """Hold scores as they are stored, list after list.

    A score is ``low + step * scores`` of its list for uint8, and ``scores`` itself for the others.
    """

    scores: NDArray[Any]
    low: NDArray[np.float32]
    step: NDArray[np.float32]


def check_precision(what: str, precision: str) -> None:
    """Refuse a precision that is none of `PRECISIONS`.

    Args:
        what: is named so, such as a setting.
        precision: its value.

    Raises:
        InputError: names those that there are.
    """
    if precision not in PRECISIONS:
        raise unknown_name(what, precision, PRECISIONS)


def encode_scores(scores: NDArray[np.float32], real: NDArray[np.bool_], precision: str) -> Stored:
    """Return the real scores of each list in a precision.

    Args:
        scores: [lists, longest].
        real: which of them are scores: bool [lists, longest].
        precision: one of `PRECISIONS`.

    Raises:
        InputError: if a score is beyond the numbers of float16.
    """
    low, step = np.zeros(len(real), dtype=np.float32), np.ones(len(real), dtype=np.float32)
    if precision == "uint8":
        low = np.where(real, scores, np.inf).min(1, initial=np.inf).astype(np.float32)
        high = np.where(real, scores, -np.inf).max(1, initial=-np.inf).astype(np.float32)
        empty = ~real.any(1)
        low[empty], high[empty] = 0.0, 0.0
        step = np.where(high > low, (high - low) / np.float32(255), np.float32(1)).astype(np.float32)
        scores = np.rint((np.where(real, scores, 0) - low[:, None]) / step[:, None]).clip(0, 255)
    with np.errstate(over="ignore"):
        stored = scores[real].astype(precision)
    if precision == "float16" and not np.isfinite(stored).all():
        raise InputError("postings: scores beyond 65,504 cannot be float16; take precision = 'uint8' or 'float32'")
    return Stored(stored, low, step)


def decode_scores(stored: NDArray[Any], low: np.float32, step: np.float32) -> NDArray[np.float32]:
    """Return the stored scores of one list as float32."""
    numbers = stored.astype(np.float32)
    return low + step * numbers if stored.dtype == np.uint8 else numbers
