"""Batch normalisation that a batch of one row does not stop."""

from __future__ import annotations

import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor, nn


def normalised(norm: nn.BatchNorm1d, inputs: Float[Tensor, "rows width"]) -> Float[Tensor, "rows width"]:
    """What ``norm`` makes of the rows; in training one row, which has no variance, is measured by the running one.

    Such a row comes last where a batch size leaves a remainder of one.
    """
    if norm.training and len(inputs) < 2:
        return F.batch_norm(inputs, norm.running_mean, norm.running_var, norm.weight, norm.bias, eps=norm.eps)
    return norm(inputs)
