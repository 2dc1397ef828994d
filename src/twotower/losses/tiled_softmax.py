"""Softmax cross-entropy over a very large catalogue: items in tiles, their logits made again for the gradient."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

from twotower.core.records import FIRST_KNOWN


class TiledSoftmax(torch.autograd.Function):
    """Compute what `full_softmax` computes, a tile of items at a time instead of a chunk of rows.

    The loss needs one pass over the items, which keeps the log of each row's sum; the gradient makes the logits of each
    tile once more, and writes the gradient of its items in one go. Beside the gradients nothing is as large as the
    catalogue. It costs four matrix products in place of three, but reads the items twice in all, where chunks of rows
    read items and the sum of their gradients once a chunk: the better way where few rows of logits fit.
    """

    @staticmethod
    def forward(
        context: Any,
        users: Tensor,
        items: Tensor,
        targets: Tensor,
        scale: Tensor | float,
        bias: Tensor | None,
        tile: int,
        product: torch.dtype,
    ) -> Tensor:
        """Return the mean over rows; products run in ``product``, sums in float32 or wider."""
        exact = torch.promote_types(torch.promote_types(users.dtype, items.dtype), torch.float32)
        with torch.autocast(users.device.type, enabled=False):
            rows = (users * scale).to(product)
            sums = torch.full((len(users),), -torch.inf, dtype=exact, device=users.device)
            own = torch.zeros_like(sums)
            for start in range(FIRST_KNOWN, len(items), tile):
                logits = _logits(rows, items, bias, slice(start, start + tile)).to(exact)
                sums = torch.logaddexp(sums, logits.logsumexp(1))
                here, place = _own_place(targets, start, logits.shape[1])
                own = torch.where(here, logits.gather(1, place)[:, 0], own)
        kept = scale if isinstance(scale, Tensor) else None
        context.save_for_backward(users, items, targets, kept, bias, sums)
        context.scale, context.tile, context.product = None if kept is not None else scale, tile, product
        return (sums - own).mean()

    @staticmethod
    @once_differentiable
    def backward(context: Any, gradient: Tensor) -> tuple[Tensor | None, ...]:
        """Return the gradients of users, items, scale and bias."""
        users, items, targets, scale, bias, sums = context.saved_tensors
        scale = context.scale if scale is None else scale
        product, tile = context.product, context.tile
        with torch.autocast(users.device.type, enabled=False):
            share = gradient / len(users)
            scaled = users * scale
            rows, shared = scaled.to(product), (scaled * share).to(product)
            user_grad = torch.zeros(users.shape, dtype=sums.dtype, device=users.device)  # of users * scale
            item_grad = torch.empty_like(items)
            item_grad[:FIRST_KNOWN] = 0.0
            bias_grad = None if bias is None else torch.zeros_like(bias)
            for start in range(FIRST_KNOWN, len(items), tile):
                part = slice(start, start + tile)
                weights = _logits(rows, items, bias, part).to(sums.dtype).sub_(sums[:, None]).exp_()
                # Less 1 at the target, so that an item's gradient is one sum, however many rows it is the target of.
                here, place = _own_place(targets, start, weights.shape[1])
                weights.scatter_add_(1, place, -here[:, None].to(weights.dtype))
                if bias_grad is not None:
                    bias_grad[part] = weights.sum(0) * share
                weights = weights.to(product)
                user_grad += weights @ items[part].to(product)
                item_grad[part] = (weights.T @ shared).to(items.dtype)
            user_grad *= share
            scale_grad = None
            if isinstance(scale, Tensor) and context.needs_input_grad[3]:
                scale_grad = (user_grad * users).sum().to(scale.dtype)
            return (user_grad * scale).to(users.dtype), item_grad, None, scale_grad, bias_grad, None, None


def _logits(rows: Tensor, items: Tensor, bias: Tensor | None, part: slice) -> Tensor:
    columns = items[part].to(rows.dtype).T
    return rows @ columns if bias is None else torch.addmm(bias[part].to(rows.dtype), rows, columns)


def _own_place(targets: Tensor, start: int, width: int) -> tuple[Tensor, Tensor]:
    """Whether each row's target is one of ``width`` items from ``start`` on [rows], and its column there [rows, 1]."""
    place = targets - start
    return (place >= 0) & (place < width), place.clamp(0, width - 1)[:, None]
