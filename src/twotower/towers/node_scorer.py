"""Scores of tree nodes for a history: TDM's network, and the two forms that SparCode's paper compares."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn

from twotower.core.errors import unknown_name
from twotower.core.records import PADDING
from twotower.towers.mlp import mlp

FORMS = ("attention", "mlp", "dot")


class ReadHistory(NamedTuple):
    """Hold users as a scorer of nodes reads them: vectors [rows, places, dim], and which of them are there."""

    vectors: Tensor
    present: Tensor


class NodeScorer(nn.Module):
    """Score nodes for histories that are cut into parts by age, the latest first.

    "attention": each part becomes the mean of its items, weighted for every node by softmax(⟨item, node⟩ / √dim); an
    MLP reads node, parts and their products. "mlp": the same with plain means, which know no node. "dot": an MLP makes
    one vector of the plain means, and the score is its inner product with the node.

    Source: Zhu et al., "Learning tree-based deep model for recommender systems", KDD 2018, section 3.2; "mlp" and "dot"
    are table 4 of Su et al., SIGIR 2023. Differences: inner products weigh, not a network; ReLU, no batch norm;
    products beside the parts; parts of as many items each.

    Args:
        dim: width of items and nodes.
        form: "attention", "mlp" or "dot".
        parts: of the history.
        length: latest items of the history that are read.
        hidden: widths of the hidden layers.
        dropout: share of hidden numbers set to 0 in training.
    """

    def __init__(
        self, dim: int, *, form: str, parts: int, length: int, hidden: Sequence[int], dropout: float = 0.0
    ) -> None:
        super().__init__()
        if form not in FORMS:
            raise unknown_name("model.scorer", form, FORMS)
        if not 1 <= parts <= length:
            raise ValueError(f"parts must be between 1 and history_length = {length}, got {parts}")
        self.form, self.parts, self.each = form, parts, -(-length // parts)
        self.length = length
        widths = [dim * parts, *hidden, dim] if form == "dot" else [dim * (2 * parts + 1), *hidden, 1]
        self.network = mlp(widths, dropout=dropout)

    def read(self, table: nn.Embedding, history: Int[Tensor, "rows length"]) -> ReadHistory:
        """Return the latest items of each history as the score wants them."""
        ids = latest_first(history, self.length)
        ids = torch.nn.functional.pad(ids, (0, self.parts * self.each - self.length), value=PADDING)
        vectors, present = table(ids), ids != PADDING
        if self.form == "attention":
            return ReadHistory(vectors, present)
        weights = present.unflatten(1, (self.parts, self.each)).to(vectors.dtype)
        weights = weights / weights.sum(2, keepdim=True).clamp(min=1.0)
        means = (weights[:, :, None] @ vectors.unflatten(1, (self.parts, self.each)))[:, :, 0]
        if self.form == "dot":
            means = self.network(means.flatten(1))[:, None]
        return ReadHistory(means, means.new_ones(means.shape[:2], dtype=torch.bool))

    def forward(self, users: ReadHistory, nodes: Float[Tensor, "some n dim"]) -> Float[Tensor, "rows n"]:
        """Score row i's nodes for user i; one row of nodes stands for all users."""
        if self.form == "dot":
            return (nodes @ users.vectors.transpose(1, 2))[:, :, 0]
        parts = self._attended(users, nodes) if self.form == "attention" else users.vectors[:, None]
        shape = (len(users.vectors), nodes.shape[1])
        parts, nodes = parts.expand(*shape, -1, -1), nodes.expand(*shape, -1)
        read = torch.cat([nodes, parts.flatten(2), (parts * nodes[:, :, None]).flatten(2)], dim=2)
        scores: Tensor = self.network(read)[:, :, 0]
        return scores

    def _attended(self, users: ReadHistory, nodes: Tensor) -> Tensor:
        """The parts of each history as every node sees them: [rows, n, parts, dim]."""
        dim = nodes.shape[-1]
        likeness = (nodes @ users.vectors.transpose(1, 2) * dim**-0.5).unflatten(2, (self.parts, self.each))
        present = users.present.unflatten(1, (self.parts, self.each))[:, None]
        weights = likeness.masked_fill(~present, torch.finfo(likeness.dtype).min).softmax(3) * present
        return (weights.transpose(1, 2) @ users.vectors.unflatten(1, (self.parts, self.each))).transpose(1, 2)


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
