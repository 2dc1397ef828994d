"""Losses that treat each pair alone: labels, or one positive with sampled negatives."""

from __future__ import annotations

import torch
from jaxtyping import Bool, Float
from torch import Tensor, nn
from torch.nn import functional

from twotower.core.errors import InputError, shown
from twotower.losses.checks import check_shapes


def binary_cross_entropy(scores: Float[Tensor, " rows"], labels: Float[Tensor, " rows"]) -> Float[Tensor, ""]:
    """Return the mean of −y log σ(s) − (1 − y) log(1 − σ(s)) over rows, in nats; labels are 0 to 1.

    Raises:
        InputError: if the shapes disagree or there are no rows.

    Examples:
        >>> round(binary_cross_entropy(torch.zeros(4), torch.tensor([1.0, 0.0, 0.0, 1.0])).item(), 4)
        0.6931
    """
    if scores.shape != labels.shape or not scores.numel():
        raise InputError(
            f"binary cross-entropy: expected scores and labels of one shape, got {tuple(scores.shape)} and "
            f"{tuple(labels.shape)}"
        )
    dtype = torch.promote_types(scores.dtype, torch.float32)
    return functional.binary_cross_entropy_with_logits(scores.to(dtype), labels.to(dtype))


class SampledBCE(nn.Module):
    """Compute binary cross-entropy (BCE) of one positive and its sampled negatives; with calibration, gBCE.

    For a row with positive p and the negatives that count, N of them, averaged over rows, in nats:

        (β · softplus(−s_p) + Σ_j softplus(s_j)) / (1 + N)

    β = 1 is plain BCE. gBCE takes β = α (t (1 − 1/α) + 1/α) with α = N' / (items − 1), N' the number of candidates: at
    t = 0 it is plain BCE, at t = 1 scores are calibrated as if every item had been a negative. log q is not used:
    a candidate counts once however likely it was, which is what makes BCE over-confident.

    Source: Petrov and Macdonald, RecSys 2023, equations 7, 8 and 11; β = 1: Kang and McAuley, ICDM 2018. Difference:
    SASRec adds the terms up, here they are averaged, as in gBCE.

    Args:
        num_items: known items; needed for ``calibration`` over 0.
        calibration: t above, 0 to 1.

    Raises:
        InputError: if ``calibration`` is out of range, or over 0 without ``num_items``.
    """

    def __init__(self, *, num_items: int | None = None, calibration: float = 0.0) -> None:
        super().__init__()
        if not 0.0 <= calibration <= 1.0:
            raise InputError(f"gBCE: calibration t must lie between 0 and 1, got {shown(calibration)}")
        if calibration and (num_items is None or num_items < 2):
            raise InputError(f"gBCE: calibration needs the number of items, at least 2, got {shown(num_items)}")
        self.num_items = num_items
        self.calibration = calibration

    def beta(self, num_negatives: int) -> float:
        """Return the power of the positive's probability.

        Raises:
            InputError: if more negatives are drawn than there are other items.

        Examples:
            >>> round(SampledBCE(num_items=101, calibration=1.0).beta(10), 4), SampledBCE().beta(10)
            (0.1, 1.0)
        """
        if not self.calibration or self.num_items is None:
            return 1.0
        rate = num_negatives / (self.num_items - 1)
        if not 0.0 < rate <= 1.0:
            raise InputError(
                f"gBCE: {num_negatives} negatives of {self.num_items - 1} other items; draw between 1 and all of them"
            )
        return rate * (self.calibration * (1.0 - 1.0 / rate) + 1.0 / rate)

    def forward(
        self,
        positive_scores: Float[Tensor, " rows"],
        negative_scores: Float[Tensor, "rows candidates"],
        negative_log_q: Float[Tensor, "*shared candidates"],
        negative_mask: Bool[Tensor, "rows candidates"],
        positive_log_q: Float[Tensor, " rows"] | None = None,
    ) -> Float[Tensor, ""]:
        """Return the mean over rows, in float32 or wider; scores are divided by the temperature.

        Raises:
            InputError: if the shapes disagree.
        """
        check_shapes("BCE", positive_scores, negative_scores, negative_log_q, negative_mask)
        dtype = torch.promote_types(positive_scores.dtype, torch.float32)
        positive = self.beta(negative_scores.shape[1]) * functional.softplus(-positive_scores.to(dtype))
        negative = functional.softplus(negative_scores.to(dtype)).masked_fill(~negative_mask, 0.0)
        return ((positive + negative.sum(1)) / (1 + negative_mask.sum(1))).mean()


class GBCE(SampledBCE):
    """Compute generalised binary cross-entropy (gBCE) at calibration 0.75, the value that its paper recommends.

    Source: Petrov and Macdonald, RecSys 2023; see `SampledBCE`.
    """

    @classmethod
    def for_catalogue(cls, num_items: int) -> GBCE:
        """Return the loss for a catalogue of ``num_items`` known items."""
        return cls(num_items=num_items, calibration=0.75)
