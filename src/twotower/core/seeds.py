"""Seeds: one seed of the run gives every generator, each by its purpose, so that a run repeats and resumes."""

from __future__ import annotations

import hashlib

import numpy as np
import torch


def derive(seed: int, *purpose: str | int) -> int:
    """Return a 63-bit seed for one purpose of a run; different purposes give unrelated streams.

    Examples:
        >>> derive(1, "shuffle", 3) == derive(1, "shuffle", 3), derive(1, "shuffle", 3) == derive(1, "shuffle", 4)
        (True, False)
    """
    text = "\x1f".join([str(seed), *map(str, purpose)])
    return int.from_bytes(hashlib.blake2b(text.encode(), digest_size=8).digest(), "big") >> 1


def torch_generator(seed: int, *purpose: str | int, device: torch.device | str = "cpu") -> torch.Generator:
    """Return a torch generator on ``device`` for one purpose of a run."""
    return torch.Generator(device=device).manual_seed(derive(seed, *purpose))


def numpy_generator(seed: int, *purpose: str | int) -> np.random.Generator:
    """Return a NumPy generator for one purpose of a run."""
    return np.random.default_rng(derive(seed, *purpose))
