"""Second stage for many users at once: what the first stage found, in the order of a pipeline."""

from __future__ import annotations

import logging

import torch
from jaxtyping import Int
from torch import Tensor

from twotower.core.errors import InputError, shown
from twotower.core.records import PADDING, TopK
from twotower.core.states import map_state
from twotower.data.log import NO_ITEM
from twotower.models.base import prepare_serving
from twotower.models.mixture import mix
from twotower.models.rank import gather
from twotower.ops.topk import top_k
from twotower.serving.pipeline import Pipeline

log = logging.getLogger(__name__)

CPU_PAIRS, CUDA_PAIRS = 65_536, 262_144
"""Pairs of user and candidate that are scored at a time."""
CHUNK = 16_384
"""Users whose ids are compared at a time."""


class SecondStage:
    """Order the candidates of many users as `Pipeline.recommend` does for one, in bounded memory.

    A user of whom the pre-ranker has neither a history nor features keeps the first stage's order; they are counted in
    ``unordered``.

    Args:
        pipeline: of the two bundles.
        k: items of a user, at most.

    Raises:
        InputError: if ``k`` is above the number of candidates.
    """

    def __init__(self, pipeline: Pipeline, k: int) -> None:
        if k > pipeline.candidates:
            raise InputError(f"k = {k} of {pipeline.candidates} candidates: ask for fewer, or for more candidates")
        self.k, self.weight, self.unordered = k, pipeline.weight, 0
        self.first, self.second = pipeline.retriever.bundle, pipeline.ranker.bundle
        self.depth = min(pipeline.candidates, len(self.first.item_ids))
        """Candidates that the first stage has to find."""
        name = "vocabulary/users.parquet"
        self._same_users = self.first.manifest["hashes"].get(name) == self.second.manifest["hashes"].get(name)
        prepare_serving(self.second.model)
        self._order = self.second.item_ids.argsort()
        self._sorted = self.second.item_ids[self._order]

    def check_users(self, rows: Int[Tensor, " users"]) -> None:
        """Refuse users of the first stage that the second one does not know.

        Raises:
            InputError: says how many there are, and one of them.
        """
        if self._same_users:
            return
        missing: list[str] = []
        for chunk in rows.split(CHUNK):
            ids = self.first.user_vocabulary.ids(chunk.tolist())
            known = self.second.user_vocabulary.known(ids)
            missing += [id for id in ids if id not in known]
        if missing:
            raise InputError(
                f"{self.second.folder} does not know {len(missing):,} of the users, such as {shown(missing[0])}: train "
                "both on the same prepared data, or name users that both know by --users"
            )

    @torch.inference_mode()
    def order(self, rows: Int[Tensor, " users"], found: TopK) -> TopK:
        """Return the best ``k`` of what the first stage found for each user, by rows of that stage's bundle."""
        if self.weight == 0.0:
            return TopK(found.scores[:, : self.k], found.ids[:, : self.k])
        budget = CUDA_PAIRS if self.second.device.type == "cuda" else CPU_PAIRS
        parts = [
            self._ordered(rows[some], TopK(found.scores[some], found.ids[some]))
            for some in torch.arange(len(rows), device=rows.device).split(max(1, budget // max(1, found.ids.shape[1])))
        ]
        return TopK(torch.cat([part.scores for part in parts]), torch.cat([part.ids for part in parts]))

    def _ordered(self, rows: Tensor, found: TopK) -> TopK:
        model, bundle = self.second.model, self.second
        users = bundle.users(self._rows(rows))
        ids = found.ids.to(bundle.device).sort(dim=1).values  # of equal scores the lower id comes first
        places = self._order[torch.searchsorted(self._sorted, ids.clamp(min=int(self._sorted[0])))]
        states = gather(bundle.item_states, places.flatten())
        by_user = map_state(lambda part: part.unflatten(0, places.shape), states)
        scores = model.score_rows(model.encode_users(users), by_user).float().masked_fill(ids == NO_ITEM, -torch.inf)
        wanted = ids.shape[1] if self.weight < 1.0 else min(self.k, ids.shape[1])
        best = top_k(scores, wanted)
        chosen = ids.gather(1, best.ids.clamp(min=0)).masked_fill(best.ids < 0, NO_ITEM)
        first = TopK(found.scores.to(bundle.device), found.ids.to(bundle.device))
        answer = TopK(best.scores, chosen)
        if self.weight < 1.0:
            answer = mix(first, answer, self.weight, min(self.k, ids.shape[1]))
        if not bundle.schema.user_features:
            strange = ~(users.history != PADDING).any(dim=1)
            self.unordered += int(strange.sum())
            width = answer.ids.shape[1]
            answer = TopK(
                torch.where(strange[:, None], first.scores[:, :width], answer.scores),
                torch.where(strange[:, None], first.ids[:, :width], answer.ids),
            )
        return answer

    def _rows(self, rows: Tensor) -> Tensor:
        """The rows of the same users in the second bundle."""
        if self._same_users:
            return rows.to(self.second.device)
        known = self.second.user_vocabulary.rows(self.first.user_vocabulary.ids(rows.tolist()))
        return torch.tensor(known, dtype=torch.int64, device=self.second.device)

    def tell(self) -> None:
        """Log a warning of users who kept the first stage's order."""
        if self.unordered:
            log.warning(
                "%d users have neither a history nor features in %s: they keep the first stage's order and scores",
                self.unordered,
                self.second.folder,
            )
