"""Cloze: encoders that see events on both sides are trained to fill in blanks, and asked about one at the end."""

from __future__ import annotations

from typing import ClassVar

import torch
import torch.nn.functional as F
from jaxtyping import Bool, Float, Int
from torch import Tensor, nn

from twotower.towers.sequence.base import SequenceEncoder

ASKED = ("blank", "last")


class ClozeEncoder(SequenceEncoder):
    """Read a history in both directions; some events are hidden in training, and their items are predicted.

    Not causal: a state depends on later events as on earlier ones. What it must not know is what is hidden: in place of
    a hidden event stands one learnt vector, the blank.

    A subclass gives `forward`, for windows of up to ``length`` + 1 places.

    Source: Sun et al. (BERT4Rec), CIKM 2019, sections 3.5 and 3.6.

    Args:
        dim: width of events and states.
        masked_share: share of a window's events that are hidden in training, each drawn by itself; the last one where
            none was drawn, so that every window teaches something.
        end_share: share of the windows in which the last event alone is hidden, as when asked.
        asked: "blank": a blank is appended to the history, and its state is the answer (the paper's form). "last":
            nothing is appended and the state of the last event is the answer, as of a causal encoder; in training the
            state of the place before tells a hidden item then, and a window's first event is never hidden.
    """

    causal: ClassVar[bool] = False

    def __init__(self, *, dim: int, masked_share: float, end_share: float, asked: str) -> None:
        super().__init__()
        if not (0.0 < masked_share < 1.0 and 0.0 <= end_share <= 1.0):
            raise ValueError(
                "masked_share must be between 0 and 1, both left out, and end_share in [0, 1], "
                f"got {masked_share} and {end_share}"
            )
        if asked not in ASKED:
            raise ValueError(f"asked must be one of {', '.join(ASKED)}, got {asked!r}")
        self.masked_share, self.end_share, self.asked = masked_share, end_share, asked
        self.blank = nn.Parameter(torch.randn(dim) * dim**-0.5)

    def draw(self, mask: Bool[Tensor, "users length"]) -> Bool[Tensor, "users length"]:
        """Return which events are hidden this time: at least one of each user who has two."""
        places = torch.arange(mask.shape[1], device=mask.device)
        allowed = mask & (places > 0) if self.asked == "last" else mask
        hidden = (torch.rand(mask.shape, device=mask.device) < self.masked_share) & allowed
        end = (places == mask.sum(1, keepdim=True) - 1) & allowed
        at_end = ~hidden.any(1) | (torch.rand(len(mask), device=mask.device) < self.end_share)
        return torch.where(at_end[:, None], end, hidden)

    def fill_in(
        self,
        events: Float[Tensor, "users length dim"],
        hidden: Bool[Tensor, "users length"],
        mask: Bool[Tensor, "users length"],
    ) -> Float[Tensor, "hidden dim"]:
        """Return the states that predict the hidden items, in the order of places: nothing in them comes from these.

        Args:
            events: vectors of the items, the hidden ones among them.
            hidden: which of them are not to be known.
            mask: True where there is an event.
        """
        states = self(torch.where(hidden[:, :, None], self.blank.to(events.dtype), events), mask)
        row, place = hidden.nonzero().unbind(1)
        return states[row, place - 1 if self.asked == "last" else place]

    def at_end(
        self,
        events: Float[Tensor, "users length dim"],
        lengths: Int[Tensor, " users"],
        times: Int[Tensor, "users length"] | None = None,
    ) -> Float[Tensor, "users dim"]:
        """Return the state that predicts the next item; meaningless where there is no event."""
        if self.asked == "last":
            return super().at_end(events, lengths, times)
        places = torch.arange(events.shape[1] + 1, device=events.device)
        at_end = (places == lengths[:, None])[:, :, None]
        longer = torch.where(at_end, self.blank.to(events.dtype), F.pad(events, (0, 0, 0, 1)))
        return super().at_end(longer, lengths + 1)
