"""Softmax cross-entropy of the positive against sampled negatives, corrected for how they were sampled."""

from __future__ import annotations

import math
from typing import Any

import torch
from jaxtyping import Bool, Float
from torch import Tensor, nn
from torch.autograd.function import once_differentiable

from twotower.losses.checks import check_shapes


class SampledSoftmax(nn.Module):
    """Compute the softmax cross-entropy with its sum over items estimated from sampled candidates.

    For a row with positive p, candidates j and expected counts q_j, averaged over rows, in nats:

        log(e^{s_p} + Σ_j e^{s_j − log q_j}) − s_p

    q_j is the expected number of times that item j stands among the candidates (draws × probability), so the sum over
    candidates is an unbiased estimate of the sum over items that the sources can draw, less those masked; with many
    draws loss and gradient meet the full softmax. The positive is always there: its log q is 0, and it stands apart.

    With ``positive_log_q`` the positive counts as one more draw instead, s_p − log q_p, as in the paper. A factor
    common to all q then cancels, but with own items masked its estimate does not meet the full softmax.

    Source: Bengio and Senécal 2003 for the estimate; Yi et al., RecSys 2019, section 3 for ``positive_log_q``; equation
    (3.1) of the negative-sampling report. Apart from ``positive_log_q`` the gradient is that of the corrected log-Q
    (RecSys 2025: "Correcting the LogQ Correction"), which weighs each row by 1 − P(positive).

    Examples:
        >>> loss = SampledSoftmax()
        >>> drawn_two_of_four = torch.full((2,), 0.5).log()
        >>> value = loss(torch.zeros(1), torch.zeros(1, 2), drawn_two_of_four, torch.ones(1, 2, dtype=torch.bool))
        >>> bool(torch.isclose(value, torch.tensor(5.0).log()))
        True
    """

    reads_positive_log_q = True

    def forward(
        self,
        positive_scores: Float[Tensor, " rows"],
        negative_scores: Float[Tensor, "rows candidates"],
        negative_log_q: Float[Tensor, "*shared candidates"],
        negative_mask: Bool[Tensor, "rows candidates"],
        positive_log_q: Float[Tensor, " rows"] | None = None,
    ) -> Float[Tensor, ""]:
        """Return the mean over rows, in float32 or wider.

        Args:
            positive_scores: score of each row's own item, divided by the temperature.
            negative_scores: scores of the candidates, divided by the temperature.
            negative_log_q: log of the expected count of each candidate, shared by all rows or a row's own.
            negative_mask: False where a candidate does not count: own item, known positive, duplicate.
            positive_log_q: log of the expected count of the positive, on the same scale; None: it stands apart.

        Raises:
            InputError: if the shapes disagree.
        """
        check_shapes("sampled softmax", positive_scores, negative_scores, negative_log_q, negative_mask)
        dtype = torch.promote_types(positive_scores.dtype, torch.float32)
        positive = positive_scores.to(dtype)
        if positive_log_q is not None:
            positive = positive - positive_log_q.to(dtype)
        log_q = negative_log_q.to(dtype)
        return _SampledSoftmax.apply(positive, negative_scores, log_q, negative_mask, torch.is_grad_enabled())


class _SampledSoftmax(torch.autograd.Function):
    """Loss and gradient in one pass over the scores, chunk by chunk; the plain form reads and writes them ten times."""

    @staticmethod
    def forward(context: Any, positive: Tensor, negative: Tensor, log_q: Tensor, mask: Tensor, wanted: bool) -> Tensor:
        rows, candidates = negative.shape
        chunk = max(1, (_CACHED if negative.device.type == "cpu" else _RESIDENT) // max(candidates, 1))
        if 0 < rows <= chunk and torch.promote_types(negative.dtype, log_q.dtype) == negative.dtype:
            # In one chunk nothing is cut or copied: the weights become the gradient where they lie.
            loss, shares, weights = _of_chunk(positive, negative, log_q, mask, rows, wanted)
            if wanted:
                context.save_for_backward((shares - 1.0) / rows, weights)
            return loss / rows
        negative_grad = torch.empty_like(negative) if wanted else None
        shares = torch.empty_like(positive)
        loss = positive.new_zeros(())
        for start in range(0, rows, chunk):
            part = slice(start, start + chunk)
            of_part = log_q if log_q.ndim == 1 else log_q[part]
            summed, shares[part], weights = _of_chunk(positive[part], negative[part], of_part, mask[part], rows, wanted)
            loss += summed
            if negative_grad is not None:
                negative_grad[part] = weights
        if negative_grad is not None:
            context.save_for_backward((shares - 1.0) / rows, negative_grad)
        return loss / rows

    @staticmethod
    @once_differentiable
    def backward(context: Any, gradient: Tensor) -> tuple[Tensor | None, ...]:
        positive, negative = context.saved_tensors
        return positive * gradient, negative * gradient, None, None, None


def _of_chunk(
    positive: Tensor, negative: Tensor, log_q: Tensor, mask: Tensor, rows: int, wanted: bool
) -> tuple[Tensor, Tensor, Tensor]:
    """The sum of losses, each positive's share, and the gradient of the scores where it is wanted; ``rows`` of all."""
    top, weights = _weights(negative - log_q, mask, positive)
    own = (positive - top).exp()
    total = weights.sum(1) + own
    if wanted:
        weights.mul_((total * rows).reciprocal()[:, None])
    return (total.log() + top - positive).sum().to(positive.dtype), (own / total).to(positive.dtype), weights


def _weights(logits: Tensor, mask: Tensor, positive: Tensor) -> tuple[Tensor, Tensor]:
    """The largest logit of each row, the positive's included, and e^(logit − it) of candidates, 0 where masked."""
    if not logits.shape[1]:
        return positive, logits
    if logits.device.type == "cpu":
        # Arithmetic in place of branches and of exp(−inf): about ten times as quick. As bytes, since torch turns
        # booleans into numbers one by one.
        keep, limits = mask.view(torch.int8).to(logits.dtype), torch.finfo(logits.dtype)
        top = torch.add(logits, keep - 1.0, alpha=limits.max).amax(1).maximum(positive)
        if top.isfinite().all():
            # The clamp keeps exp off subnormal numbers, below e^-78 of the largest term in float32; masked ones are 0.
            return top, logits.sub_(top[:, None]).clamp_(0.9 * math.log(limits.tiny), 0.0).exp_().mul_(keep)
    # -inf, not a large finite number: a masked item must not count at any scale.
    logits = logits.masked_fill_(~mask, float("-inf"))
    top = logits.amax(1).maximum(positive)
    return top, logits.sub_(top[:, None]).exp_()


_CACHED = 1 << 17
"""Logits of a chunk on the CPU: half a MiB in float32, which leaves room in the second-level cache for what is read."""
_RESIDENT = 1 << 26
"""Logits of a chunk on a GPU: 256 MiB in float32."""
