"""Losses that compare the positive with each negative."""

from __future__ import annotations

import torch
from jaxtyping import Bool, Float
from torch import Tensor, nn
from torch.nn import functional

from twotower.core.errors import InputError, shown
from twotower.losses.checks import check_shapes


class BPR(nn.Module):
    """Compute Bayesian personalised ranking (BPR): mean of −log σ(s_p − s_j) over negatives and rows, in nats.

    log q is not used: a candidate counts once however likely it was. A row without negatives counts 0.

    Source: Rendle et al., UAI 2009. Difference: several negatives a row are averaged.

    Examples:
        >>> mask = torch.ones(1, 2, dtype=torch.bool)
        >>> round(BPR()(torch.zeros(1), torch.zeros(1, 2), torch.zeros(2), mask).item(), 4)
        0.6931
    """

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
        check_shapes("BPR", positive_scores, negative_scores, negative_log_q, negative_mask)
        dtype = torch.promote_types(positive_scores.dtype, torch.float32)
        gaps = negative_scores.to(dtype) - positive_scores.to(dtype)[:, None]
        losses = functional.softplus(gaps).masked_fill(~negative_mask, 0.0)
        return (losses.sum(1) / negative_mask.sum(1).clamp(min=1)).mean()


class Triplet(nn.Module):
    """Compute the triplet loss: mean over rows of max(0, margin + s_j − s_p) of the hardest negatives.

    The negatives of a row are its ``hardest`` highest-scored ones. Their violations are averaged, or, with
    ``weight_temperature``, weighted by a softmax over the violating scores at that temperature; the weights are
    constants to the gradient. margin 0.3, hardest 10 and weight temperature 0.1 on cosines (model temperature 1) are
    NGAME's own. log q is not used. A row without a violation counts 0.

    Source: NGAME, WSDM 2023 (Dahiya et al.), section 3, and its published settings. Difference: the weights of a row
    sum to 1 and take no gradient.

    Args:
        margin: in units of the scores as they come, after the temperature.
        hardest: negatives a row that count; None: all.
        weight_temperature: of the softmax over violations, in the same units; None: plain mean.

    Raises:
        InputError: if a setting is not positive.
    """

    def __init__(
        self, *, margin: float = 0.3, hardest: int | None = 10, weight_temperature: float | None = 0.1
    ) -> None:
        super().__init__()
        for name, value in (("margin", margin), ("hardest", hardest), ("weight_temperature", weight_temperature)):
            if value is not None and not 0 < value < float("inf"):
                raise InputError(f"triplet loss: {name} must be positive and finite, got {shown(value)}")
        self.margin = margin
        self.hardest = hardest
        self.weight_temperature = weight_temperature

    def forward(
        self,
        positive_scores: Float[Tensor, " rows"],
        negative_scores: Float[Tensor, "rows candidates"],
        negative_log_q: Float[Tensor, "*shared candidates"],
        negative_mask: Bool[Tensor, "rows candidates"],
        positive_log_q: Float[Tensor, " rows"] | None = None,
    ) -> Float[Tensor, ""]:
        """Return the mean over rows, in float32 or wider, in units of the scores.

        Raises:
            InputError: if the shapes disagree.
        """
        check_shapes("triplet loss", positive_scores, negative_scores, negative_log_q, negative_mask)
        dtype = torch.promote_types(positive_scores.dtype, torch.float32)
        positive, negative = positive_scores.to(dtype), negative_scores.to(dtype)
        if self.hardest is not None and self.hardest < negative.shape[1]:
            place = negative.detach().masked_fill(~negative_mask, float("-inf")).topk(self.hardest, dim=1).indices
            negative, negative_mask = negative.gather(1, place), negative_mask.gather(1, place)
        violations = (self.margin + negative - positive[:, None]).clamp(min=0.0).masked_fill(~negative_mask, 0.0)
        if self.weight_temperature is None:
            return (violations.sum(1) / negative_mask.sum(1).clamp(min=1)).mean()
        sharpened = (violations.detach() / self.weight_temperature).masked_fill(violations == 0, float("-inf"))
        weights = sharpened.softmax(1).nan_to_num(0.0)  # a row without violations is 0/0
        return (weights * violations).sum(1).mean()
