"""Dual Augmented Two-tower (DAT) for sequences, DAT+: each tower's augmented vector learns the other tower's output."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor

from twotower.core.records import PADDING, UNKNOWN, Items, Users
from twotower.core.schema import Schema
from twotower.models.prerank.dat import mimic_loss
from twotower.models.sequential import Sequential
from twotower.ops.dropout import dropout
from twotower.towers.mlp import mlp
from twotower.towers.sequence.base import check_settings, check_weights
from twotower.towers.sequence.causal import CausalTransformer
from twotower.towers.sequence.mean import MeanSoFar
from twotower.towers.table import DenseTable

ENCODERS = ("mean", "causal")


class DATPlus(Sequential):
    """Encode a user by a network over the history's state and an augmented vector of the user, an item likewise.

    Augmented vectors are parameters, one a user and one an item, as wide as the towers' outputs. The mimic loss pulls a
    user's towards the item tower's output for each item that follows, and an item's towards the states that it follows;
    it moves nothing but the augmented vectors. So each tower has in its input what the other one tends to answer.

    Trained at every place of a window; a user's vector has learnt from all of them, also from what follows the place
    that reads it, as a user's id does in any model. Under "dot" the outputs, and the mimic loss with them, have no
    bounds. A user who came after training has the vector of the unknown id, which learns from a share of the windows
    (``user_dropout``).

    Source: the adaptive-mimic mechanism of Yu et al., "A dual augmented two-tower model for online large-scale
    recommendation", DLP-KDD 2021, section 3.2, over a regular two-tower, as Wang et al. (T2Diff), WWW 2025, name their
    baseline "DAT+" without giving more. Differences: the mimic loss is a mean over places; no category alignment.

    Args:
        encoder: of the history: "mean": of the events so far, as in a regular two-tower; "causal": SASRec's.
        dim: width of item vectors, of augmented vectors and of both towers' outputs.
        hidden: widths of the hidden layers of each tower's network.
        layers: attention blocks of "causal".
        heads: attention heads of "causal"; must divide ``dim``.
        relative: whether attention of "causal" has the biases of place and time of HSTU.
        block: "plain", "ligr" or "hstu": the blocks of "causal", see `CausalTransformer`.
        mimic_weight: of the mimic loss.
        user_dropout: share of windows whose user is read as unknown in training.
        dropout: share of numbers set to 0 in training, of what the networks read and inside the encoder.
        item_features: whether items are read by their features too, as candidates and in histories.
        time_gaps: whether events are told how long after the one before they came.
        history_length: positions of a window.
        score: "cosine" or "dot".
        temperature: scores are divided by it in training; 0.05 to 0.2 suits cosines.
    """

    scores = ("cosine", "dot")

    def __init__(
        self,
        schema: Schema,
        *,
        encoder: str = "mean",
        dim: int = 64,
        hidden: Sequence[int] = (128,),
        layers: int = 2,
        heads: int = 2,
        relative: bool = False,
        block: str = "plain",
        mimic_weight: float = 1.0,
        user_dropout: float = 0.1,
        dropout: float = 0.2,
        item_features: bool = False,
        time_gaps: bool = False,
        history_length: int = 50,
        score: str = "cosine",
        temperature: float = 0.1,
    ) -> None:
        check_settings(share=dropout, dim=dim, layers=layers, heads=heads, history_length=history_length)
        if encoder not in ENCODERS:
            raise ValueError(f"encoder must be one of {', '.join(ENCODERS)}, got {encoder!r}")
        if not 0.0 <= user_dropout < 1.0:
            raise ValueError(f"user_dropout must be in [0, 1), got {user_dropout}")
        check_weights(mimic_weight=mimic_weight)
        if relative and encoder != "causal":
            raise ValueError("relative = true has no effect with encoder = 'mean'; leave it out")
        if block != "plain" and encoder != "causal":
            raise ValueError(f"block = '{block}' has no effect with encoder = 'mean'; leave it out")
        own: dict[str, Any] = {}
        if encoder == "causal":
            own = {"layers": layers, "heads": heads, "relative": relative, "block": block, "dropout": dropout}
        super().__init__(
            schema,
            CausalTransformer if encoder == "causal" else MeanSoFar,
            dim=dim,
            item_features=item_features,
            time_gaps=time_gaps,
            history_length=history_length,
            score=score,
            temperature=temperature,
            **own,
        )
        self.row_by_row = not mimic_weight
        self.mimic_weight, self.user_dropout, self.dropout = mimic_weight, user_dropout, dropout
        self.user_augmented = DenseTable(schema.num_users, dim)
        self.item_augmented = DenseTable(schema.num_items, dim)
        self.user_network = mlp([2 * dim, *hidden, dim])
        self.item_network = mlp([2 * dim, *hidden, dim])

    def positions(self, history: Tensor, times: Tensor | None = None) -> Float[Tensor, "rows length dim"]:
        """Return the output after each item of the history of somebody who is not known."""
        nobody = self.user_augmented(history.new_tensor(UNKNOWN)).expand(*history.shape, -1)
        return self._user_side(self.tower(self.events(history, times), history != PADDING, times), nobody)

    def encode_users(self, users: Users) -> Float[Tensor, "rows dim"]:
        """Return the output of the user tower after the latest item: one vector a user."""
        history, lengths, times = self._asked(users)
        states = self.tower.at_end(self.events(history, times), lengths, times)
        return self._user_side(states, self.user_augmented(users.ids)) * (lengths > 0)[:, None]

    def encode_items(self, items: Items) -> Float[Tensor, "rows dim"]:
        """Return the output of the item tower."""
        vectors = self.item_vectors(items) * self.item_table.dim**0.5
        inputs = torch.cat([vectors, self.item_augmented(items.ids)], dim=-1)
        prepared: Tensor = self.scorer.prepare(self.item_network(dropout(inputs, self.dropout, self.training)))
        return prepared

    def _user_side(self, states: Tensor, augmented: Tensor) -> Tensor:
        inputs = torch.cat([states, augmented], dim=-1)
        prepared: Tensor = self.scorer.prepare(self.user_network(dropout(inputs, self.dropout, self.training)))
        return prepared

    def _learn(self, users: Users, targets: Tensor) -> tuple[Tensor, dict[str, Tensor]]:
        ids = users.ids
        if self.training and self.user_dropout:
            ids = torch.where(torch.rand(ids.shape, device=ids.device) < self.user_dropout, UNKNOWN, ids)
        augmented = self.user_augmented(ids)[:, None].expand(-1, users.history.shape[1], -1)
        history = self.tower(
            self.events(users.history, users.history_times), users.history != PADDING, users.history_times
        )
        states = self._user_side(history, augmented)
        if not (self.training and self.mimic_weight):
            return states, {}
        mask = targets != PADDING
        pairs, paired = targets[mask], states[mask]
        with torch.no_grad():
            items = self.encode_items(Items(pairs))
        all_of_them = torch.ones_like(paired[:, 0])
        of_users = mimic_loss(augmented[mask], items, all_of_them)
        of_items = mimic_loss(self.item_augmented(pairs), paired, all_of_them)
        return states, {"mimic": self.mimic_weight * (of_users + of_items)}
