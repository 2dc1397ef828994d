"""MeLU: a scorer whose weights take a local step on a user's own few events, and are met as they are without any."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise
from typing import NamedTuple

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from twotower.core.records import FIRST_KNOWN, PADDING, Items, Users
from twotower.core.schema import Schema
from twotower.models.base import Model
from twotower.scorers.tiles import in_tiles
from twotower.towers.embedding import dropped_fields
from twotower.towers.fields import ItemFields, UserFields
from twotower.towers.mlp import mlp

PAIRS = 1 << 21
"""Hidden numbers of pairs that are held at a time in serving: 8 MiB in float32."""


class Adapted(NamedTuple):
    """Hold users: vectors [rows, dim], and the weights of the decision layers as each user has them [rows, weights]."""

    vectors: Tensor
    weights: Tensor


class MeLU(Model):
    """Score by decision layers over user and item vectors, after a local update of those layers on the user's events.

    θ1 are the embeddings of both sides, θ2 the decision layers. For a user with support events

        θ2_u = θ2 − α ∂/∂θ2 L_u(θ1, θ2),   ``steps`` times,

    where L_u is the cross-entropy of each support item against fixed ``anchors`` of the catalogue; the objective then
    trains θ1 and θ2 through that step, second derivatives included. A user without an event is met by θ2 itself: by
    features alone.

    Source: Lee et al., KDD 2019, section 3.2 and algorithm 1: only the decision layers are updated locally, all
    parameters globally; two layers of 64, vectors of 32, one local step. Differences: clicks in place of ratings, so
    the squared error of equation 4 becomes a softmax against anchors within a user and the objective's loss over
    users; support items are the history before each training event; an item's id is one of its fields.

    Args:
        dim: width of user and item vectors.
        field_dim: width of one field's embedding.
        hidden: widths of the decision layers.
        inner_rate: α, the rate of a local step.
        steps: local steps.
        anchors: items, evenly spread over the catalogue as it is at first, that support items are told from.
        history_length: latest items of the history that are support; 0: features alone, without local steps.
        feature_dropout: share of the user's features, each by itself, that are missing in training.
    """

    has_vectors = False
    inner_product = False
    user_kind = Adapted
    no_onnx = "a user's state is the weights of its decision layers, which a graph of two towers has no place for"
    anchors: Tensor

    def __init__(
        self,
        schema: Schema,
        *,
        dim: int = 32,
        field_dim: int = 16,
        hidden: Sequence[int] = (64, 64),
        inner_rate: float = 0.1,
        steps: int = 1,
        anchors: int = 50,
        history_length: int = 10,
        feature_dropout: float = 0.0,
    ) -> None:
        super().__init__()
        if min(dim, field_dim, anchors) < 1 or min(history_length, steps) < 0 or inner_rate < 0.0:
            raise ValueError("dim, field_dim and anchors must be at least 1, the others at least 0")
        if not 0.0 <= feature_dropout < 1.0:
            raise ValueError(f"feature_dropout must be in [0, 1), got {feature_dropout}")
        if not hidden:
            raise ValueError("hidden must name at least one decision layer")
        if not history_length and not schema.user_features:
            raise ValueError("users have no features, so history_length must be at least 1")
        self.schema, self.history_length = schema, history_length
        self.inner_rate, self.steps, self.dim, self.feature_dropout = inner_rate, steps, dim, feature_dropout
        self.item_fields = ItemFields(schema, dim=field_dim)
        self.user_fields = UserFields(schema, dim=field_dim, user_id=False)
        self.user_map = mlp([self.user_fields.width, dim]) if self.user_fields.count else None
        self.item_map = mlp([self.item_fields.width, dim])
        self.shapes = [(wide, narrow) for wide, narrow in pairwise([2 * dim, *hidden, 1])]
        layers = [torch.nn.Linear(wide, narrow) for wide, narrow in self.shapes]
        flat = torch.cat([part.detach().flatten() for layer in layers for part in (layer.weight, layer.bias)])
        self.decision = torch.nn.Parameter(flat)
        spread = torch.linspace(FIRST_KNOWN, max(FIRST_KNOWN, schema.num_items - 1), anchors)
        self.register_buffer("anchors", spread.round().long().clamp(max=schema.num_items - 1))

    def attach_items(self, items: Items) -> None:
        """Keep the features of all items for those of a history; needed once, before training."""
        self.item_fields.attach(items)

    def encode_items(self, items: Items) -> Float[Tensor, "rows dim"]:
        """Return one vector an item; features that did not come with the ids are looked up."""
        if items.features is None:
            vectors: Tensor = self.item_map(self.item_fields.of_ids(items.ids))
        else:
            vectors = self.item_map(self.item_fields(items).flatten(1))
        return vectors

    def encode_users(self, users: Users) -> Adapted:
        """Return each user's vector, and the decision layers after its local steps."""
        rows = users.ids.shape[0]
        vectors = self.decision.new_zeros(rows, self.dim)
        if self.user_map is not None:
            fields = dropped_fields(self.user_fields(users), self.feature_dropout if self.training else 0.0)
            vectors = self.user_map(fields.flatten(1))
        weights = self.decision.expand(rows, -1)
        if not self.history_length or not self.steps:
            return Adapted(vectors, weights)
        support = users.history[:, : self.history_length]
        there = support != PADDING
        near = self.item_map(self.item_fields.of_ids(support)) * there[:, :, None]
        far = self.item_map(self.item_fields.of_ids(self.anchors)).expand(rows, -1, -1)
        apart = (support[:, :, None] != self.anchors).all(1)
        inputs = torch.cat([near, far], dim=1)
        inputs = torch.cat([vectors[:, None].expand(-1, inputs.shape[1], -1), inputs], dim=2)
        for _ in range(self.steps):
            weights = weights - self.inner_rate * local_gradient(weights, self.shapes, inputs, there, apart)
        return Adapted(vectors, weights)

    def score(self, users: Adapted, items: Float[Tensor, "items dim"]) -> Float[Tensor, "users items"]:
        """Score every user with every item."""
        if self.training:
            return self._scored(users, items)
        widest = max(narrow for _, narrow in self.shapes)
        return in_tiles(self._scored, users, items, pairs=max(1, PAIRS // widest))

    def score_rows(self, users: Adapted, items: Float[Tensor, "rows *n dim"]) -> Float[Tensor, "rows *n"]:
        """Score row i with row i, or with each of its n items."""
        if items.ndim == 2:
            return self._scored(users, items[:, None])[:, 0]
        return self._scored(users, items)

    def _scored(self, users: Adapted, items: Tensor) -> Tensor:
        """The first layer is a sum of a user's part and an item's, so that a pair costs what comes after it."""
        (weight, bias), *layers = layers_of(users.weights, self.shapes)
        user_part = (weight[:, :, : self.dim] @ users.vectors[:, :, None])[:, :, 0] + bias
        hidden = items @ weight[:, :, self.dim :].transpose(1, 2) + user_part[:, None]
        for weight, bias in layers:
            hidden = torch.baddbmm(bias[:, None], hidden.relu(), weight.transpose(1, 2))
        return hidden[:, :, 0]


Shapes = Sequence[tuple[int, int]]
"""Numbers in and out of each decision layer, the last one giving one score."""


def layers_of(weights: Float[Tensor, "rows weights"], shapes: Shapes) -> list[tuple[Tensor, Tensor]]:
    """Return the matrix [rows, out, in] and the offsets [rows, out] of each layer."""
    layers, at = [], 0
    for wide, narrow in shapes:
        matrix = weights[:, at : at + wide * narrow].unflatten(1, (narrow, wide))
        at += wide * narrow
        layers.append((matrix, weights[:, at : at + narrow]))
        at += narrow
    return layers


def local_gradient(
    weights: Float[Tensor, "rows weights"],
    shapes: Shapes,
    inputs: Float[Tensor, "rows candidates width"],
    support: Bool[Tensor, "rows support"],
    apart: Bool[Tensor, "rows anchors"],
) -> Float[Tensor, "rows weights"]:
    """Return ∂L_u / ∂θ2 of each row, written out so that it needs no graph of its own and can be differentiated again.

        L_u = −(1/n) Σ_j log(exp s_j / (exp s_j + Σ_a exp s_a)),   j over the n support items, a over the anchors

    A row without support has a gradient of zero.

    Args:
        weights: of the decision layers, flat.
        shapes: of these layers.
        inputs: user beside item, for the support places and then the anchors.
        support: which support places hold an item.
        apart: which anchors are none of the row's support items.
    """
    layers = layers_of(weights, shapes)
    outputs = [inputs]
    for place, (matrix, bias) in enumerate(layers):
        hidden = torch.baddbmm(bias[:, None], outputs[-1], matrix.transpose(1, 2))
        outputs.append(hidden.relu() if place + 1 < len(layers) else hidden)
    scores = outputs[-1][:, :, 0]
    places = support.shape[1]
    own, others = scores[:, :places], scores[:, places:].masked_fill(~apart, -torch.inf)
    total = torch.logaddexp(own, others.logsumexp(1, keepdim=True))
    share = support / support.sum(1, keepdim=True).clamp(min=1)
    of_support = ((own - total).exp() - 1.0) * share
    of_anchors = ((others[:, None] - total[:, :, None]).exp() * share[:, :, None]).sum(1)
    delta = torch.cat([of_support, of_anchors], dim=1)[:, :, None]
    gradients: list[Tensor] = []
    for place in range(len(layers) - 1, -1, -1):
        gradients = [(delta.transpose(1, 2) @ outputs[place]).flatten(1), delta.sum(1), *gradients]
        if place:
            delta = (delta @ layers[place][0]) * (outputs[place] > 0)
    return torch.cat(gradients, dim=1)
