"""Selective scan of a state space: in plain PyTorch, or by the fused kernel of mamba-ssm where that is installed."""

from __future__ import annotations

import functools
import importlib
import logging
from collections.abc import Callable

import torch
from jaxtyping import Float
from torch import Tensor

from twotower.ops.scan import linear_scan

MODULE = "mamba_ssm.ops.selective_scan_interface"
FUSED_ON = ("cuda",)
"""Kinds of device that the fused kernel runs on."""
LARGEST = 256
"""Numbers of state a channel that the fused kernel takes at most."""

log = logging.getLogger(__name__)


def selective_scan(
    x: Float[Tensor, "rows length inner"],
    size: Float[Tensor, "rows length inner"],
    rate: Float[Tensor, "inner states"],
    write: Float[Tensor, "rows length states"],
    read: Float[Tensor, "rows length states"],
) -> Float[Tensor, "rows length inner"]:
    """Compute y_t = read_t · h_t with h_t = exp(size_t · rate) h_{t−1} + size_t x_t write_t, from h = 0, by channel.

    On a GPU with mamba-ssm, in float32, one fused kernel does it all, and holds none of the rows × length × inner ×
    states numbers that the plain form holds several times. It is asked for y alone: sizes come ready-made, and what
    passes by and gates is the caller's.

    Source: Gu and Dao, "Mamba: linear-time sequence modeling with selective state spaces", 2023, algorithm 2.

    Examples:
        >>> one = torch.ones(1, 3, 1)
        >>> selective_scan(one, one, torch.full((1, 1), -0.6931472), one, one)[0, :, 0]
        tensor([1.0000, 1.5000, 1.7500])
    """
    fused = None
    if x.device.type in FUSED_ON and size.dtype == torch.float32 and rate.shape[1] <= LARGEST:
        fused = None if torch.compiler.is_compiling() else fused_kernel()
    if fused is not None:
        u, delta, b, c = (part.to(size.dtype).mT.contiguous() for part in (x, size, write, read))
        return fused(u, delta, rate.to(size.dtype).contiguous(), b, c).mT
    decay = torch.exp(size[..., None] * rate)
    states = linear_scan(decay, (size * x)[..., None] * write[..., None, :])
    return (states @ read[..., None])[..., 0]


@functools.cache
def fused_kernel() -> Callable[..., Tensor] | None:
    """Return the kernel of mamba-ssm; None where it is not installed, or built for another torch."""
    try:
        found: Callable[..., Tensor] = importlib.import_module(MODULE).selective_scan_fn
    except ModuleNotFoundError:
        return None
    except (ImportError, OSError, RuntimeError, AttributeError) as error:
        log.warning("mamba-ssm is installed and cannot be used (%s); scans are done in plain PyTorch", error)
        return None
    return found
