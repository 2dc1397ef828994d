"""Captured ranking: on a GPU, every kernel of a request captured once and replayed as one launch."""

from __future__ import annotations

import torch
from jaxtyping import Int
from torch import Tensor

from twotower.core.errors import InputError
from twotower.core.records import FIRST_KNOWN, State, TopK, Users
from twotower.core.states import rows
from twotower.models.base import Model, prepared_of
from twotower.models.rank import check_all_items, ordered_candidates
from twotower.ops.cuda_graph import recorded

WARM_UPS = 3


class CapturedRank:
    """Run `rank` of one user and a fixed number of candidates as one launch.

    On a GPU, launches are most of a request.

    Shapes are those of ``users`` and ``candidates``, which serve as an example. Item states are read where they lie. So
    are weights, but for what `prepare_serving` and a compiled scorer copied: capture anew after weights changed.

    Args:
        model: on a GPU, in evaluation mode; `prepare_serving` makes it quicker.
        item_states: states of all items, row number = id.
        users: one user.
        candidates: as many item ids as each request will have.
        k: length of the answer, at most the number of candidates.

    Raises:
        InputError: if the states are not on a GPU, there is more than one user, or the example cannot be ranked.
    """

    def __init__(
        self, model: Model, item_states: State, users: Users, candidates: Int[Tensor, " candidates"], k: int
    ) -> None:
        if users.history.device.type != "cuda":
            raise InputError("only work on a GPU can be captured; use rank on the CPU")
        if len(users.ids) != 1 or candidates.ndim != 1:
            raise InputError("captured ranking takes one user and one list of candidates")
        check_all_items(model, item_states)
        ordered_candidates(candidates, rows(item_states))
        if not 1 <= k <= len(candidates):
            raise InputError(f"k must be between 1 and the {len(candidates)} candidates, got {k}")
        self.model, self.item_states, self.k = model, item_states, k
        self.num_items = rows(item_states)
        self.prepared = prepared_of(model)  # kept, since the graph reads it
        self.users, self.candidates = _copy(users), candidates.clone()
        self.side = torch.cuda.Stream()
        with torch.inference_mode():
            stream = torch.cuda.Stream()
            stream.wait_stream(torch.cuda.current_stream())
            with torch.cuda.stream(stream):
                for _ in range(WARM_UPS):
                    self._work()
            torch.cuda.current_stream().wait_stream(stream)
            self.replay, self.answer = recorded(self._work)
        self.host = torch.empty_like(self.answer, device="cpu", pin_memory=True)

    def __call__(self, users: Users, candidates: Int[Tensor, " candidates"]) -> TopK:
        """Return the best ``k`` of the candidates, on the host; equal scores: the lower id first.

        Raises:
            InputError: if shapes differ from the example's, a candidate is unknown or stands twice, or the model was
                prepared anew or trained since.
        """
        if prepared_of(self.model) is not self.prepared:
            raise InputError("the model has changed since its request was captured; make a new CapturedRank")
        if candidates.shape != self.candidates.shape or users.history.shape != self.users.history.shape:
            raise InputError(
                f"captured for {len(self.candidates)} candidates and a history of {self.users.history.shape[1]}, "
                f"got {len(candidates)} and {users.history.shape[-1]}"
            )
        self.candidates.copy_(candidates, non_blocking=True)
        for old, new in zip(_tensors(self.users), _tensors(users), strict=True):
            old.copy_(new, non_blocking=True)
        self.replay()
        self.host.copy_(self.answer, non_blocking=True)
        torch.cuda.current_stream().synchronize()
        if self.host[-1]:
            ordered_candidates(candidates, self.num_items)
        scores = self.host[: self.k].view(torch.float32).clone()
        return TopK(scores[None], self.host[self.k : 2 * self.k].long()[None])

    def _work(self) -> Tensor:
        """Scores, ids and one flag as int32 [2 k + 1], so that one copy brings them all to the host."""
        here = torch.cuda.current_stream()
        self.side.wait_stream(here)
        with torch.cuda.stream(self.side):  # the user is encoded while candidates are sorted and checked
            users = self.model.encode_users(self.users)
        ids = self.candidates.sort().values
        bad = (ids[0] < FIRST_KNOWN) | (ids[-1] >= self.num_items) | (ids[1:] == ids[:-1]).any()
        # What may not be ranked must not be read either.
        known = ids.clamp(0, self.num_items - 1)
        here.wait_stream(self.side)
        scores = self.model.score_among(users, self.item_states, known)[0].float()
        best, place = scores.sort(descending=True, stable=True)
        answer = [best[: self.k].view(torch.int32), ids[place[: self.k]].int(), bad[None].int()]
        return torch.cat(answer)


def _tensors(users: Users) -> list[Tensor]:
    parts = [users.ids, users.history, *(users.features[name] for name in sorted(users.features))]
    return parts if users.history_times is None else [*parts, users.history_times]


def _copy(users: Users) -> Users:
    times = None if users.history_times is None else users.history_times.clone()
    return Users(users.ids.clone(), {k: v.clone() for k, v in users.features.items()}, users.history.clone(), times)
