"""Softmax cross-entropy over the whole catalogue, without ever holding the matrix of logits."""

from __future__ import annotations

import functools
from typing import Any

import torch
from jaxtyping import Float, Int
from torch import Tensor
from torch.autograd.function import once_differentiable

from twotower.core.errors import InputError
from twotower.core.records import FIRST_KNOWN
from twotower.losses.tiled_softmax import TiledSoftmax

_CACHED = 3 << 17
"""Logits of a chunk on the CPU: 1.5 MiB in float32, so that they stay in the second-level cache of one core."""
_RESIDENT = 1 << 26
"""Logits of a chunk on a GPU: 256 MiB in float32."""
_TILED = {"cpu": _CACHED >> 5, "cuda": _RESIDENT >> 6}
"""Items above which they are taken in tiles: only some dozen rows of logits fit then. On a CPU, at 12,288 items, tiles
begin to be the quicker way (measured: by a fifth there, by a half at a million)."""


def full_softmax(
    users: Float[Tensor, "rows dim"],
    items: Float[Tensor, "items dim"],
    targets: Int[Tensor, " rows"],
    scale: Float[Tensor, ""] | float = 1.0,
    *,
    bias: Float[Tensor, " items"] | None = None,
    chunk: int | None = None,
    tile: int | None = None,
) -> Float[Tensor, ""]:
    """Return the mean over rows of −log softmax(scale · ⟨user, item⟩ + bias) at the target, in nats.

    The softmax goes over all known items.

    Padding (row 0) and unknown (row 1) are no candidates. The rows are taken in chunks; the logits of a chunk are made
    once, and give the loss and the gradients of users, items, scale and bias before they are overwritten. Memory:
    one chunk of logits and one gradient for each input. It can be differentiated once. Large
    catalogues (12,288 items on a CPU, a million on a GPU) are taken in tiles of items instead: see `TiledSoftmax`.

    Products run in the dtype of autocast where that is on, else in the widest of users and items; the softmax adds up
    in float32 or wider, and so do the sums over chunks.

    Args:
        users: user states.
        items: item states, row number = id, rows 0 and 1 included.
        targets: the id of each row's positive, 2 or more.
        scale: 1 / temperature; a tensor gets a gradient when it asks for one.
        bias: added to the logits of each item, after the scale.
        chunk: rows at a time; None picks a size that stays in the cache. It changes no result beyond rounding.
        tile: items at a time, in place of rows; None: by the size of the catalogue. It changes no result either.

    Raises:
        InputError: if a target is padding, unknown or out of range (on the CPU; CUDA asserts on the device), if there
            are no rows, or if sizes disagree.

    Examples:
        >>> loss = full_softmax(torch.zeros(3, 2), torch.ones(6, 2), torch.tensor([2, 3, 5]))
        >>> bool(torch.isclose(loss, torch.tensor(4.0).log()))
        True
    """
    if users.ndim != 2 or items.ndim != 2 or users.shape[1] != items.shape[1] or targets.shape != users.shape[:1]:
        raise InputError(
            "full_softmax: expected users [rows, dim], items [items, dim] and targets [rows], "
            f"got {tuple(users.shape)}, {tuple(items.shape)} and {tuple(targets.shape)}"
        )
    if not len(users) or len(items) <= FIRST_KNOWN:
        raise InputError(f"full_softmax: {len(users)} rows against {max(len(items) - FIRST_KNOWN, 0)} known items")
    for name, size in (("chunk", chunk), ("tile", tile)):
        if size is not None and size < 1:
            raise InputError(f"full_softmax: {name} must be at least 1, got {size}")
    if targets.device.type == "cpu" and (targets.min() < FIRST_KNOWN or targets.max() >= len(items)):
        raise InputError(
            f"full_softmax: targets must be ids from {FIRST_KNOWN} to {len(items) - 1}, "
            f"got {int(targets.min())} to {int(targets.max())}; leave padded and unknown positions out"
        )
    if tile is None and chunk is None:
        tile = _tile(len(users), len(items), _product_dtype(users, items), users.device.type)
    if tile is not None:
        return TiledSoftmax.apply(users, items, targets, scale, bias, tile, _product_dtype(users, items))
    return _FullSoftmax.apply(users, items, targets, scale, bias, chunk, torch.is_grad_enabled())


class _FullSoftmax(torch.autograd.Function):
    @staticmethod
    def forward(
        context: Any,
        users: Tensor,
        items: Tensor,
        targets: Tensor,
        scale: Tensor | float,
        bias: Tensor | None,
        chunk: int | None,
        wanted: bool,
    ) -> Tensor:
        kind = users.device.type
        product = _product_dtype(users, items)
        exact = torch.promote_types(torch.promote_types(users.dtype, items.dtype), torch.float32)
        with torch.autocast(kind, enabled=False):
            known, target = items[FIRST_KNOWN:], targets - FIRST_KNOWN
            scaled, item_matrix = (users * scale).to(product), known.to(product)
            offset = None if bias is None else bias[FIRST_KNOWN:].to(product)
            user_grad = torch.empty(users.shape, dtype=exact, device=users.device) if wanted else None
            # Items lie along the columns, in the products as in their gradient: on the CPU that is the quick layout.
            columns = item_matrix.T.contiguous()
            column_grad = torch.zeros(columns.shape, dtype=exact, device=users.device) if wanted else None
            bias_grad = torch.zeros(len(known), dtype=exact, device=users.device) if bias is not None else None
            loss = torch.zeros((), dtype=exact, device=users.device)
            step = chunk or _chunk_rows(len(known), kind, narrow=product != exact)
            for start in range(0, len(users), step):
                part = slice(start, start + step)
                rows = scaled[part]
                logits = rows @ columns if offset is None else torch.addmm(offset, rows, columns)
                losses, weights = _losses_and_weights(logits, target[part, None], exact)
                loss += losses.sum()
                if user_grad is not None and column_grad is not None:
                    user_grad[part] = weights @ item_matrix
                    if product == exact:
                        column_grad.addmm_(rows.T, weights)
                    else:
                        column_grad += rows.T @ weights
                    if bias_grad is not None:
                        bias_grad += weights.sum(0, dtype=exact)
            if user_grad is not None and column_grad is not None:
                item_grad = column_grad.T.contiguous()
                user_grad -= known.index_select(0, target)
                item_grad.index_add_(0, target, (users * scale).to(exact), alpha=-1)
                if bias_grad is not None:
                    bias_grad -= torch.bincount(target, minlength=len(known))
                _keep_gradients(context, users, items, scale, bias, user_grad, item_grad, bias_grad)
            return loss / len(users)

    @staticmethod
    @once_differentiable
    def backward(context: Any, gradient: Tensor) -> tuple[Tensor | None, ...]:
        needed = context.needs_input_grad
        users, items, scale, bias = (
            None if kept is None or not need else kept * gradient.to(kept.dtype)
            for kept, need in zip(context.saved_tensors, (needed[0], needed[1], needed[3], needed[4]), strict=True)
        )
        return users, items, None, scale, bias, None, None


def _tile(rows: int, items: int, product: torch.dtype, kind: str) -> int | None:
    """Items of a tile, of which all rows are scored at a time; None: chunks of rows are the better way."""
    if items <= _TILED.get(kind, _TILED["cuda"]) or (kind == "cpu" and product.itemsize < 4):
        return None
    return max(256, (_CACHED if kind == "cpu" else _RESIDENT) // rows)


def _product_dtype(users: Tensor, items: Tensor) -> torch.dtype:
    """That of autocast where it is on, else the wider of the two."""
    kind = users.device.type
    if torch.is_autocast_enabled(kind):
        return torch.get_autocast_dtype(kind)
    return torch.promote_types(users.dtype, items.dtype)


def _losses_and_weights(logits: Tensor, target: Tensor, exact: torch.dtype) -> tuple[Tensor, Tensor]:
    """−log softmax at the target [rows, 1] in ``exact``, and the softmax itself in the dtype of the logits."""
    if logits.device.type != "cpu":
        log_weights = torch.log_softmax(logits, 1, dtype=exact)
        return -log_weights.gather(1, target), log_weights.exp_().to(logits.dtype)
    # One fused pass; a target too unlikely for its weight to have a logarithm is rare and is taken the long way.
    weights = torch.softmax(logits, 1)
    chosen = weights.gather(1, target).to(exact)
    losses = -chosen.log()
    rare = (chosen[:, 0] < _SMALLEST).nonzero()[:, 0]
    if len(rare):
        wide = logits[rare].to(exact)
        losses[rare] = wide.logsumexp(1, keepdim=True) - wide.gather(1, target[rare])
    return losses, weights


_SMALLEST = 1e-30


def _keep_gradients(
    context: Any,
    users: Tensor,
    items: Tensor,
    scale: Tensor | float,
    bias: Tensor | None,
    user_grad: Tensor,
    item_grad: Tensor,
    bias_grad: Tensor | None,
) -> None:
    """Save the gradients of the mean; ``user_grad`` comes as the gradient of users * scale."""
    scale_grad = None
    if isinstance(scale, Tensor) and scale.requires_grad:
        scale_grad = ((user_grad * users).sum() / len(users)).to(scale.dtype)
    user_grad *= scale / len(users)
    item_grad /= len(users)
    padded = functools.partial(torch.nn.functional.pad, value=0.0)
    context.save_for_backward(
        user_grad.to(users.dtype),
        padded(item_grad, (0, 0, FIRST_KNOWN, 0)).to(items.dtype),
        scale_grad,
        None if bias is None or bias_grad is None else padded(bias_grad / len(users), (FIRST_KNOWN, 0)).to(bias.dtype),
    )


def _chunk_rows(num_items: int, kind: str, *, narrow: bool) -> int:
    """At least 32 rows, so that the products stay matrix products.

    With narrow products each chunk's item gradient is added up apart, in the wider dtype; larger chunks (measured: 8
    times, 4 times the bytes) then cost less than they lose in the cache.
    """
    if kind != "cpu":
        return max(32, _RESIDENT // num_items)
    return max(32, (8 if narrow else 1) * _CACHED // num_items)
