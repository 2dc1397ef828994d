"""EASE: one ridge regression of every item on all others, in closed form."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from jaxtyping import Float, Int
from torch import Tensor

from twotower.core.errors import InputError
from twotower.core.records import FIRST_KNOWN, PADDING, Items, Users
from twotower.core.schema import Schema
from twotower.data.log import Log
from twotower.models.base import ClosedForm
from twotower.models.baselines.cooccurrence import distinct_items, incidence

MOST_ITEMS = 20_000
"""Item rows up to which the weights are taken on: 1.6 GB in float32 then, and about 10 GB while solving."""


class EASE(ClosedForm):
    """A user's score for an item: the sum of the item's regression weights on the distinct items of the history.

        B = I − P / diag(P),  P = (XᵀX + λ I)⁻¹,  diag(B) = 0,  X the binary users × items matrix

    The user state is the history itself, so scores need no user row and serve newcomers. An empty history scores all
    items 0. Padding and unknown items have no weights.

    Source: Steck, Embarrassingly Shallow Autoencoders for Sparse Data, WWW 2019, equations 5 to 8. Difference: solved
    in float64 through a Cholesky factor, kept in float32.

    Args:
        lambda_: L2 penalty on the weights, in users.
    """

    history_length = None
    has_vectors = False
    inner_product = False
    weights: Tensor

    def __init__(self, schema: Schema, *, lambda_: float = 500.0) -> None:
        super().__init__()
        if not 0.0 < lambda_ < float("inf"):
            raise ValueError(f"lambda_ must be positive and finite, got {lambda_!r}")
        if schema.num_items > MOST_ITEMS:
            raise InputError(
                f"model 'ease': it keeps a weight for every pair of items, for at most {MOST_ITEMS:,} items, and this "
                f"catalogue has {schema.num_items:,}; use item_cosine, which keeps the nearest only"
            )
        self.schema = schema
        self.lambda_ = lambda_
        self.register_buffer("weights", torch.zeros(schema.num_items, schema.num_items))

    def fit_log(self, log: Log) -> None:
        """Solve for the weights."""
        seen = incidence(log, self.schema.num_items)[:, FIRST_KNOWN:]
        gram = torch.from_numpy((seen.T @ seen).toarray()).double()
        gram.diagonal().add_(self.lambda_)
        inverse = torch.cholesky_inverse(torch.linalg.cholesky(gram))
        weights = inverse.div_(-inverse.diagonal().clone())
        weights.fill_diagonal_(0.0)
        self.weights[FIRST_KNOWN:, FIRST_KNOWN:] = weights.to(self.weights)

    def encode_users(self, users: Users) -> Int[Tensor, "rows length"]:
        """The distinct items of the history, 0 where there are none."""
        return distinct_items(users.history)

    def encode_items(self, items: Items) -> Int[Tensor, " rows"]:
        """The item's id: its column of the weights."""
        return items.ids

    def score(self, users: Int[Tensor, "users length"], items: Int[Tensor, " items"]) -> Float[Tensor, "users items"]:
        """The sum of the rows of the history's items, at the columns of ``items``."""
        return F.embedding_bag(users, self.weights, mode="sum", padding_idx=PADDING)[:, items]

    def score_rows(
        self, users: Int[Tensor, "rows length"], items: Int[Tensor, "rows *chosen"]
    ) -> Float[Tensor, "rows *chosen"]:
        """The same for chosen pairs."""
        history = users.view(*users.shape[:1], *[1] * (items.ndim - 1), users.shape[1])
        return self.weights[history, items[..., None]].sum(dim=-1)
