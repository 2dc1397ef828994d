"""GRU4Rec: gated recurrent units over the history."""

from __future__ import annotations

import itertools

from jaxtyping import Bool, Float, Int
from torch import Tensor, nn

from twotower.ops.dropout import dropout
from twotower.towers.sequence.base import SequenceEncoder, check_settings


class GRU4Rec(SequenceEncoder):
    """Encode a history by layers of gated recurrent units, and a linear map back to the width of the items.

    It has a step form: a new event costs the same however long the history is.

    Source: Hidasi et al., "Session-based recommendations with recurrent neural networks", ICLR 2016, section 3,
    equations 1 to 4. Differences: items have vectors instead of one-hot codes, the reset gate acts after the linear map
    of the state (as cuDNN does it), and the loss is chosen by the run (the paper's are BPR and TOP1 over a mini-batch
    of sessions side by side; here whole windows are rows).

    Args:
        dim: width of events and states.
        layers: recurrent layers.
        hidden: width of their states; 0: ``dim``.
        dropout: share of numbers set to 0 in training, of events and between layers.
    """

    def __init__(self, *, dim: int, layers: int = 1, hidden: int = 0, dropout: float = 0.2) -> None:
        super().__init__()
        check_settings(share=dropout, dim=dim, layers=layers)
        self.dropout = dropout
        sizes = [dim] + [hidden or dim] * layers
        self.layers = nn.ModuleList(nn.GRU(width, out, batch_first=True) for width, out in itertools.pairwise(sizes))
        self.project = nn.Linear(sizes[-1], dim)

    def forward(
        self,
        events: Float[Tensor, "users length dim"],
        mask: Bool[Tensor, "users length"],
        times: Int[Tensor, "users length"] | None = None,
    ) -> Float[Tensor, "users length dim"]:
        """Return one state a place."""
        x = events
        for layer in self.layers:
            x = layer(dropout(x, self.dropout, self.training))[0]
        return self.project(x)

    def step(
        self, event: Float[Tensor, "users dim"], state: list[Tensor] | None = None
    ) -> tuple[Float[Tensor, "users dim"], list[Tensor]]:
        """Return the state after one more event, and the states of the layers."""
        x, after = event[:, None], []
        for place, layer in enumerate(self.layers):
            x, kept = layer(dropout(x, self.dropout, self.training), None if state is None else state[place])
            after.append(kept)
        return self.project(x[:, 0]), after
