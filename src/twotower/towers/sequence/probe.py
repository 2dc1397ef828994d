"""Check of an encoder from outside, before it is trained: shape, causality and padding on two short histories."""

from __future__ import annotations

import torch
from torch import Tensor

from twotower.towers.sequence.base import SequenceEncoder

_EVENTS = 6
_CLOSE = 1e-4
"""How far two states may lie apart and count as equal, relative to their size."""


def check_encoder(encoder: SequenceEncoder, dim: int, length: int) -> None:
    """Refuse an encoder whose states have another shape, read later events, or read what padding holds.

    Such a model would train and be served without an error: one that reads later events learns from its own answers.
    The encoder is asked in evaluation mode on the CPU; the caller's random numbers are left as they were.

    Args:
        encoder: freshly built.
        dim: width of events.
        length: places of a window.

    Raises:
        ValueError: says which of these, with the encoder's name.
    """
    if any(weight.is_meta for weight in encoder.parameters()):  # only its size is asked for
        return
    places, name, was_training = min(length, _EVENTS), type(encoder).__name__, encoder.training
    events = torch.sin(torch.arange(2 * places * dim, dtype=torch.float32).reshape(2, places, dim))
    mask = torch.arange(places) < torch.tensor([places, max(1, places - 2)])[:, None]
    later = events.clone()
    later[0, -1] += 1.0
    padded = torch.where(mask[:, :, None], events, events + 1.0)
    try:
        encoder.eval()
        with torch.random.fork_rng(devices=[]), torch.no_grad():
            states, changed, filled = (_asked(encoder, given, mask) for given in (events, later, padded))
    except Exception as error:
        said = str(error).splitlines()[0][:200] if str(error) else type(error).__name__
        raise ValueError(f"encoder {name} fails on events [2, {places}, {dim}]: {said}") from error
    finally:
        encoder.train(was_training)
    if not isinstance(states, Tensor) or states.shape[:2] != (2, places):
        shape = list(states.shape) if isinstance(states, Tensor) else type(states).__name__
        raise ValueError(f"encoder {name} gives {shape} for events [2, {places}, {dim}]: one state a place is wanted")
    if encoder.causal and places > 1 and not _equal(states[0, :-1], changed[0, :-1]):
        raise ValueError(
            f"encoder {name} reads later events: its first states change with the last event, and training at all "
            "places would show it the answers"
        )
    if not _equal(states[mask], filled[mask]):
        raise ValueError(f"encoder {name} reads what stands at padded places: use its mask")


def _asked(encoder: SequenceEncoder, events: Tensor, mask: Tensor) -> Tensor:
    torch.manual_seed(0)  # one that draws is asked with the same draws
    return encoder(events, mask, None)


def _equal(one: Tensor, other: Tensor) -> bool:
    return torch.allclose(one, other, rtol=_CLOSE, atol=_CLOSE * (1.0 + float(one.abs().max())))
