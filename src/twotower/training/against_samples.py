"""A loss of each row's positive against candidates that a sampler draws."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from twotower.core import states
from twotower.core.errors import InputError
from twotower.core.records import Batch, Encoded, Negatives, State
from twotower.data.dataset import Dataset
from twotower.losses.base import Loss
from twotower.models.base import Model
from twotower.sampling.base import Observer, Replayed, Sampler, Stateful
from twotower.sampling.filters import HardFilter, Scored
from twotower.sampling.known import MOST_PADDED, Positives
from twotower.training.distributed import World
from twotower.training.farthest import farthest_positives
from twotower.training.objective import own_losses, with_terms
from twotower.training.regularise import Regulariser
from twotower.training.step_candidates import (
    StepCandidates,
    by_row,
    drawn_ids,
    drawn_number,
    own_rows,
    side_by_side,
    users_of,
    with_gradient_of,
)

TOGETHER = ("cuda",)
"""Kinds of device on which the batch's items and drawn ones are encoded in one call."""
_CACHED = 1 << 17
"""Scores of a chunk that a filter sees at a time on the CPU: half a MiB in float32."""


class AgainstSamples:
    """Compute a loss of each row's positive against candidates that a sampler draws.

    The row's own item and every known positive of its user are masked among the candidates.

    Args:
        dataset: where the features of drawn items are looked up.
        sampler: the source of candidates, or a sum of sources.
        loss: of positive scores, candidate scores, log q and mask.
        positives: the users' known positives in the training log.
        regulariser: terms of the batch's states alone; None: none.
        hard: keeps only hard candidates of those that count; None: all count.
        rescale_bank: states that a memory bank kept take no gradient, so items are pushed away by a part of the
            candidates only, while their own rows still pull in full: popular items drift towards every user. With this,
            the gradient of the shared candidates that were encoded now is scaled to stand for all shared ones. Ours.
        correct_positive: hand the loss the log q of each row's positive too. It is that of the row's own item as an
            in-batch candidate, so the sampler must take the items of all rows; the loss must read it, as its
            ``reads_positive_log_q`` says.
        world: the processes that train as one. The sampler sees the batch of all of them (users and paired items, one
            row a pair), and must draw alike on each; candidates of a row's own go to the rank that holds the row.
    """

    def __init__(
        self,
        dataset: Dataset,
        sampler: Sampler,
        loss: Loss,
        positives: Positives,
        regulariser: Regulariser | None = None,
        *,
        hard: HardFilter | None = None,
        rescale_bank: bool = False,
        correct_positive: bool = False,
        world: World | None = None,
    ) -> None:
        self.world = world or World()
        self.dataset, self.sampler, self.loss, self.positives = dataset, sampler, loss, positives
        self.regulariser = regulariser or Regulariser({})
        self.hard = hard
        self.rescale_bank = rescale_bank
        self.correct_positive = correct_positive

    def __call__(self, model: Model, batch: Batch) -> Tensor:
        """Return the mean over rows."""
        whole = self.world.whole(batch)
        negatives = own_rows(self.sampler.sample(whole.batch), whole.own)
        if model.draws_rows and (negatives.in_batch or negatives.ids.ndim == 2 or negatives.per_row is not None):
            raise InputError(
                f"{type(model).__name__} draws its training rows itself, so its negatives cannot be those of a batch "
                "or of a row: take sources that all rows share, such as uniform, or objective.loss = 'full_softmax'"
            )
        encoded, fresh = self._encode(model, batch, negatives)
        together = self._together(encoded, negatives, whole.batch.items.ids)
        scale = model.logit_scale()
        candidates = self._candidates(model, batch, encoded, negatives, scale, together, fresh)
        if negatives.per_row is not None:
            candidates = side_by_side(
                candidates, self._candidates(model, batch, encoded, negatives.per_row, scale, together)
            )
        own = model.score_rows(encoded.users, encoded.items) * scale
        mask = candidates.mask if self.hard is None else self._hard(model, batch, own, encoded, candidates, scale)
        loss: Tensor
        if self.correct_positive:
            own_log_q = negatives.log_q[: negatives.in_batch][whole.own]
            loss = self.loss(own, candidates.scores, candidates.log_q, mask, own_log_q)
        else:
            loss = self.loss(own, candidates.scores, candidates.log_q, mask)
        if isinstance(self.sampler, Observer):
            self.sampler.observe(together)
        return with_terms(loss, own_losses(encoded), self.regulariser(together))

    def _together(self, encoded: Encoded, negatives: Negatives, ids: Tensor) -> Encoded:
        """The rows of all ranks, where something looks at more than this rank's; candidates are items alone."""
        if self.regulariser.weights:
            return self.world.gather(encoded, ids)
        if isinstance(self.sampler, Observer):
            return self.world.gather(encoded, ids, users="without")
        return self.world.gather(encoded, ids, users="own") if negatives.in_batch else encoded

    def _encode(self, model: Model, batch: Batch, negatives: Negatives) -> tuple[Encoded, State | None]:
        """What `forward` gives and, where they go through the item encoder in one call with the batch's, drawn items.

        On a GPU one long call costs as much as one short call, and repeats among shared draws are few. A model with a
        forward of its own does not let others into it.
        """
        ids = batch.items.ids
        apart = negatives.ids.ndim == 2 or not (ids.device.type in TOGETHER or model.in_one_shape)
        if apart or model.own_forward or not drawn_number(negatives):
            return model(batch), None
        drawn = drawn_ids(negatives)
        both = model.encode_items(self.dataset.items(torch.cat([ids, drawn])))
        own, fresh = (states.take(both, part) for part in (slice(len(ids)), slice(len(ids), None)))
        return Encoded(model.encode_users(batch.users), own, ids, {}), fresh

    def _candidates(
        self,
        model: Model,
        batch: Batch,
        encoded: Encoded,
        negatives: Negatives,
        scale: Tensor | float,
        together: Encoded,
        fresh: State | None = None,
    ) -> StepCandidates:
        states_ = self._states(model, encoded, negatives, together, fresh)
        # Scaling vectors costs less than scaling scores, where that is the same.
        scaled = encoded.users * scale if model.inner_product else encoded.users
        if negatives.ids.ndim == 1:
            scores = model.score(scaled, states_)
        else:
            scores = model.score_rows(scaled, by_row(states_, negatives.ids.shape))
        if not model.inner_product:
            scores = scores * scale
        known = self.positives.contains(users_of(batch, encoded), negatives.ids, encoded.item_ids)
        mask = ~known
        if negatives.keep is not None:
            mask &= negatives.keep
        norms = None
        if self.hard is not None and self.hard.needs_norms:
            norms = states_.detach().square().sum(1).view(negatives.ids.shape)
        return StepCandidates(scores, negatives.log_q, mask, known, norms)

    def _hard(
        self,
        model: Model,
        batch: Batch,
        own: Tensor,
        encoded: Encoded,
        candidates: StepCandidates,
        scale: Tensor | float,
    ) -> Tensor:
        """The filter's mask, row by row of a chunk that fits the cache."""
        assert self.hard is not None
        farthest = None
        if self.hard.needs_farthest:
            users = users_of(batch, encoded)
            farthest = farthest_positives(model, self.dataset, self.positives, users, encoded.users, scale)
        norms = None if candidates.norms is None else encoded.items.detach().square().sum(1)  # type: ignore[union-attr]
        scores, own = candidates.scores.detach(), own.detach()
        scale = scale.detach() if isinstance(scale, Tensor) else scale
        rows, width = scores.shape
        chunk = max(1, _CACHED // max(1, width)) if scores.device.type == "cpu" else max(1, rows)
        mask = candidates.mask
        for start in range(0, rows, chunk):
            part = slice(start, start + chunk)
            others = (
                candidates.norms if candidates.norms is None or candidates.norms.ndim == 1 else candidates.norms[part]
            )
            scored = Scored(
                own[part],
                scores[part],
                mask[part],
                candidates.known[part],
                None if norms is None else norms[part],
                others,
                scale,
                None if farthest is None else farthest[part],
            )
            mask[part] = self.hard(scored)
        return mask

    def _states(
        self, model: Model, encoded: Encoded, negatives: Negatives, together: Encoded, fresh: State | None
    ) -> State:
        """States of all candidates: the batch's own, those the step encodes, those the sampler kept."""
        drawn, taken = drawn_number(negatives), negatives.in_batch
        every = not drawn and taken == states.rows(together.items)  # then no rows are cut out, nor their gradients
        parts = [together.items if every else states.take(together.items, slice(taken))] if taken or not drawn else []
        if drawn:
            parts.append(self._drawn(model, encoded, drawn_ids(negatives)) if fresh is None else fresh)
        if negatives.states is not None:
            encoded_now = negatives.in_batch + drawn
            if self.rescale_bank and encoded_now:
                stand_for = negatives.ids.numel() / encoded_now
                parts = [states.map_state(lambda part: with_gradient_of(part, stand_for), part) for part in parts]
            parts.append(negatives.states)
        return states.join(parts) if len(parts) > 1 else parts[0]

    def _drawn(self, model: Model, encoded: Encoded, drawn: Tensor) -> State:
        """States of drawn items: the batch's own where it holds them, each other one encoded once."""
        distinct, place = drawn.unique(return_inverse=True)
        rows_of = torch.full((self.dataset.schema.num_items,), -1, device=drawn.device)
        rows_of[encoded.item_ids] = torch.arange(len(encoded.item_ids), device=drawn.device)
        at = rows_of[distinct]
        fresh = at < 0
        if self.world.size > 1 and len(fresh):  # ranks whose rows of a table are shared out meet to encode
            fresh[0] = True
        pool = encoded.items
        if fresh.any():
            # By the class's own method: how many they are differs, and a compiled one would be compiled again.
            pool = states.join([pool, type(model).encode_items(model, self.dataset.items(distinct[fresh]))])
        at = torch.where(fresh, len(encoded.item_ids) + fresh.cumsum(0) - 1, at)[place]
        # The gradient of index_select is an index_add, quicker than that of indexing.
        return states.map_state(lambda part: part.index_select(0, at), pool)

    def why_not_replayed(self, rows: int) -> str:
        """Return why a step cannot be captured, "" where it can."""
        if self.regulariser.weights:
            return "objective.regularise is set"
        if self.hard is not None and self.hard.needs_farthest:
            return "sampling.hard = 'radius' looks at all positives of a user"
        if self.positives.longest * rows > MOST_PADDED:
            return f"a user has {self.positives.longest:,} positives, too many to go through without waiting"
        if not type(self.loss).__module__.startswith("twotower."):
            return f"what {type(self.loss).__name__} does at each step is not known"
        if not isinstance(self.sampler, Replayed) or self.sampler.replayed() is None:
            return f"negatives of {type(self.sampler).__name__} differ in number or change as training goes on"
        return ""

    def generators(self) -> list[torch.Generator]:
        """Return those of the sampler."""
        return (self.sampler.replayed() or []) if isinstance(self.sampler, Replayed) else []

    def state_dict(self) -> dict[str, Any]:
        """Return the sampler's state, where it has one."""
        return self.sampler.state_dict() if isinstance(self.sampler, Stateful) else {}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Restore the sampler's state."""
        if isinstance(self.sampler, Stateful):
            self.sampler.load_state_dict(state)
