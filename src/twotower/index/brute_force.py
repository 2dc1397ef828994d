"""Exact search under any score, for models that a vector index cannot serve."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from twotower.core.errors import InputError
from twotower.index.scan import Scan, Score


class BruteForceIndex(Scan):
    """Every item against every user by a score of the caller's, such as ``model.score``.

    Args:
        score: (user states, item states) -> a new tensor [users, items].
        state_kind: the NamedTuple of the item states, as the model's ``state_kind``; None for a plain tensor.
    """

    def __init__(self, score: Score, *, state_kind: type[Any] | None = None) -> None:
        super().__init__(score, state_kind)

    @classmethod
    def load(cls, folder: Path, *, score: Score | None = None, state_kind: type[Any] | None = None) -> BruteForceIndex:
        """Read what `save` wrote. The file holds no score: it has to be handed over again.

        Raises:
            InputError: if no score is given, the file is missing, or it holds other states than ``state_kind``.
        """
        if score is None:
            raise InputError(f"{folder}: a brute-force index needs its model's score; load it with score=model.score")
        index = cls(score, state_kind=state_kind)
        index.restore(folder)
        return index
