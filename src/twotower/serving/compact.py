"""Compact bundles: item states in fewer bytes."""

from __future__ import annotations

from pathlib import Path

import torch
from safetensors.torch import save_file

from twotower.core.errors import InputError
from twotower.core.files import replacing_file
from twotower.core.states import rows, to_tensors
from twotower.serving.bundle import Bundle, changing_bundle


def compact_bundle(folder: Path | str, precision: str) -> float:
    """Store a bundle's item states at ``precision`` ("float16" or "int8" for ``fit``), return bytes an item.

    The model scores them as they are. What was rounded away is gone: only a bundle with float32 states can be made
    smaller.

    Raises:
        InputError: if the folder is no bundle, the model has no such precision, or the states were made smaller before.
    """
    bundle = Bundle.load(folder)
    states = bundle.item_states
    if any(part.dtype in (torch.float16, torch.int8) for part in to_tensors(states).values()):
        raise InputError(f"{folder}: its item states are stored small already; train again for whole ones")
    tensors = to_tensors(bundle.model.item_store.compact(states, precision))
    with changing_bundle(folder) as (partial, _), replacing_file(partial / "items" / "states.safetensors") as file:
        save_file(tensors, file)
    return sum(part.numel() * part.element_size() for part in tensors.values()) / rows(states)
