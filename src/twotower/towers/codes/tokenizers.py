"""Tokenizers: from a history to K tokens a user, by an encoder of the events and heads on its output."""

from __future__ import annotations

from collections.abc import Callable

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn

from twotower.core.errors import InputError, unknown_name
from twotower.towers.codes.capsules import Capsules
from twotower.towers.heads import Heads
from twotower.towers.mlp import mlp
from twotower.towers.sequence.base import SequenceEncoder
from twotower.towers.sequence.causal import CausalTransformer
from twotower.towers.sequence.gru4rec import GRU4Rec

HEADS = ("linear", "senet")
CAPSULE = "capsule"


class SENetHeads(nn.Module):
    """Make each token a weighted sum of the last ``places`` events, with weights from the means of those events.

        w = W2 ReLU(W1 mean(events)),   token_k = Σ_l w_kl event_l

    The latest event is place 0 and absent ones are zero, so that a place means the same for short histories.

    Source: the squeeze and the excitation of Hu et al., CVPR 2018, as SparCode (Su et al., SIGIR 2023) names it for its
    heads; the form for several tokens is ours, since neither gives one.

    Args:
        places: events that are read.
        heads: K, how many tokens come out: at most as many as there are places.

    Raises:
        InputError: if more tokens are asked for than there are places.
    """

    def __init__(self, places: int, *, heads: int) -> None:
        super().__init__()
        if not 1 <= heads <= places:
            raise InputError(f"senet heads make 1 to {places} tokens of {places} events, {heads} were asked for")
        self.places, self.heads = places, heads
        self.excite = mlp([places, max(1, places // 2), places * heads])

    def forward(
        self, states: Float[Tensor, "rows length dim"], lengths: Int[Tensor, " rows"]
    ) -> Float[Tensor, "rows heads dim"]:
        """Return the tokens of each row, from states that are padded at the end."""
        places = torch.arange(self.places, device=states.device)
        at = lengths[:, None] - 1 - places
        there = at >= 0
        latest = states.gather(1, at.clamp(min=0)[:, :, None].expand(-1, -1, states.shape[2])) * there[:, :, None]
        weights = self.excite(latest.mean(2)).unflatten(1, (self.heads, self.places))
        tokens: Tensor = weights @ latest
        return tokens


class MeanPool(SequenceEncoder):
    """Map the mean of the events through an MLP with a residual: the tokenizer "dnn"."""

    def __init__(self, *, dim: int, dropout: float = 0.0) -> None:
        super().__init__()
        self.network = mlp([dim, 2 * dim, dim], dropout=dropout)

    def forward(
        self,
        events: Float[Tensor, "rows length dim"],
        mask: Tensor,
        times: Tensor | None = None,
    ) -> Float[Tensor, "rows length dim"]:
        """Return the mean of the events so far at each place."""
        count = torch.arange(1, events.shape[1] + 1, device=events.device)
        mean = (events * mask[:, :, None]).cumsum(1) / count[:, None]
        return mean + self.network(mean)


class Tokenizer(nn.Module):
    """Encode events and make tokens by heads; K = 1 with linear heads is the user vector of a two-tower.

    The encoder "capsule" makes as many capsules as tokens are asked for, and needs no heads.

    Args:
        encoder: "dnn", "gru", "self_attention" or "capsule".
        dim: width of events and tokens.
        tokens: K.
        length: events that are read.
        heads: "linear" (from the state after the latest event) or "senet" (from the states of all).
        layers: of the encoder; "dnn" and "capsule" have their own.
        dropout: share of numbers set to 0 in training.

    Raises:
        InputError: if a name is unknown, senet heads are to make more tokens than ``length``, or capsules to have any.
    """

    def __init__(
        self,
        encoder: str,
        *,
        dim: int,
        tokens: int,
        length: int,
        heads: str = "linear",
        layers: int = 2,
        dropout: float = 0.1,
    ) -> None:
        super().__init__()
        known: dict[str, Callable[[], SequenceEncoder]] = {
            "dnn": lambda: MeanPool(dim=dim, dropout=dropout),
            "gru": lambda: GRU4Rec(dim=dim, layers=layers, dropout=dropout),
            "self_attention": lambda: CausalTransformer(
                dim=dim, layers=layers, heads=2 if dim % 2 == 0 else 1, length=length, dropout=dropout
            ),
        }
        if encoder not in known and encoder != CAPSULE:
            raise unknown_name("tokenizer", encoder, [*known, CAPSULE])
        if heads not in HEADS:
            raise unknown_name("heads of a tokenizer", heads, HEADS)
        self.capsules = Capsules(dim, capsules=tokens, dropout=dropout) if encoder == CAPSULE else None
        if self.capsules is not None:
            if heads != "linear":
                raise InputError(f"tokenizer 'capsule' has no heads, {heads} were asked for; leave model.heads out")
            self.senet = self.linear = None
            return
        self.encoder = known[encoder]()
        self.senet = SENetHeads(length, heads=tokens) if heads == "senet" else None
        self.linear = Heads(dim, heads=tokens, dim=dim) if heads == "linear" else None

    def forward(
        self, events: Float[Tensor, "rows length dim"], lengths: Int[Tensor, " rows"]
    ) -> Float[Tensor, "rows tokens dim"]:
        """Return the tokens of each row; events are padded at the end. A row without events has zero tokens."""
        if self.capsules is not None:
            tokens = self.capsules(events, lengths)
        elif self.linear is not None:
            tokens = self.linear(self.encoder.at_end(events, lengths))
        else:
            assert self.senet is not None
            mask = torch.arange(events.shape[1], device=events.device) < lengths[:, None]
            tokens = self.senet(self.encoder(events, mask), lengths)
        there: Tensor = tokens * (lengths > 0)[:, None, None]
        return there
