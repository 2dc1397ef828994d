"""Parts of FIT that are ready before requests come: tables of its weights, and compiled passes."""

from __future__ import annotations

from typing import NamedTuple

import torch

from twotower.core.errors import InputError
from twotower.models.fit.native import NativeScores
from twotower.models.fit.tables import UserTables
from twotower.models.fit.triton import Scores, UserPass, compiled_scores, compiled_user_pass
from twotower.scorers.heads import HeadScorer


class Ready(NamedTuple):
    """Hold what is computed from a model's weights before requests come."""

    tables: UserTables | None = None
    scores: Scores | None = None
    user_pass: UserPass | None = None

    def compiled(self, scorer: HeadScorer, head_dim: int, device: torch.device) -> Ready:
        """Compile a single user's request, and return it beside the tables: the scores, on a GPU the user's pass too.

        Args:
            scorer: of the model.
            head_dim: width of a head.
            device: of the model.

        Raises:
            InputError: if the scorer is not "lss", the device is of another kind, or on a CPU the C compiler is
                missing or fails.
        """
        if device.type == "cuda":
            return self._replace(scores=compiled_scores(scorer), user_pass=compiled_user_pass())
        if device.type == "cpu":
            return self._replace(scores=NativeScores(scorer, head_dim), user_pass=None)
        raise InputError(f"requests are compiled for a CPU or CUDA, this model is on '{device.type}'")
