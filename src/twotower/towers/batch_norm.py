"""Batch normalisation that also takes a batch of one row."""

from __future__ import annotations

import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor, nn


def normalised(norm: nn.BatchNorm1d, inputs: Float[Tensor, "rows width"]) -> Float[Tensor, "rows width"]:
    """Apply ``norm`` to the rows; a single row in training is normalised by the running mean and variance.

    Such a row comes last where a batch size leaves a remainder of one.
    """
    if norm.training and len(inputs) < 2:
        return F.batch_norm(inputs, norm.running_mean, norm.running_var, norm.weight, norm.bias, eps=norm.eps)
    return norm(inputs)
