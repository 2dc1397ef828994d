"""Scorers of single user tokens with items of one or several tokens: [users, tokens, items]."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from jaxtyping import Float
from torch import Tensor, nn

from twotower.core.errors import unknown_name
from twotower.towers.mlp import mlp

PLAIN = ("dot", "max_sim")
"""Scorers without weights, which hold no more than a score for a pair."""
SCORERS = (*PLAIN, "cross_net", "dnn", "inner_pdnn")


class TokenScorer(nn.Module):
    """Score each token of a user with each item.

    Attributes:
        numbers: how many numbers are held at once for a pair of a token and an item; 1: the score alone.
    """

    numbers: int = 1


class SumOfDots(TokenScorer):
    """Score S = Σ_j ⟨token, item_j⟩: one inner product with the sum of the item's tokens."""

    def forward(
        self, tokens: Float[Tensor, "users tokens dim"], items: Float[Tensor, "rows n item_tokens dim"]
    ) -> Float[Tensor, "users tokens n"]:
        """Score each user's tokens with its own items; one row of items serves all users."""
        return tokens @ items.sum(2).transpose(1, 2)


class MaxSim(TokenScorer):
    """Score S = max_j ⟨token, item_j⟩.

    Source: ColBERT (Khattab and Zaharia, SIGIR 2020), whose sum is over query tokens.
    """

    def forward(
        self, tokens: Float[Tensor, "users tokens dim"], items: Float[Tensor, "rows n item_tokens dim"]
    ) -> Float[Tensor, "users tokens n"]:
        """Score as `SumOfDots` does."""
        flat = tokens @ items.flatten(1, 2).transpose(1, 2)
        return flat.unflatten(2, (items.shape[1], -1)).amax(3)


class CrossNet(TokenScorer):
    """Score S = ⟨v, x_layers⟩ + c by a cross network over the token and the item's tokens, side by side.

        x_0 = [token; item_1; …; item_Kc],   x_{l+1} = x_0 * (W_l x_l + b_l) + x_l

    Source: DCN V2 (Wang et al., WWW 2021), equation 1, as SparCode (Su et al., SIGIR 2023), section 4.3.1, names it;
    the linear map to a score is of the former's stacked form.
    """

    def __init__(self, dim: int, item_tokens: int, *, layers: int = 3) -> None:
        super().__init__()
        self.numbers = dim * (1 + item_tokens)
        self.layers = nn.ModuleList(nn.Linear(self.numbers, self.numbers) for _ in range(layers))
        self.last = nn.Linear(self.numbers, 1)

    def forward(
        self, tokens: Float[Tensor, "users tokens dim"], items: Float[Tensor, "rows n item_tokens dim"]
    ) -> Float[Tensor, "users tokens n"]:
        """Score as `SumOfDots` does; holds users × tokens × n × (1 + item tokens) × dim numbers a layer."""
        shape = (len(tokens), tokens.shape[1], items.shape[1], -1)
        first = torch.cat(
            [tokens[:, :, None].expand(*shape), items.flatten(2)[:, None].expand(*shape)], dim=3
        )  # one row of items serves all users
        crossed = first
        for layer in self.layers:
            crossed = torch.addcmul(crossed, first, layer(crossed))
        scores: Tensor = self.last(crossed)[..., 0]
        return scores


class TokenDNN(TokenScorer):
    """Score S = MLP([token; item_1; …; item_Kc]).

    The first layer is linear in each side, so it is applied to tokens and items and added up for every pair.

    Source: SparCode (Su et al., SIGIR 2023), section 4.3.1, "DNN".
    """

    def __init__(self, dim: int, item_tokens: int, *, hidden: Sequence[int] = (128, 64)) -> None:
        super().__init__()
        if not hidden:
            raise ValueError("scorer 'dnn' needs at least one hidden layer: without it a token changes no order")
        self.numbers = 2 * max(hidden)
        self.of_token = nn.Linear(dim, hidden[0], bias=False)
        self.of_item = nn.Linear(dim * item_tokens, hidden[0])
        self.rest = nn.Sequential(nn.ReLU(), mlp([*hidden, 1]))

    def forward(
        self, tokens: Float[Tensor, "users tokens dim"], items: Float[Tensor, "rows n item_tokens dim"]
    ) -> Float[Tensor, "users tokens n"]:
        """Score as `SumOfDots` does; holds users × tokens × n numbers for each hidden one."""
        read = self.of_token(tokens)[:, :, None] + self.of_item(items.flatten(2))[:, None]
        scores: Tensor = self.rest(read)[..., 0]
        return scores


class InnerPDNN(TokenScorer):
    """Score S = MLP([token * item_1; …; token * item_Kc]).

    Source: SparCode (Su et al., SIGIR 2023), equation 9. Difference: the stop-gradient that is printed there belongs to
    the quantiser here.
    """

    def __init__(self, dim: int, item_tokens: int, *, hidden: Sequence[int] = (128, 64)) -> None:
        super().__init__()
        self.numbers = dim * item_tokens
        self.network = mlp([dim * item_tokens, *hidden, 1])

    def forward(
        self, tokens: Float[Tensor, "users tokens dim"], items: Float[Tensor, "rows n item_tokens dim"]
    ) -> Float[Tensor, "users tokens n"]:
        """Score as `SumOfDots` does; holds users × tokens × n × item tokens × dim numbers."""
        products = tokens[:, :, None, None] * items[:, None]
        scores: Tensor = self.network(products.flatten(3))[..., 0]
        return scores


def build_token_scorer(name: str, dim: int, item_tokens: int, hidden: Sequence[int]) -> TokenScorer:
    """Build the scorer of a name of `SCORERS`; ``hidden`` are the widths of an MLP's hidden layers.

    Raises:
        InputError: if the name is unknown.
    """
    if name not in SCORERS:
        raise unknown_name("scorer of tokens", name, SCORERS)
    if name == "cross_net":
        return CrossNet(dim, item_tokens)
    if name == "dnn":
        return TokenDNN(dim, item_tokens, hidden=hidden)
    if name == "inner_pdnn":
        return InnerPDNN(dim, item_tokens, hidden=hidden)
    return SumOfDots() if name == "dot" else MaxSim()
