"""Softmax cross-entropy of the positive against sampled negatives, corrected for how they were sampled."""

from __future__ import annotations

import torch
from jaxtyping import Bool, Float
from torch import Tensor, nn

from twotower.losses.checks import check_shapes


class SampledSoftmax(nn.Module):
    """The full softmax, with its sum over items estimated from the candidates.

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

    def forward(
        self,
        positive_scores: Float[Tensor, " rows"],
        negative_scores: Float[Tensor, "rows candidates"],
        negative_log_q: Float[Tensor, "*shared candidates"],
        negative_mask: Bool[Tensor, "rows candidates"],
        positive_log_q: Float[Tensor, " rows"] | None = None,
    ) -> Float[Tensor, ""]:
        """The mean over rows, in float32 or wider.

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
        # -inf, not a large finite number: a masked item must not count at any scale.
        negative = (negative_scores - negative_log_q.to(dtype)).masked_fill(~negative_mask, float("-inf"))
        logits = torch.cat([positive[:, None], negative], dim=1)
        return (logits.logsumexp(1) - positive).mean()
