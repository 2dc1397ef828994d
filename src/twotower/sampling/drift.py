"""Drift of item states between two measurements, on a sample of items."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

from twotower.core.errors import InputError


class EmbeddingDrift:
    """Measure whether sampled items move little: by a mean squared distance below ``threshold`` in ``every`` steps.

    Mean over the sample of ‖g(item; now) − g(item; ``every`` steps ago)‖². Once low it stays low.

    Source: Wang et al., SIGIR 2021, and section 3.3 of the negative-sampling report. Difference: there it is a sum
    over the whole catalogue, whose size then sets the scale and whose encoding takes most of an epoch's time.

    Args:
        encode: item ids [sample] to vectors [sample, dim], without dropout.
        sample: the items that are watched, int64.
        every: steps between looks; each look encodes the sample once.
        threshold: in squared units of the vectors.

    Raises:
        InputError: if the sample is empty, or ``every`` or ``threshold`` is not positive.

    Examples:
        >>> tower = torch.nn.Linear(1, 1)
        >>> ids = torch.tensor([2, 5])
        >>> drift = EmbeddingDrift(lambda ids: tower(ids[:, None].float()), ids, every=1, threshold=0.1)
        >>> drift.observe(), drift.is_low, drift.observe(), drift.is_low
        (None, False, None, True)
    """

    def __init__(self, encode: Callable[[Tensor], Tensor], sample: Tensor, *, every: int, threshold: float) -> None:
        if not len(sample):
            raise InputError("drift: the sample of items is empty")
        if every < 1 or not threshold > 0:
            raise InputError(f"drift: every and threshold must be positive, got {every} and {threshold}")
        self.encode = encode
        self.sample = sample
        self.every = every
        self.threshold = threshold
        self.step = 0
        self.is_low = False
        self.value = float("inf")
        """The newest mean; infinity before there are two looks."""
        self._before: Tensor | None = None

    def observe(self) -> None:
        """Count a step, and look when it is time."""
        if not self.is_low and self.step % self.every == 0:
            with torch.no_grad():
                now = self.encode(self.sample).float()
            if self._before is not None:
                self.value = (now - self._before).square().sum(1).mean().item()
                self.is_low = self.value < self.threshold
            self._before = now
        self.step += 1

    def state_dict(self) -> dict[str, Tensor]:
        """Return steps, the newest mean, whether it is low, and the vectors of the last measurement."""
        kept = {"step": torch.tensor(self.step), "low": torch.tensor(self.is_low), "value": torch.tensor(self.value)}
        return kept if self._before is None else {**kept, "before": self._before}

    def load_state_dict(self, state: dict[str, Tensor]) -> None:
        """Restore what `state_dict` gave."""
        self.step, self.is_low, self.value = int(state["step"]), bool(state["low"]), float(state["value"])
        self._before = state.get("before")
