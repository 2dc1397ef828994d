"""Linear recurrences whose coefficients are known beforehand, many steps at a time."""

from __future__ import annotations

import math
from typing import Any

import torch
from jaxtyping import Shaped
from torch import Tensor
from torch.autograd.function import once_differentiable


def linear_scan(
    decay: Shaped[Tensor, "rows length *state"], inputs: Shaped[Tensor, "rows length *state"]
) -> Shaped[Tensor, "rows length *state"]:
    """Compute h_t = decay_t · h_{t−1} + input_t along the second axis, from h = 0; real or complex numbers.

    The length is cut into about √length chunks of about √length steps. All chunks run at once from 0, beside the
    products of their decays; then each is corrected by what the chunk before it left. There are about 4 √length kernels
    instead of 2 length, and twice the multiplications. Only products of decays are formed, never quotients or sums of
    logarithms: where no decay is larger than 1 in size nothing can overflow, and what underflows is 0 in truth too.

    Halves and bfloat16 are summed in float32, which is also what comes out. It can be differentiated once; kept for
    that are the decays and the answer.

    Source: scans in chunks as in Blelloch, "Prefix sums and their applications", 1990, section 1.4.

    Examples:
        >>> linear_scan(torch.full((1, 4), 0.5), torch.ones(1, 4))
        tensor([[1.0000, 1.5000, 1.7500, 1.8750]])
    """
    dtype = torch.promote_types(torch.promote_types(decay.dtype, inputs.dtype), torch.float32)
    return _LinearScan.apply(decay.to(dtype), inputs.to(dtype))


class _LinearScan(torch.autograd.Function):
    @staticmethod
    def forward(context: Any, decay: Tensor, inputs: Tensor) -> Tensor:
        states = _scan(decay, inputs)
        context.save_for_backward(decay, states)
        return states

    @staticmethod
    @once_differentiable
    def backward(context: Any, gradient: Tensor) -> tuple[Tensor, Tensor]:
        decay, states = context.saved_tensors
        # The same recurrence from the end: g_t = gradient_t + conj(decay_{t+1}) · g_{t+1}.
        backwards = decay.conj().flip(1).roll(1, dims=1)
        to_inputs = _scan(backwards, gradient.flip(1)).flip(1)
        to_decay = torch.zeros_like(states)
        torch.mul(to_inputs[:, 1:], states[:, :-1].conj(), out=to_decay[:, 1:])
        return to_decay, to_inputs


def _scan(decay: Tensor, inputs: Tensor) -> Tensor:
    rows, length, *state = inputs.shape
    size = max(1, math.isqrt(length))
    chunks = -(-length // size)
    filled = (rows, chunks * size, *state)
    states, products = inputs.new_zeros(filled), inputs.new_zeros(filled)
    states[:, :length], products[:, :length] = inputs, decay
    # Time first, so that a step is one block of memory.
    states, products = (part.view(rows, chunks, size, *state).movedim(2, 0) for part in (states, products))
    for step in range(1, size):
        states[step] += products[step] * states[step - 1]
        products[step] *= products[step - 1]
    for chunk in range(1, chunks):
        states[:, :, chunk] += products[:, :, chunk] * states[-1:, :, chunk - 1]
    return states.movedim(0, 2).reshape(filled)[:, :length]
