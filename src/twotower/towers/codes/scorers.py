"""Scorers of single user tokens with items of one or several tokens: [users, tokens, items]."""

from __future__ import annotations

from collections.abc import Sequence

from jaxtyping import Float
from torch import Tensor, nn

from twotower.core.errors import unknown_name
from twotower.towers.mlp import mlp


class SumOfDots(nn.Module):
    """Score S = Σ_j ⟨token, item_j⟩: one inner product with the sum of the item's tokens."""

    def forward(
        self, tokens: Float[Tensor, "users tokens dim"], items: Float[Tensor, "rows n item_tokens dim"]
    ) -> Float[Tensor, "users tokens n"]:
        """Score each user's tokens with its own items; one row of items serves all users."""
        return tokens @ items.sum(2).transpose(1, 2)


class MaxSim(nn.Module):
    """Score S = max_j ⟨token, item_j⟩.

    Source: ColBERT (Khattab and Zaharia, SIGIR 2020), whose sum is over query tokens.
    """

    def forward(
        self, tokens: Float[Tensor, "users tokens dim"], items: Float[Tensor, "rows n item_tokens dim"]
    ) -> Float[Tensor, "users tokens n"]:
        """Score as `SumOfDots` does."""
        flat = tokens @ items.flatten(1, 2).transpose(1, 2)
        return flat.unflatten(2, (items.shape[1], -1)).amax(3)


class InnerPDNN(nn.Module):
    """Score S = MLP([token * item_1; …; token * item_Kc]).

    Source: SparCode (Su et al., SIGIR 2023), equation 9. Difference: the stop-gradient that is printed there belongs to
    the quantiser here.
    """

    def __init__(self, dim: int, item_tokens: int, *, hidden: Sequence[int] = (128, 64)) -> None:
        super().__init__()
        self.network = mlp([dim * item_tokens, *hidden, 1])

    def forward(
        self, tokens: Float[Tensor, "users tokens dim"], items: Float[Tensor, "rows n item_tokens dim"]
    ) -> Float[Tensor, "users tokens n"]:
        """Score as `SumOfDots` does; holds users × tokens × n × item tokens × dim numbers."""
        products = tokens[:, :, None, None] * items[:, None]
        scores: Tensor = self.network(products.flatten(3))[..., 0]
        return scores


def build_token_scorer(name: str, dim: int, item_tokens: int, hidden: Sequence[int]) -> nn.Module:
    """Build the scorer of a name: "dot", "max_sim" or "inner_pdnn".

    Raises:
        InputError: if the name is unknown.
    """
    if name == "inner_pdnn":
        return InnerPDNN(dim, item_tokens, hidden=hidden)
    plain = {"dot": SumOfDots, "max_sim": MaxSim}
    if name not in plain:
        raise unknown_name("scorer of tokens", name, [*plain, "inner_pdnn"])
    return plain[name]()
