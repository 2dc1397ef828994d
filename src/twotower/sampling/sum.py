"""Several sources under one softmax, each with its own log q."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Protocol, runtime_checkable

import torch
from torch import Tensor

from twotower.core import states
from twotower.core.errors import InputError
from twotower.core.records import Batch, Encoded, Negatives
from twotower.sampling.base import Observer, Sampler, joined_generators, joined_state, split_state
from twotower.sampling.known import listed


@runtime_checkable
class Stratum(Protocol):
    """Account alone for a list of items of each row, so that other sources need not."""

    def sample(self, batch: Batch) -> Negatives:
        """Return candidates of each row's own."""
        ...

    def covers(self, batch: Batch) -> Tensor:
        """Return the items of that list: int64 [rows, items], −1 where unused."""
        ...


class Sum:
    """Join the candidates of all sources into one sample.

    Sources that draw from the whole catalogue each give their own estimate of the sum over items; the joint estimate
    is their mean, weighted by how many candidates each brought. For a candidate of source k with M_k of M candidates,

        log q = log q_k − log(M_k / M).

    A stratum (index-mined negatives) accounts for its items alone: it keeps weight 1, and whatever the other sources
    bring from a row's stratum is masked for that row. The estimate of the sum over items is unbiased when
    every source but strata can bring every item; in-batch and the memory bank cannot bring items without training
    events, which therefore count with less weight than they should. `Mixed` has no such gap.

    Repeats of one item are separate draws and stay, since masking them would bias the estimate.

    Args:
        sources: at most one in-batch source. Candidates come in the order that `Negatives` asks for: in-batch, those
            to encode, those with states; and those of each row's own apart, in ``per_row``.

    Raises:
        InputError: if there are no sources.
    """

    def __init__(self, sources: Sequence[Sampler]) -> None:
        if not sources:
            raise InputError("a sum of negative sources needs at least one source")
        self.sources = list(sources)

    def sample(self, batch: Batch) -> Negatives:
        """Return candidates of all sources."""
        drawn = [(source, source.sample(batch)) for source in self.sources]
        strata = [part for source, part in drawn if isinstance(source, Stratum)]
        lists = [source.covers(batch) for source in self.sources if isinstance(source, Stratum)]
        covered = torch.cat(lists, dim=1) if any(part.shape[1] for part in lists) else None
        draws = [part for source, part in drawn if not isinstance(source, Stratum) and part.ids.shape[-1]]
        total = sum(part.ids.shape[-1] for part in draws)
        draws = [_draws(part, part.ids.shape[-1] / total, covered) for part in draws]
        own = [part for part in draws if part.ids.ndim == 2] + [part for part in strata if part.ids.shape[1]]
        shared = sorted(
            (part for part in draws if part.ids.ndim == 1),
            key=lambda part: (not part.in_batch, part.states is not None),
        )
        if sum(part.in_batch > 0 for part in shared) > 1:
            raise InputError("a sum of negative sources holds two in-batch sources; keep one")
        if not shared and not own:
            return drawn[0][1]
        if not shared:
            return _joined(own)
        return _joined(shared)._replace(per_row=_joined(own) if own else None)

    def observe(self, encoded: Encoded) -> None:
        """Pass on what the step encoded."""
        for source in self.sources:
            if isinstance(source, Observer):
                source.observe(encoded)

    def replayed(self) -> list[torch.Generator] | None:
        """Return the generators of the sources; None where one of them cannot be replayed."""
        return joined_generators(self.sources)

    def state_dict(self) -> dict[str, Tensor]:
        """Return the states of the sources."""
        return joined_state(self.sources)

    def load_state_dict(self, state: dict[str, Tensor]) -> None:
        """Restore the state of each source."""
        split_state(self.sources, state)


def _draws(part: Negatives, share: float, covered: Tensor | None) -> Negatives:
    """Draws that count with ``share`` of the joint estimate, without what strata account for."""
    keep = part.keep if covered is None else ~listed(covered, part.ids)
    if keep is not None and part.keep is not None:
        keep = keep & part.keep
    return part._replace(log_q=part.log_q - math.log(share), keep=keep)


def _joined(parts: Sequence[Negatives]) -> Negatives:
    """Candidates side by side."""
    kept = [part.states for part in parts if part.states is not None]
    keeps = None
    if any(part.keep is not None for part in parts):
        keeps = [torch.ones_like(part.ids, dtype=torch.bool) if part.keep is None else part.keep for part in parts]
        rows = max(keep.shape[0] for keep in keeps if keep.ndim == 2) if any(k.ndim == 2 for k in keeps) else None
        keeps = keeps if rows is None else [keep.expand(rows, keep.shape[-1]) for keep in keeps]
    return Negatives(
        torch.cat([part.ids for part in parts], dim=-1),
        torch.cat([part.log_q for part in parts], dim=-1),
        states.join(kept) if kept else None,
        parts[0].in_batch,
        None if keeps is None else torch.cat(keeps, dim=-1),
    )
