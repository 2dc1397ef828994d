"""Codes that start in the course of training, once there are states to start at."""

from __future__ import annotations

import torch
from torch import Tensor, nn


class Starting(nn.Module):
    """Hold whether codes have started, as a buffer, and answer without asking the device at every step.

    ``started`` changes by `begin` and by `load_state_dict` alone.
    """

    started: Tensor

    def __init__(self) -> None:
        super().__init__()
        self.register_buffer("started", torch.zeros((), dtype=torch.bool))
        self._known: bool | None = None
        self.register_load_state_dict_post_hook(_forget)

    @property
    def begun(self) -> bool:
        """Return whether codes have started."""
        if self._known is None:
            self._known = bool(self.started)
        return self._known

    def begin(self) -> None:
        """Record that codes have started."""
        self.started.fill_(True)
        self._known = True


def _forget(module: nn.Module, keys: object) -> None:
    """Loaded weights may be of before the start."""
    assert isinstance(module, Starting)
    module._known = None
