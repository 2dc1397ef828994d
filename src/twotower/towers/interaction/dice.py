"""Dice: an activation whose turning point adapts to the mean and variance of its input."""

from __future__ import annotations

import torch
from jaxtyping import Float
from torch import Tensor, nn

from twotower.towers.batch_norm import normalised


class Dice(nn.Module):
    """Apply p(x) x + (1 - p(x)) α x, with p(x) = sigmoid((x - mean) / sqrt(variance + 1e-8)), channel by channel.

    Mean and variance are the batch's in training and their running averages otherwise, as in batch normalisation;
    α is learnt, one a channel, from 0.

    Source: Deep Interest Network (Zhou et al., KDD 2018), section 5.3, equation 4.

    Args:
        width: channels.
    """

    def __init__(self, width: int) -> None:
        super().__init__()
        self.norm = nn.BatchNorm1d(width, eps=1e-8, affine=False)
        self.alpha = nn.Parameter(torch.zeros(width))

    def forward(self, inputs: Float[Tensor, "rows width"]) -> Float[Tensor, "rows width"]:
        """Return the activation of each number."""
        share = torch.sigmoid(normalised(self.norm, inputs))
        return inputs * torch.lerp(self.alpha.to(share.dtype), torch.ones_like(share), share)
