"""Dice: an activation whose turning point follows the data."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor, nn


class Dice(nn.Module):
    """p(x) x + (1 - p(x)) α x, with p(x) = sigmoid((x - mean) / sqrt(variance + 1e-8)), channel by channel.

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
        """The activation of each number."""
        norm = self.norm
        if self.training and len(inputs) < 2:  # one row has no variance: use the running one
            scaled = F.batch_norm(inputs, norm.running_mean, norm.running_var, eps=norm.eps)
        else:
            scaled = norm(inputs)
        share = torch.sigmoid(scaled)
        return inputs * torch.lerp(self.alpha, torch.ones_like(share), share)
