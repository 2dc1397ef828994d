"""Shape checks that every loss of positives against negatives shares."""

from __future__ import annotations

from torch import Tensor

from twotower.core.errors import InputError


def check_shapes(loss: str, positive: Tensor, negative: Tensor, log_q: Tensor, mask: Tensor) -> None:
    """Refuse scores, log q and mask that do not belong together.

    Raises:
        InputError: if they do not, or there are no rows.
    """
    shape = negative.shape
    if (
        positive.ndim != 1
        or negative.ndim != 2
        or positive.shape != shape[:1]
        or mask.shape != shape
        or log_q.shape not in (shape, shape[1:])
    ):
        raise InputError(
            f"{loss}: expected positive scores [rows], negative scores and mask [rows, candidates] and log q "
            f"[candidates] or [rows, candidates], got {tuple(positive.shape)}, {tuple(shape)}, {tuple(mask.shape)} "
            f"and {tuple(log_q.shape)}"
        )
    if not len(positive):
        raise InputError(f"{loss}: no rows, so its mean is undefined")
