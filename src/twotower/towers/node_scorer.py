"""Scores of tree nodes for a history: the network of TDM (tree-based deep model).

Beside it the two forms that SparCode's paper compares.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn

from twotower.core.errors import unknown_name
from twotower.core.records import PADDING
from twotower.towers.mlp import mlp
from twotower.towers.table import Table

FORMS = ("attention", "mlp", "dot")


class ReadHistory(NamedTuple):
    """Hold users as a scorer of nodes reads them: vectors [rows, places, dim], and which of them are there."""

    vectors: Tensor
    present: Tensor


class NodeScorer(nn.Module):
    """Score nodes for histories that are cut into parts by age, the latest first.

    "attention": each part becomes the mean of its items, weighted for every node by softmax(⟨item, node⟩ / √dim); an
    MLP reads the node, the parts and their inner products with the node. "mlp": the same with plain means, which know
    no node. "dot": an MLP makes one vector of the plain means, and the score is its inner product with the node.

    The first layer is linear in a part, so it is applied to the items of a history and not to the parts, of which every
    pair of a user and a node would have its own.

    Source: Zhu et al., "Learning tree-based deep model for recommender systems", KDD 2018, section 3.2; "mlp" and "dot"
    are table 4 of Su et al., SIGIR 2023. Differences: inner products weigh, not a network, and are read beside the
    parts; ReLU, no batch norm; parts of as many items each.

    Args:
        dim: width of items and nodes.
        form: "attention", "mlp" or "dot".
        parts: of the history.
        length: latest items of the history that are read.
        hidden: widths of the hidden layers, at least one.
        dropout: share of the numbers of a history's items set to 0 in training.
    """

    def __init__(
        self, dim: int, *, form: str, parts: int, length: int, hidden: Sequence[int], dropout: float = 0.0
    ) -> None:
        super().__init__()
        if form not in FORMS:
            raise unknown_name("model.scorer", form, FORMS)
        if not 1 <= parts <= length:
            raise ValueError(f"parts must be between 1 and history_length = {length}, got {parts}")
        if not hidden or min(hidden) < 1:
            raise ValueError(f"hidden must hold at least one width, each of at least 1, got {list(hidden)}")
        self.form, self.parts, self.each, self.length = form, parts, -(-length // parts), length
        self.dropout = nn.Dropout(dropout)
        if form == "dot":
            self.rest = mlp([dim * parts, *hidden, dim])
            return
        first = hidden[0]
        bound = (dim * (parts + 1) + parts) ** -0.5
        self.of_node, self.of_products = nn.Linear(dim, first), nn.Linear(parts, first, bias=False)
        self.of_parts = nn.Parameter(torch.empty(parts, dim, first))
        for weight in (self.of_node.weight, self.of_node.bias, self.of_products.weight, self.of_parts):
            nn.init.uniform_(weight, -bound, bound)
        self.rest = nn.Sequential(nn.ReLU(inplace=True), mlp([*hidden, 1]))

    @property
    def numbers(self) -> int:
        """Return about how many numbers are held for a pair of a user and a node."""
        return 1 if self.form == "dot" else 3 * self.parts * self.each + 2 * len(self.of_node.bias)

    def read(self, table: Table, history: Int[Tensor, "rows length"]) -> ReadHistory:
        """Return the latest items of each history as the score wants them."""
        ids = latest_first(history, self.length)
        ids = torch.nn.functional.pad(ids, (0, self.parts * self.each - self.length), value=PADDING)
        vectors, present = self.dropout(table(ids)), ids != PADDING
        if self.form == "attention":
            return ReadHistory(vectors, present)
        weights = present.unflatten(1, (self.parts, self.each)).to(vectors.dtype)
        weights = weights / weights.sum(2, keepdim=True).clamp(min=1.0)
        means = (weights[:, :, None] @ vectors.unflatten(1, (self.parts, self.each)))[:, :, 0]
        if self.form == "dot":
            means = self.rest(means.flatten(1))[:, None]
        return ReadHistory(means, means.new_ones(means.shape[:2], dtype=torch.bool))

    def forward(self, users: ReadHistory, nodes: Float[Tensor, "some n dim"]) -> Float[Tensor, "rows n"]:
        """Score row i's nodes for user i; one row of nodes serves all users."""
        if self.form == "dot":
            return (nodes @ users.vectors.transpose(1, 2))[:, :, 0]
        dim, shape = nodes.shape[-1], (self.parts, users.vectors.shape[1] // self.parts)
        products = (nodes @ users.vectors.transpose(1, 2)).unflatten(2, shape)
        present = users.present.unflatten(1, shape)[:, None]
        likeness = (products * dim**-0.5).masked_fill(~present, torch.finfo(products.dtype).min)
        weights = likeness.softmax(3) * present
        items = (users.vectors.unflatten(1, shape) @ self.of_parts).flatten(1, 2)
        # One product of matrices for the parts and their inner products: a pair's numbers are written once.
        read = torch.cat([weights.flatten(2), (weights * products).sum(3)], dim=2)
        by_row = torch.cat([items, self.of_products.weight.T.expand(len(items), -1, -1)], dim=1)
        scores: Tensor = self.rest(torch.baddbmm(self.of_node(nodes), read, by_row))[:, :, 0]
        return scores


def latest_first(history: Int[Tensor, "rows width"], length: int) -> Int[Tensor, "rows length"]:
    """Return the latest ``length`` items of each history, the last one first, padded at the end.

    Examples:
        >>> latest_first(torch.tensor([[7, 8, 9, 0], [5, 0, 0, 0]]), 2)
        tensor([[9, 8],
                [5, 0]])
    """
    if not history.shape[1]:
        return history.new_full((len(history), length), PADDING)
    ends = (history != PADDING).sum(1, keepdim=True)
    places = ends - 1 - torch.arange(length, device=history.device)
    return history.gather(1, places.clamp(min=0)).masked_fill(places < 0, PADDING)
