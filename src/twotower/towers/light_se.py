"""Light-SE (light squeeze-and-excitation): weights of fields from their means."""

from __future__ import annotations

import torch
from jaxtyping import Float
from torch import Tensor, nn


class LightSE(nn.Module):
    """Weight each field by squeeze and excitation: x + softmax(W mean(x) + b) * x.

    One weight a field from the means of all fields; the fields themselves are added.

    Source: IntTower (Li et al., CIKM 2022), the Light-SE block, with one linear layer in the place of the two of
    squeeze-and-excitation.

    Args:
        fields: how many fields a row has.
    """

    def __init__(self, fields: int) -> None:
        super().__init__()
        self.linear = nn.Linear(fields, fields)

    def forward(self, fields: Float[Tensor, "rows fields dim"]) -> Float[Tensor, "rows fields dim"]:
        """Return the fields, each 1 to 2 times as large."""
        weights = torch.softmax(self.linear(fields.mean(dim=-1)), dim=-1)
        return fields + weights[:, :, None] * fields
