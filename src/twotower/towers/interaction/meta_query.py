"""Meta query module: a few learned vectors that represent clusters of items, on which the user tower is conditioned."""

from __future__ import annotations

import math

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn


def parameter_free_attention(meta: Float[Tensor, "queries dim"]) -> Float[Tensor, "queries dim"]:
    """Return r (Q Qᵀ) Q / |Q|², with |Q|² the sum of all squares and r = min(queries, dim).

    Source: FIT (Xiong et al., SIGIR 2025), equation 5, (Q Qᵀ) Q. As printed the result grows with the cube of Q: it
    cubes the singular values σ, so that logits, and with them the gradient, run away as Q grows. Divided by
    |Q|² = Σ σ², a singular value becomes σ · r σ² / Σ σ²: the result grows with Q itself, no direction by more than r
    times, and a Q with r equal singular values comes back unchanged. What the attention is for stays: directions
    that many queries share are raised over those that few have.
    """
    rank = min(meta.shape)
    energy = meta.square().sum().clamp(min=torch.finfo(meta.dtype).tiny)
    # (Q Qᵀ) Q = Q (Qᵀ Q): the smaller of the two inner products is made.
    mixed = meta @ (meta.T @ meta) if meta.shape[1] < meta.shape[0] else (meta @ meta.T) @ meta
    return mixed * (rank / energy)


class MetaQueries(nn.Module):
    """Hold the item meta matrix Q [queries, dim], and choose among its rows by item.

    Source: FIT (Xiong et al., SIGIR 2025), section 4.1.

    Args:
        count: N, rows of Q.
        dim: width of an item's concatenated fields.
        self_attention: whether hard queries are `parameter_free_attention` of Q rather than Q itself.
        scaled: whether that attention is divided by |Q|² / r; False: equation 5 as printed, (Q Qᵀ) Q.
    """

    def __init__(self, *, count: int, dim: int, self_attention: bool = True, scaled: bool = True) -> None:
        super().__init__()
        if min(count, dim) < 1:
            raise ValueError(f"meta queries need a count and a width of at least 1, got {count} and {dim}")
        self.meta = nn.Parameter(torch.empty(count, dim))
        nn.init.kaiming_uniform_(self.meta)
        self.self_attention = self_attention
        self.scaled = scaled

    def hard(self) -> Float[Tensor, "queries dim"]:
        """Return ``Q*``: every hard query. It does not depend on any item."""
        if not self.self_attention:
            return self.meta
        return parameter_free_attention(self.meta) if self.scaled else self.meta @ (self.meta.T @ self.meta)

    def soft(self, items: Float[Tensor, "rows dim"], temperature: Tensor | float) -> Float[Tensor, "rows dim"]:
        """Return ``softmax(e q*ᵀ / temperature) Q*``: hard queries by similarity to each item (equations 6, 7)."""
        queries = self.hard()
        return torch.softmax(items @ queries.T / temperature, dim=1) @ queries

    def index(self, items: Float[Tensor, "rows dim"]) -> Int[Tensor, " rows"]:
        """Return the index of the hard query most similar to each item (equation 8)."""
        return (items @ self.hard().T).argmax(dim=1)

    def imbalance(self, items: Float[Tensor, "rows dim"]) -> Float[Tensor, ""]:
        """Return log N less the entropy of the rows' mean share softmax(e q*ᵀ), in nats: 0 when the share is even.

        Vectors of items have a large part in common, and the query nearest to that part is chosen by nearly all of
        them; what is chosen by nobody learns nothing. Kept low in training, this keeps queries in use. Ours: not in
        the paper.
        """
        share = torch.softmax(items @ self.hard().T, dim=1).mean(dim=0)
        return math.log(len(self.meta)) + torch.xlogy(share, share).sum()

    def in_use(self, items: Float[Tensor, "rows dim"]) -> Float[Tensor, ""]:
        """Return the effective number of queries that the rows choose: exp of the entropy of the choices."""
        share = self.index(items).bincount(minlength=len(self.meta)) / len(items)
        return (-torch.xlogy(share, share).sum()).exp()
