"""Time that models take: of a closed form before it is fitted, and of the last fit of one that is done."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from functools import cache

import numpy as np

from twotower.experiment.ladder.rungs import METRIC, Rung, is_closed

PROBED_ITEMS = 1_000
"""Rows of the system that is solved once to learn how fast this machine is; larger ones are no slower by operation."""

SEARCHED = ("ease", "sparse_ease")
"""Closed forms that are fitted several times, to choose their penalty."""

LAST_FIT_SECONDS = 1.0
"""What a last fit takes beside the training: catalogue encoded, vectors checked, bundle written."""


def seconds_of_fit(model: str, items: int) -> float:
    """Return about how long one fit of a closed form takes, with a given setting, on a catalogue of so many items."""
    found: dict[str, Callable[[], float]] = {
        "item_cosine": lambda: items**2 / 3e7,
        "item_lists": lambda: items**2 / 3e7,
        # The inverse, then what is no product of matrices: counts, copies, and the validation of the fitted model.
        "ease": lambda: items**3 / solving_speed() + items**2 / 5e7,
        "sparse_ease": lambda: items / 700,
    }
    return found[model]() if model in found else 0.0


@cache
def solving_speed() -> float:
    """Return operations a second of an inverse through a Cholesky factor, measured on this machine, once."""
    from scipy.linalg import lapack

    best = float("inf")
    for _ in range(2):
        matrix = np.full((PROBED_ITEMS, PROBED_ITEMS), 0.5, order="F")
        matrix[np.diag_indices(PROBED_ITEMS)] = PROBED_ITEMS
        start = time.perf_counter()
        lapack.dpotri(lapack.dpotrf(matrix, lower=1, overwrite_a=1)[0], lower=1, overwrite_c=1)
        best = min(best, time.perf_counter() - start)
    return float(PROBED_ITEMS**3 / best)


def last_fit_seconds(rung: Rung, *, growth: float = 1.0) -> float | None:
    """Return about how long the last fit of a rung's model takes; None where it has not trained a whole epoch.

    Args:
        rung: judged, so that its time is known.
        growth: events that the last fit learns from, over those that the rung has learnt from.
    """
    if rung.parts:
        taken = [last_fit_seconds(part, growth=growth) for part in rung.parts]
        return None if None in taken else sum((one or 0.0 for one in taken), 0.0)
    if is_closed(rung.model):
        return LAST_FIT_SECONDS + growth * rung.seconds / rung.tries
    if not rung.records:
        return None
    return LAST_FIT_SECONDS + growth * float(rung.records[-1]["seconds"]) * best_epoch(rung) / len(rung.records)


def dearest(rungs: Sequence[Rung], *, closed: bool, growth: float = 1.0) -> float:
    """Return the seconds of the dearest last fit, of closed forms or of models that are trained; 0 where there is none.

    Args:
        rungs: judged; mixtures are passed over, and so is a model that has trained no whole epoch.
        closed: which of the two.
        growth: events that the last fit learns from, over those that the rungs have learnt from.
    """
    taken = [
        last_fit_seconds(rung, growth=growth)
        for rung in rungs
        if rung.validation is not None and not rung.parts and is_closed(rung.model) == closed
    ]
    return max((one for one in taken if one is not None), default=0.0)


def best_epoch(rung: Rung) -> int:
    """Return the epoch with the best validation metric, else the last one; at least 1."""
    judged = [record for record in rung.records if METRIC in record]
    best = max(judged, key=lambda record: record[METRIC]) if judged else {"epoch": len(rung.records)}
    return max(1, int(best["epoch"]))
