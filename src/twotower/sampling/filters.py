"""Filters that keep only hard candidates, by the scores of the current step."""

from __future__ import annotations

from typing import NamedTuple, Protocol, runtime_checkable

import torch
from torch import Tensor

from twotower.core.errors import InputError


class Scored(NamedTuple):
    """Hold what a filter reads.

    Scores are times ``scale``; candidates are shared or a row's own, side by side.

    ``positive`` is [rows]; ``candidates``, ``keep`` (False: masked already) and ``known`` (True: the row's own item or
    another known positive of its user) are [rows, candidates]. ``positive_norms`` [rows] and ``candidate_norms``
    ([candidates] or [rows, candidates]) are squared lengths of the item vectors, None when nobody asked. ``farthest``
    [rows] is scale · (⟨u, v⟩ − ‖v‖² / 2) of the farthest of all the user's known positives v, None when nobody asked.
    """

    positive: Tensor
    candidates: Tensor
    keep: Tensor
    known: Tensor
    positive_norms: Tensor | None = None
    candidate_norms: Tensor | None = None
    scale: Tensor | float = 1.0
    farthest: Tensor | None = None


@runtime_checkable
class HardFilter(Protocol):
    """Narrow the candidates of each row to hard ones.

    log q stays as it is: the sum over items loses terms, so hard means biased.
    """

    needs_norms: bool
    """Whether squared lengths of item vectors must be given."""
    needs_farthest: bool
    """Whether the farthest of all the user's positives must be given: their items are then encoded in each step."""

    def __call__(self, scored: Scored) -> Tensor:
        """Return which candidates still count: bool [rows, candidates]."""
        ...


class Hardest:
    """Keep the ``count`` best-scored candidates of each row (dynamic negative sampling).

    Of the terms of the softmax's sum these are the largest, so what is cut off is small.

    Source: Zhang et al., SIGIR 2013.

    Examples:
        >>> every = torch.ones(1, 4, dtype=torch.bool)
        >>> Hardest(2)(Scored(torch.zeros(1), torch.tensor([[1.0, 4.0, 2.0, 3.0]]), every, ~every))
        tensor([[False,  True, False,  True]])
    """

    needs_norms = False
    needs_farthest = False

    def __init__(self, count: int) -> None:
        if count < 1:
            raise InputError(f"hardest negatives: count must be at least 1, got {count}")
        self.count = count

    def __call__(self, scored: Scored) -> Tensor:
        """Return the best of those that count so far."""
        if self.count >= scored.candidates.shape[1]:
            return scored.keep
        scores = scored.candidates.detach().masked_fill(~scored.keep, float("-inf"))
        best = scores.topk(self.count, dim=1).indices
        return scored.keep & scored.keep.new_zeros(scored.keep.shape).scatter_(1, best, True)


class BelowPositive:
    """Keep candidates that score at most the positive less ``margin``.

    What scores higher may be a positive not seen yet.

    Source: the absolute margin of NV-Retriever (Moreira et al., 2024).
    """

    needs_norms = False
    needs_farthest = False

    def __init__(self, margin: float) -> None:
        self.margin = margin

    def __call__(self, scored: Scored) -> Tensor:
        """Return those low enough."""
        return scored.keep & (scored.candidates <= (scored.positive - self.margin * scored.scale)[:, None])


class WithinMargin:
    """Keep candidates that score above the positive less ``margin``.

    A triplet loss would count the others as 0.

    Source: the margin of the published NGAME (Dahiya et al., WSDM 2023), there 0.3 on cosines; FaceNet (Schroff et al.,
    CVPR 2015) calls them hard and semi-hard.
    """

    needs_norms = False
    needs_farthest = False

    def __init__(self, margin: float) -> None:
        self.margin = margin

    def __call__(self, scored: Scored) -> Tensor:
        """Return those high enough."""
        return scored.keep & (scored.candidates > (scored.positive - self.margin * scored.scale)[:, None])


class WithinRadius:
    """Keep candidates no farther from the user than the farthest of all the user's positives.

    Keep j where ‖u − v_j‖² ≤ r = max over the user's known positives l of ‖u − v_l‖², whether they are among the
    candidates or not. ‖u‖² stands on both sides, so ⟨u, v_j⟩ − ‖v_j‖² / 2 is compared and no distance is formed.
    Scores must be inner products. The step encodes the items that its users know, which costs about what a step of
    the full softmax does.

    Source: sections 3.4 and 3.5 of the negative-sampling report, steps 6 to 8.1. The original NGAME has no radius: see
    `Triplet`.
    """

    needs_norms = True
    needs_farthest = True

    def __call__(self, scored: Scored) -> Tensor:
        """Return those within the radius.

        Raises:
            InputError: if the squared lengths or the farthest positives are not there, as for scores that are no inner
                products.
        """
        near, own = _nearness(scored)
        if scored.farthest is None:
            raise InputError("the radius rule needs the farthest of each user's positives")
        return scored.keep & (near >= own.minimum(scored.farthest)[:, None])


class WithinBatchRadius:
    """Keep candidates no farther from the user than the farthest of the user's positives that the step holds anyway.

    As `WithinRadius`, with the row's own item and the known positives among the candidates in place of all the user's
    positives. It costs nothing more, but where a batch holds few of a user's positives the radius is small, and most
    candidates fall outside. Ours: the report takes all positives.
    """

    needs_norms = True
    needs_farthest = False

    def __call__(self, scored: Scored) -> Tensor:
        """Return those within the radius.

        Raises:
            InputError: if the squared lengths are not there, as for scores that are no inner products.
        """
        near, farthest = _nearness(scored)
        if near.shape[1]:
            # Arithmetic in place of a masked fill, which branches; as bytes, since torch is slow to count booleans.
            others = (~scored.known).view(torch.int8).to(near.dtype)
            farthest = farthest.minimum(torch.add(near, others, alpha=torch.finfo(near.dtype).max / 2.0).amin(1))
        return scored.keep & (near >= farthest[:, None])


def _nearness(scored: Scored) -> tuple[Tensor, Tensor]:
    """Of candidates and of the positive: half the squared distance with the sign turned, less what a row shares."""
    if scored.positive_norms is None or scored.candidate_norms is None:
        raise InputError("the radius rule needs item vectors: choose a model that scores inner products")
    return (
        scored.candidates - scored.candidate_norms * (scored.scale / 2.0),
        scored.positive - scored.positive_norms * (scored.scale / 2.0),
    )
