"""Requests to an engine that stores items, and its answers: what may come back, spare ones, equal scores by id."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TypeAlias

import torch
from torch import Tensor

from twotower.core.conditions import Condition
from twotower.core.records import TopK

Scored: TypeAlias = list[tuple[int, float]]
"""Ids and scores."""

BATCH = 1_000
"""Items sent at a time."""
SPARE = 16
"""Answers asked for beyond those wanted, so that equal scores are cut by id and not by chance."""


@dataclass(frozen=True)
class Where:
    """Describe what may come back."""

    condition: Condition | None = None
    among: Sequence[int] | None = None
    """Ids that alone may come back."""
    without: Sequence[int] = ()
    """Ids that may not."""
    exact: bool = False
    """Whether all that may come back is scored, without the engine's graph."""


def excluded_ids(exclude: Tensor | None, user: int) -> list[int]:
    """Return the ids that one user does not get, each once: of ``exclude`` as `Index.search` takes it."""
    return [] if exclude is None else [id for id in set(exclude[user].tolist()) if id >= 0]


def put_best(answers: TopK, user: int, found: Scored) -> None:
    """Write the best of what was found into a user's row of ``answers``, best first; equal scores: the lower id."""
    best = sorted(found, key=lambda pair: (-pair[1], pair[0]))[: answers.ids.shape[1]]
    answers.ids[user, : len(best)] = torch.tensor([id for id, _ in best], dtype=torch.int64)
    answers.scores[user, : len(best)] = torch.tensor([score for _, score in best])
