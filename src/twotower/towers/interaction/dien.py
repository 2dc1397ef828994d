"""DIEN (deep interest evolution network): a GRU over the history whose update gate is attention to the query."""

from __future__ import annotations

import torch
from jaxtyping import Bool, Float
from torch import Tensor, nn

from twotower.towers.interaction.base import InteractionUnit


class DIEN(InteractionUnit):
    """Read the history by a GRU, then its states by a second GRU (AUGRU) whose update gate attention scales.

    Attention of state h under query q is softmax(h W q) over the present places. The answer is the second network's
    last state; zero for an empty history.

    Source: Deep Interest Evolution Network (Zhou et al., AAAI 2019), sections 3.3 and 3.4 (AUGRU). Difference: without
    the auxiliary loss on the next item.

    Args:
        dim: width of query, item and answer.
    """

    def __init__(self, dim: int) -> None:
        super().__init__()
        self.width = dim
        self.interests = nn.GRU(dim, dim, batch_first=True)
        self.attention = nn.Linear(dim, dim, bias=False)
        self.from_input = nn.Linear(dim, 3 * dim)
        self.from_state = nn.Linear(dim, 3 * dim, bias=False)

    def forward(
        self,
        queries: Float[Tensor, "rows query_dim"],
        history: Float[Tensor, "rows length dim"],
        present: Bool[Tensor, "rows length"],
    ) -> Float[Tensor, "rows width"]:
        """Return the vector of row i's history for row i's query."""
        states = self._interests(history)
        logits = (states @ self.attention(queries)[:, :, None])[..., 0]
        return self._evolve(states, logits[:, None], present)[:, 0]

    def shared(
        self,
        queries: Float[Tensor, "queries query_dim"],
        history: Float[Tensor, "rows length dim"],
        present: Bool[Tensor, "rows length"],
    ) -> Float[Tensor, "rows queries width"]:
        """Return the vector of every row's history for every query; the first network runs once a row."""
        states = self._interests(history)
        return self._evolve(states, (states @ self.attention(queries).T).mT, present)

    def _interests(self, history: Tensor) -> Tensor:
        return self.interests(history)[0] if history.shape[1] else history

    def _evolve(self, states: Tensor, logits: Tensor, present: Tensor) -> Tensor:
        absent = ~present[:, None]
        attention = torch.softmax(logits.masked_fill(absent, float("-inf")), dim=-1).masked_fill(absent, 0.0)
        inputs = self.from_input(states).unbind(1)  # not sliced in the loop: each slice's gradient is as large as all
        evolved = states.new_zeros(len(states), logits.shape[1], self.width)
        sizes = [2 * self.width, self.width]
        for given, weight in zip(inputs, attention.unbind(2), strict=True):
            gates_in, new_in = given[:, None].split(sizes, dim=-1)
            gates_state, new_state = self.from_state(evolved).split(sizes, dim=-1)
            update, reset = torch.sigmoid(gates_in + gates_state).chunk(2, dim=-1)
            new = torch.tanh(new_in + reset * new_state)
            evolved = evolved + weight[..., None] * update * (new - evolved)  # a padded place changes nothing
        return evolved
