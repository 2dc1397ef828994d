"""Replicas of a model on several ranks: the same weights when training starts, averaged gradients in every step."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from twotower.towers.shared_table import shared_out
from twotower.training import collectives
from twotower.training.distributed import World


def same_weights(world: World, model: nn.Module) -> None:
    """Give every rank the weights and buffers of rank 0, but for its own rows of tables that are shared out."""
    if world.size > 1:
        own = {f"{name}.shard" for name in shared_out(model)}
        with torch.no_grad():
            for part in (part for name, part in model.state_dict().items() if name not in own):
                collectives.of_first(part.view(torch.uint8) if part.dtype == torch.bool else part)


def average_gradients(world: World, model: nn.Module, loss: Tensor) -> Tensor:
    """Make gradients of Σ over this rank's rows those of the mean over all ranks' rows; return the mean loss.

    Which weights have a gradient goes around with the gradients: only a rank that lacks one looks.

    Args:
        world: several processes, whose step at hand this is.
        model: whose gradients are replaced; a weight without one on every rank keeps none.
        loss: sum of this rank's losses.
    """
    weights = [parameter for parameter in model.parameters() if parameter.requires_grad]
    mean = loss.detach().reshape(1).to(torch.promote_types(loss.dtype, torch.float32))
    mine = [weight.grad is not None for weight in weights]
    there = mean.new_ones(len(mine)) if all(mine) else mean.new_tensor(mine)
    parts = [torch.zeros_like(one).flatten() if one.grad is None else one.grad.flatten() for one in weights]
    flat = torch.cat([mean, there, *(part.to(mean.dtype) for part in parts)])
    sums = collectives.summed(flat).div_(world.total())
    place = 1 + len(mine)
    known = mine if all(mine) else [share > 0.0 for share in sums[1:place].tolist()]
    for weight, some in zip(weights, known, strict=True):
        if some:
            weight.grad = sums[place : place + weight.numel()].view_as(weight).to(weight.dtype)
        place += weight.numel()
    return sums[0]
