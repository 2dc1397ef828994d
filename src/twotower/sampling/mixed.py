"""Mixed negative sampling (MNS): several sources, every candidate under the probability of their mixture."""

from __future__ import annotations

from collections.abc import Sequence
from functools import reduce
from typing import Protocol, runtime_checkable

import torch
from torch import Tensor

from twotower.core.errors import InputError
from twotower.core.records import Batch, Negatives
from twotower.sampling.base import batch_items, joined_generators, joined_state, split_state


@runtime_checkable
class KnownSource(Protocol):
    """Give, for any item, drawn or not, its expected count among the sampler's candidates."""

    def sample(self, batch: Batch) -> Negatives:
        """Return candidates shared by all rows."""
        ...

    def log_q(self, ids: Tensor, rows: int) -> Tensor:
        """Return the log of the expected count of each of ``ids`` in a batch of ``rows`` rows.

        −inf for an item that it never brings.
        """
        ...


class Mixed:
    """Join candidates of all sources; each counts with the sum of what all sources expect of it.

    log q(j) = log Σ_k e^{log q_k(j)}, whichever source brought j. With in-batch and uniform this is MNS: an item
    that the log does not hold is still estimated, since the uniform source can bring it, and the variance is lower
    than with each source under its own log q (`Sum`). This is the balance heuristic of multiple importance sampling.

    Source: Yang et al., WWW 2020, section 3; section 2.3 of the negative-sampling report. Veach and Guibas 1995 for
    the heuristic.

    Args:
        sources: samplers that know their log q for any item: in-batch, uniform, popularity; in-batch first.

    Raises:
        InputError: if a source does not know its log q for items that it did not draw.
    """

    def __init__(self, sources: Sequence[KnownSource]) -> None:
        for source in sources:
            if not isinstance(source, KnownSource):
                raise InputError(
                    f"mixed negatives: {type(source).__name__} does not know how likely any item is; join it with Sum"
                )
        self.sources = list(sources)

    def sample(self, batch: Batch) -> Negatives:
        """Return the candidates of each source in turn."""
        drawn = [source.sample(batch) for source in self.sources]
        if any(part.ids.ndim != 1 for part in drawn) or any(part.in_batch for part in drawn[1:]):
            raise InputError("mixed negatives: candidates must be shared by all rows, and in-batch must come first")
        ids = torch.cat([part.ids for part in drawn])
        rows = len(batch_items(batch))
        log_q = reduce(torch.logaddexp, (source.log_q(ids, rows) for source in self.sources))
        return Negatives(ids, log_q, in_batch=drawn[0].in_batch)

    def replayed(self) -> list[torch.Generator] | None:
        """Return the generators of the sources; None where one of them cannot be replayed."""
        return joined_generators(self.sources)

    def state_dict(self) -> dict[str, Tensor]:
        """Return the states of the sources."""
        return joined_state(self.sources)

    def load_state_dict(self, state: dict[str, Tensor]) -> None:
        """Restore the state of each source."""
        split_state(self.sources, state)
