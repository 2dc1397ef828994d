"""Temperature: scores are divided by it before the softmax."""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn


class Temperature(nn.Module):
    """Hold 1 / temperature as a module: a constant, or a learned parameter.

    The logarithm is what is learnt, so that it stays positive and steps are relative.

    Args:
        initial: temperature, no unit; 0.05 to 0.2 suits cosines, 1 raw dot products.
        learnable: whether training moves it.

    Raises:
        ValueError: if ``initial`` is not positive and finite.
    """

    def __init__(self, initial: float, *, learnable: bool) -> None:
        super().__init__()
        if not 0.0 < initial < math.inf:
            raise ValueError(f"temperature must be positive and finite, got {initial}")
        start = torch.tensor(-math.log(initial))
        if learnable:
            self.log_scale = nn.Parameter(start)
        else:
            self.register_buffer("log_scale", start)

    def scale(self) -> Tensor:
        """Return 1 / temperature, a scalar."""
        return self.log_scale.exp()
