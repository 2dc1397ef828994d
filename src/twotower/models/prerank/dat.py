"""DAT (dual augmented two-tower): each tower has an augmented vector that predicts the other's output on positives."""

from __future__ import annotations

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from jaxtyping import Float, Int
from torch import Tensor

from twotower.core.errors import InputError, closest
from twotower.core.records import Batch, Encoded, Items, Users
from twotower.core.schema import Feature, Schema
from twotower.models.prerank.base import PreRanker
from twotower.towers.fc_stack import FCStack
from twotower.towers.table import DenseTable


class DAT(PreRanker):
    """Score by the cosine of two towers whose inputs carry an augmented vector of the id.

    Augmented vectors are parameters, one a user and one an item, as wide as the towers' outputs. The mimic loss pulls
    each towards the other tower's output for that row's positive, and moves nothing but the augmented vectors; the
    alignment loss makes the outputs of every category vary as those of the most frequent one do.

    Source: Yu et al., DLP-KDD 2021, sections 3.2 to 3.4. Differences: the mimic loss is a mean over the batch's
    positives; each category's distance is divided by dim², so that its weight does not hang on the width.

    Args:
        dim: width of user and item vectors, and of the augmented vectors.
        field_dim: width of one field's embedding.
        hidden: widths of the hidden layers of each tower.
        mimic_weight: of the mimic loss.
        category: the item feature that names the category: "categorical", or "multi_categorical", whose first value
            counts; "" takes the first such feature, and goes without the loss where there is none.
        category_weight: of the alignment loss.
        temperature: scores are divided by it.
        learn_temperature: whether training moves it.
        user_id: whether the user tower has an embedding of the user's id beside its augmented vector.
        history_length: latest items of the history that are read.
        batch_norm: whether hidden layers are normalised over the batch.
        dropout: share of hidden numbers set to 0 in training.
    """

    def __init__(
        self,
        schema: Schema,
        *,
        dim: int = 128,
        field_dim: int = 16,
        hidden: Sequence[int] = (300, 300),
        mimic_weight: float = 1.0,
        category: str = "",
        category_weight: float = 1.0,
        temperature: float = 0.2,
        learn_temperature: bool = True,
        user_id: bool = False,
        history_length: int = 50,
        batch_norm: bool = True,
        dropout: float = 0.0,
    ) -> None:
        super().__init__(
            schema,
            field_dim=field_dim,
            user_id=user_id,
            history_length=history_length,
            temperature=temperature,
            learn_temperature=learn_temperature,
        )
        if min(mimic_weight, category_weight) < 0:
            raise ValueError(f"weights of losses must not be negative, got {mimic_weight} and {category_weight}")
        self.mimic_weight = mimic_weight
        self.category = _category(schema, category)
        self.category_weight = category_weight
        self.user_augmented = DenseTable(schema.num_users, dim)
        self.item_augmented = DenseTable(schema.num_items, dim)

        def stack(width: int) -> FCStack:
            widths = [*hidden, dim]
            return FCStack(width + dim, widths, batch_norm=batch_norm, dropout=dropout, last_activation=False)

        self.user_stack = stack(self.num_user_fields * field_dim)
        self.item_stack = stack(self.item_fields.width)

    def encode_users(self, users: Users) -> Float[Tensor, "rows dim"]:
        """Return one vector of length 1 a user."""
        inputs = [self.embed_users(users).flatten(1), self.user_augmented(users.ids)]
        return F.normalize(self.user_stack(torch.cat(inputs, dim=1)), dim=1)

    def encode_items(self, items: Items) -> Float[Tensor, "rows dim"]:
        """Return one vector of length 1 an item."""
        inputs = [self.embed_items(items).flatten(1), self.item_augmented(items.ids)]
        return F.normalize(self.item_stack(torch.cat(inputs, dim=1)), dim=1)

    def forward(self, batch: Batch) -> Encoded:
        """Encode users and items; in training also compute the mimic and the alignment loss."""
        users, items = self.encode_users(batch.users), self.encode_items(batch.items)
        losses: dict[str, Tensor] = {}
        if self.training and self.mimic_weight:
            positive = torch.ones_like(users[:, 0]) if batch.labels is None else batch.labels
            user_loss = mimic_loss(self.user_augmented(batch.users.ids), items, positive)
            item_loss = mimic_loss(self.item_augmented(batch.items.ids), users, positive)
            losses["mimic"] = self.mimic_weight * (user_loss + item_loss)
        if self.training and self.category_weight and self.category and batch.items.features is not None:
            category = batch.items.features[self.category]
            category = category if category.ndim == 1 else category[:, 0]
            losses["category_alignment"] = self.category_weight * category_alignment(items, category)
        return Encoded(users, items, batch.items.ids, losses)


def mimic_loss(
    augmented: Float[Tensor, "rows dim"], other: Float[Tensor, "rows dim"], labels: Float[Tensor, " rows"]
) -> Float[Tensor, ""]:
    """Return the mean over positives of |augmented − stop_gradient(other)|²; 0 without positives.

    Source: Yu et al., DLP-KDD 2021, equation 4: with the label 0 both terms of the difference are the other vector.
    """
    distance = (augmented - other.detach()).square().sum(dim=1)
    return (distance * labels).sum() / labels.sum().clamp(min=1.0)


def category_alignment(vectors: Float[Tensor, "rows dim"], category: Int[Tensor, " rows"]) -> Float[Tensor, ""]:
    """Return Σ over categories of |C(major) − C(category)|² / dim², C being the covariance of the category's vectors.

    The major category is the batch's most frequent one. Categories with fewer than two rows, and padding, have no
    covariance and do not count.

    Source: Yu et al., DLP-KDD 2021, section 3.4.
    """
    names, row_category, counts = category.unique(return_inverse=True, return_counts=True)
    members = F.one_hot(row_category, len(names)).to(vectors.dtype)
    means = (members.T @ vectors) / counts[:, None]
    centred = vectors - means[row_category]
    # <C(a), C(b)> is the sum of squared inner products of a's rows with b's: no [categories, dim, dim] is made.
    usable = (counts >= 2) & (names != 0)
    shares = members * (usable.to(vectors.dtype) / (counts - 1).clamp(min=1))
    products = shares.T @ (centred @ centred.T).square() @ shares
    major = torch.where(usable, counts, 0).argmax()
    own = products.diagonal()
    distances = own - 2.0 * products[major] + own[major]
    others = usable & (torch.arange(len(names), device=names.device) != major)
    return (distances * others).sum() / vectors.shape[1] ** 2


def _category(schema: Schema, name: str) -> str:
    usable = [f.name for f in schema.item_features if _names_category(f)]
    if not name:
        return usable[0] if usable else ""
    if name not in usable:
        raise InputError(f"category = '{name}' is no categorical feature of items; {closest(name, usable)}")
    return name


def _names_category(feature: Feature) -> bool:
    return feature.kind in ("categorical", "multi_categorical")
