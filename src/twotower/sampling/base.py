"""The sampler protocol."""

from __future__ import annotations

from typing import Protocol

from twotower.core.records import Batch, Negatives


class Sampler(Protocol):
    """A source of negatives."""

    def sample(self, batch: Batch) -> Negatives:
        """Candidates for the rows of ``batch``, with the log of their probabilities."""
        ...
