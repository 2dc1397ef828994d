"""Names of devices become devices, in one place for training and for serving."""

from __future__ import annotations

import torch

from twotower.core.errors import InputError

KINDS = ("cpu", "cuda", "mps", "xpu")
"""Kinds that hold numbers; PyTorch knows more, such as "meta"."""


def find_device(name: str | torch.device, what: str = "device") -> torch.device:
    """Return the device of a name; "auto" is CUDA where there is some, and the CPU elsewhere.

    Args:
        name: auto, cpu, cuda, cuda:N, or another of `KINDS`.
        what: what asked for it, for the message.

    Raises:
        InputError: if the name is no device, or the device is not there; says what is.

    Examples:
        >>> find_device("cpu")
        device(type='cpu')
    """
    if str(name) == "auto":
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    try:
        device = torch.device(name)
    except RuntimeError:
        raise InputError(f"{what} '{name}': no such kind of device; this machine has {', '.join(present())}") from None
    try:
        if device.type not in KINDS:
            raise RuntimeError
        torch.empty(0, device=device)
    except (RuntimeError, AssertionError):
        raise InputError(f"{what} '{name}': not there; this machine has {', '.join(present())}") from None
    return device


def present() -> list[str]:
    """Return the names of the devices that this machine has."""
    found = ["cpu", *(f"cuda:{number}" for number in range(torch.cuda.device_count()))]
    return [*found, "mps"] if torch.backends.mps.is_available() else found
