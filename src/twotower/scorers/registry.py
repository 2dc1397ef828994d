"""Registry of scorers. Add one of ours by its file and one line here; one of your own by `SCORERS.register`."""

from __future__ import annotations

import inspect
from collections.abc import Callable
from typing import Any

from twotower.core.registry import Registry
from twotower.scorers.base import Scorer

SCORERS: Registry[Callable[..., Any]] = Registry(
    "score",
    "twotower.SCORERS",
    {
        "cosine": "twotower.scorers.cosine:Cosine",
        "dot": "twotower.scorers.dot:Dot",
        "mlp": "twotower.scorers.mlp_scorer:MLPScorer",
    },
    group="twotower.scorers",
)


def build_scorer(name: str, dim: int) -> Scorer:
    """Build the scorer of a name; one that takes ``dim``, the width of the vectors, is given it.

    Raises:
        InputError: if no scorer has that name; names the closest.
    """
    found = SCORERS.get(name)
    scorer: Scorer = found(dim=dim) if "dim" in inspect.signature(found).parameters else found()
    return scorer
