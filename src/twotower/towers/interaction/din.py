"""DIN (deep interest network): its activation unit."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise

from jaxtyping import Float
from torch import Tensor, nn

from twotower.towers.interaction.base import PairwiseUnit
from twotower.towers.interaction.dice import Dice


class DIN(PairwiseUnit):
    """Sum a(item, query) times item over the history, where a is a small network with Dice.

    The network reads the item, the query and their product. The weights do not sum to 1: how much of the history
    answers the query is part of the answer.

    Source: Deep Interest Network (Zhou et al., KDD 2018), section 4.3, as FIT (Xiong et al., SIGIR 2025) uses it in
    equation 19 with layers [64, 16, 1]. Difference: public versions also feed the difference of the two, which the
    first layer can form by itself.

    Args:
        dim: width of query and item.
        hidden: widths of the network's hidden layers.
    """

    def __init__(self, dim: int, *, hidden: Sequence[int] = (64, 16)) -> None:
        super().__init__(dim)
        if not hidden:
            raise ValueError("the activation unit needs at least one hidden layer")
        self.key_part = nn.Linear(dim, hidden[0])
        self.query_part = nn.Linear(dim, hidden[0], bias=False)
        self.product_part = nn.Linear(dim, hidden[0], bias=False)
        widths = [*hidden, 1]
        self.layers = nn.ModuleList(nn.Linear(wide, narrow) for wide, narrow in pairwise(widths))
        self.activations = nn.ModuleList(Dice(width) for width in hidden)

    def row_logits(
        self, keys: Float[Tensor, "pairs dim"], queries: Float[Tensor, "pairs dim"]
    ) -> Float[Tensor, " pairs"]:
        """Return a(key i, query i)."""
        return self._finish(self.key_part(keys) + self.query_part(queries) + self.product_part(keys * queries))

    def all_logits(
        self, keys: Float[Tensor, "keys dim"], queries: Float[Tensor, "queries dim"]
    ) -> Float[Tensor, "keys queries"]:
        """Return a(key, query) for all of both.

        The product's layer becomes one matrix product over keys.
        """
        scaled = queries[:, None] * self.product_part.weight  # [queries, hidden, dim]: W (k * q) = (W * q) k
        product = (keys @ scaled.flatten(0, 1).T).unflatten(1, scaled.shape[:2])
        hidden = product + self.key_part(keys)[:, None] + self.query_part(queries)[None]
        return self._finish(hidden.flatten(0, 1)).view(len(keys), len(queries))

    def _finish(self, hidden: Tensor) -> Tensor:
        for activation, layer in zip(self.activations, self.layers, strict=True):
            hidden = layer(activation(hidden))
        return hidden[:, 0]
