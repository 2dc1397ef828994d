"""Objectives: from one batch to a scalar, by the negatives of the positives and the loss that compares them."""

from __future__ import annotations

from typing import Any, NamedTuple, Protocol, runtime_checkable

import torch
from torch import Tensor

from twotower.core import states
from twotower.core.errors import InputError
from twotower.core.records import FIRST_KNOWN, Batch, Encoded, Negatives, State
from twotower.data.dataset import Dataset
from twotower.losses.base import Loss
from twotower.losses.full_softmax import full_softmax
from twotower.losses.pointwise import binary_cross_entropy
from twotower.models.base import Model
from twotower.sampling.base import Observer, Sampler, Stateful
from twotower.sampling.filters import HardFilter, Scored
from twotower.sampling.known import Positives
from twotower.training.distributed import World
from twotower.training.farthest import farthest_positives
from twotower.training.regularise import Regulariser


@runtime_checkable
class Objective(Protocol):
    """Reduce one batch to a scalar, in nats a row."""

    def __call__(self, model: Model, batch: Batch) -> Tensor:
        """Return the loss, with its graph."""
        ...

    def state_dict(self) -> dict[str, Any]:
        """Return the state that a resumed run needs of its samplers."""
        ...

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Restore what `state_dict` gave."""
        ...


class Stateless:
    """Hold nothing that a resumed run needs."""

    def state_dict(self) -> dict[str, Any]:
        """Return nothing: it draws nothing."""
        return {}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Take nothing."""


class AgainstAll(Stateless):
    """Compute the full softmax: every item is a negative of every row. All candidates are encoded once a step.

    An item without training events would be a negative in every step and a positive in none, so that training would
    teach that nobody wants it. ``seen`` leaves such items out.

    Args:
        dataset: whose items are encoded.
        regulariser: terms of the states alone; None: none.
        seen: whether each item has training events, bool [items]; None: all items are candidates.
        world: the processes that train as one; each takes its rows over the whole table.
    """

    def __init__(
        self,
        dataset: Dataset,
        regulariser: Regulariser | None = None,
        seen: Tensor | None = None,
        *,
        world: World | None = None,
    ) -> None:
        self.items, self.slots = dataset.all_items(), None
        if seen is not None and not seen[FIRST_KNOWN:].all():
            candidates = seen.clone()
            candidates[:FIRST_KNOWN] = True
            self.items = dataset.items(candidates.nonzero()[:, 0])
            self.slots = candidates.long().cumsum(0) - 1
        self.regulariser, self.world = regulariser or Regulariser({}), world or World()

    def __call__(self, model: Model, batch: Batch) -> Tensor:
        """Return the mean over rows."""
        encoded = model(batch)
        table = model.encode_items(self.items)
        targets = encoded.item_ids if self.slots is None else self.slots[encoded.item_ids]
        loss = full_softmax(encoded.users, table, targets, model.logit_scale())
        if not self.regulariser.weights:
            return loss + own_losses(encoded)
        return (
            loss
            + own_losses(encoded)
            + self.regulariser(self.world.gather(encoded._replace(item_ids=targets, items=None)), table)
        )


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
        negatives = _own_rows(self.sampler.sample(whole.batch), whole.own)
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
            candidates = _side_by_side(
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
        return loss + own_losses(encoded) + self.regulariser(together)

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
        drawn = _drawn_ids(negatives)
        apart = negatives.ids.ndim == 2 or not len(drawn) or drawn.device.type not in TOGETHER
        if apart or model.own_forward:
            return model(batch), None
        ids = batch.items.ids
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
    ) -> _Candidates:
        states_ = self._states(model, encoded, negatives, together, fresh)
        # Scaling vectors costs less than scaling scores, where that is the same.
        scaled = encoded.users * scale if model.inner_product else encoded.users
        if negatives.ids.ndim == 1:
            scores = model.score(scaled, states_)
        else:
            scores = model.score_rows(scaled, by_row(states_, negatives.ids.shape))
        if not model.inner_product:
            scores = scores * scale
        known = self.positives.contains(_users_of(batch, encoded), negatives.ids, encoded.item_ids)
        mask = ~known
        if negatives.keep is not None:
            mask &= negatives.keep
        norms = None
        if self.hard is not None and self.hard.needs_norms:
            norms = states_.detach().square().sum(1).view(negatives.ids.shape)
        return _Candidates(scores, negatives.log_q, mask, known, norms)

    def _hard(
        self,
        model: Model,
        batch: Batch,
        own: Tensor,
        encoded: Encoded,
        candidates: _Candidates,
        scale: Tensor | float,
    ) -> Tensor:
        """The filter's mask, row by row of a chunk that fits the cache."""
        assert self.hard is not None
        farthest = None
        if self.hard.needs_farthest:
            users = _users_of(batch, encoded)
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
        drawn = _drawn_ids(negatives)
        parts = [states.take(together.items, slice(negatives.in_batch))]
        if len(drawn):
            parts.append(self._drawn(model, encoded, drawn) if fresh is None else fresh)
        if negatives.states is not None:
            encoded_now = negatives.in_batch + len(drawn)
            if self.rescale_bank and encoded_now:
                stand_for = negatives.ids.numel() / encoded_now
                parts = [states.map_state(lambda part: _with_gradient_of(part, stand_for), part) for part in parts]
            parts.append(negatives.states)
        return states.join(parts)

    def _drawn(self, model: Model, encoded: Encoded, drawn: Tensor) -> State:
        """States of drawn items: the batch's own where it holds them, each other one encoded once."""
        distinct, place = drawn.unique(return_inverse=True)
        rows_of = torch.full((self.dataset.schema.num_items,), -1, device=drawn.device)
        rows_of[encoded.item_ids] = torch.arange(len(encoded.item_ids), device=drawn.device)
        at = rows_of[distinct]
        fresh = at < 0
        pool = encoded.items
        if fresh.any():
            pool = states.join([pool, model.encode_items(self.dataset.items(distinct[fresh]))])
        at = torch.where(fresh, len(encoded.item_ids) + fresh.cumsum(0) - 1, at)[place]
        # The gradient of index_select is an index_add, quicker than that of indexing.
        return states.map_state(lambda part: part.index_select(0, at), pool)

    def state_dict(self) -> dict[str, Any]:
        """Return the sampler's state, where it has one."""
        return self.sampler.state_dict() if isinstance(self.sampler, Stateful) else {}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Restore the sampler's state."""
        if isinstance(self.sampler, Stateful):
            self.sampler.load_state_dict(state)


class _Candidates(NamedTuple):
    """What the loss and a filter need to know of candidates.

    ``scores`` (over the temperature), ``mask`` (False: does not count) and ``known`` (the row's own item, or another
    positive of its user) are [rows, candidates]; ``log_q`` and ``norms`` (squared lengths, where asked for) are
    [candidates] or [rows, candidates].
    """

    scores: Tensor
    log_q: Tensor
    mask: Tensor
    known: Tensor
    norms: Tensor | None


def _own_rows(negatives: Negatives, own: slice) -> Negatives:
    """Shared candidates as they are, and of those that each row has for itself the rows of this rank."""
    if own == slice(None):
        return negatives
    ids, log_q, keep = (
        part[own] if part is not None and part.ndim == 2 else part
        for part in (negatives.ids, negatives.log_q, negatives.keep)
    )
    assert ids is not None
    assert log_q is not None
    per_row = None if negatives.per_row is None else _own_rows(negatives.per_row, own)
    return negatives._replace(ids=ids, log_q=log_q, keep=keep, per_row=per_row)


def _drawn_ids(negatives: Negatives) -> Tensor:
    """The candidates that the step must encode: neither the batch's own nor kept ones, one after the other."""
    ids = negatives.ids.flatten()
    kept = 0 if negatives.states is None else states.rows(negatives.states)
    return ids[negatives.in_batch : len(ids) - kept]


TOGETHER = ("cuda",)
"""Kinds of device on which the batch's items and drawn ones are encoded in one call."""


def _with_gradient_of(part: Tensor, many: float) -> Tensor:
    """The same numbers, up to rounding, with ``many`` times the gradient."""
    return part * many - (part * (many - 1.0)).detach() if part.requires_grad else part


def _side_by_side(shared: _Candidates, own: _Candidates) -> _Candidates:
    """Shared candidates, then those of each row's own."""
    joined = (
        None if left is None or right is None else torch.cat([left.expand(len(right), left.shape[-1]), right], dim=1)
        for left, right in zip(shared, own._replace(log_q=own.log_q.expand_as(own.scores)), strict=True)
    )
    return _Candidates(*joined)  # type: ignore[arg-type]


_CACHED = 1 << 17
"""Scores of a chunk that a filter sees at a time on the CPU: half a MiB in float32."""


def _users_of(batch: Batch, encoded: Encoded) -> Tensor:
    """The user of each row that was encoded."""
    return batch.users.ids if encoded.user_rows is None else batch.users.ids[encoded.user_rows]


class AgainstLabels(Stateless):
    """Compute binary cross-entropy of the rows' own labels."""

    def __init__(self, regulariser: Regulariser | None = None, *, world: World | None = None) -> None:
        self.regulariser, self.world = regulariser or Regulariser({}), world or World()

    def __call__(self, model: Model, batch: Batch) -> Tensor:
        """Return the mean over rows."""
        assert batch.labels is not None
        encoded = model(batch)
        scores = model.score_rows(encoded.users, encoded.items) * model.logit_scale()
        together = self.world.gather(encoded) if self.regulariser.weights else encoded
        return binary_cross_entropy(scores, batch.labels) + own_losses(encoded) + self.regulariser(together)


def own_losses(encoded: Encoded) -> Tensor | float:
    """Return the sum of the model's own losses."""
    return sum(encoded.losses.values()) if encoded.losses else 0.0


def by_row(candidates: State, shape: torch.Size) -> State:
    """Return states of flattened candidates as [rows, candidates, …]."""
    return states.map_state(lambda part: part.view(*shape, *part.shape[1:]), candidates)
