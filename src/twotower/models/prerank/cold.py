"""COLD (computing power cost-aware online and lightweight deep pre-ranking): one network over selected fields.

It weights the fields of both sides in training and then leaves the least useful out.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from jaxtyping import Float
from torch import Tensor, nn

from twotower.core.errors import InputError
from twotower.core.records import Batch, Items, Users
from twotower.core.schema import Schema
from twotower.models.prerank.base import PreRanker
from twotower.scorers.tiles import in_tiles
from twotower.towers.fc_stack import FCStack

STEP_SHARE = 0.01
"""Of one training step in the mean weights of fields."""


class COLD(PreRanker):
    """Score pairs by a single network: only embedded fields can be computed before the request.

    Fields are the user's, the history's, the item's, and a cross of the last two (their product, field by field).
    A squeeze-and-excitation block gives each a weight in (0, 1) from all of them, by which it is multiplied.
    With ``keep_fields`` the fields that weighed most, averaged over the last hundreds of steps, are chosen after
    ``select_after`` epochs, and training goes on with those; only weights from then on may be served.

    Source: Wang et al., DLP-KDD 2020, section 3.2. Differences: fields are chosen within one training and not between
    two; one that is left out is fed as zeros, so a request takes as long as before. Not here: its engineering of
    parallel computation and half precision.

    Args:
        field_dim: width of one field's embedding.
        hidden: widths of the layers.
        temperature: scores are divided by it.
        learn_temperature: whether training moves it.
        user_id: whether the user's id is a field.
        history_length: latest items of the history that are read.
        batch_norm: whether each layer is normalised over the batch.
        dropout: share of hidden numbers set to 0 in training.
        keep_fields: how many fields stay; 0: all.
        select_after: epochs before they are chosen, 1 or more.

    Raises:
        InputError: if there are fewer fields than are to stay, or ``select_after`` is below 1.
    """

    has_vectors = False
    inner_product = False
    kept: Tensor
    mean_weights: Tensor

    def __init__(
        self,
        schema: Schema,
        *,
        field_dim: int = 16,
        hidden: Sequence[int] = (300, 300, 128),
        temperature: float = 1.0,
        learn_temperature: bool = True,
        user_id: bool = False,
        history_length: int = 50,
        batch_norm: bool = True,
        dropout: float = 0.0,
        keep_fields: int = 0,
        select_after: int = 1,
    ) -> None:
        super().__init__(
            schema,
            field_dim=field_dim,
            user_id=user_id,
            history_length=history_length,
            temperature=temperature,
            learn_temperature=learn_temperature,
        )
        self.num_fields = self.num_user_fields + 2 * self.item_fields.count
        self.excitation = nn.Linear(self.num_fields * field_dim, self.num_fields)
        self.stack = FCStack(self.num_fields * field_dim, hidden, batch_norm=batch_norm, dropout=dropout)
        self.projection = nn.Linear(self.stack.width, 1)
        self.register_buffer("kept", torch.ones(self.num_fields))
        if not 0 <= keep_fields <= self.num_fields:
            raise InputError(f"keep_fields = {keep_fields}: there are {self.num_fields} fields; 0 keeps all")
        if select_after < 1:
            raise InputError(f"select_after = {select_after}: weights are learnt for an epoch at least")
        self.keep_fields, self.select_after = keep_fields, select_after
        self.row_by_row = not keep_fields  # the fields are chosen by their mean weights over batches
        if keep_fields:
            self.register_buffer("mean_weights", torch.zeros(self.num_fields))

    @property
    def selectable(self) -> bool:
        """Return whether the fields to keep have been chosen."""
        return not self.keep_fields or int(self.kept.sum()) == self.keep_fields

    def set_progress(self, epochs: float) -> None:
        """Choose the fields that stay, once enough epochs are done."""
        if epochs >= self.select_after and not self.selectable:
            self._keep(self.mean_weights, self.keep_fields)

    @property
    def field_names(self) -> list[str]:
        """Return the name of each field, in order."""
        user = ["user.id"] if self.user_fields.ids is not None else []
        user += [f"user.{feature.name}" for feature in self.schema.user_features]
        item = ["id", *(feature.name for feature in self.schema.item_features)]
        return user + [f"{side}.{name}" for side in ("history", "item", "cross") for name in item]

    def encode_users(self, users: Users) -> Float[Tensor, "rows fields dim"]:
        """Return the embedded fields."""
        return self.embed_users(users)

    def encode_items(self, items: Items) -> Float[Tensor, "rows fields dim"]:
        """Return the embedded fields."""
        return self.embed_items(items)

    def score(
        self, users: Float[Tensor, "users user_fields dim"], items: Float[Tensor, "items item_fields dim"]
    ) -> Float[Tensor, "users items"]:
        """Score every pair by the network."""
        self._check(users, items)
        return in_tiles(lambda some, others: self._network(some[:, None], others[None]), users, items)

    def score_rows(
        self, users: Float[Tensor, "rows user_fields dim"], items: Float[Tensor, "rows *n item_fields dim"]
    ) -> Float[Tensor, "rows *n"]:
        """Score row i with row i, or with each of its n items."""
        self._check(users, items)
        return self._network(users if items.ndim == users.ndim else users[:, None], items)

    @torch.no_grad()
    def field_weights(self, batch: Batch) -> Float[Tensor, " fields"]:
        """Return the mean weight of each field over the rows of ``batch``: 0 for those already left out."""
        fields = self._join(self.embed_users(batch.users), self.embed_items(batch.items))
        return self._weights(fields).mean(dim=0)

    def select_fields(self, batch: Batch, count: int) -> list[str]:
        """Keep the ``count`` fields of the largest weight on ``batch``, leave the others out, and return their names.

        Raises:
            InputError: if ``count`` is below 1 or over the number of fields.
        """
        if not 1 <= count <= self.num_fields:
            raise InputError(f"select_fields: keep between 1 and {self.num_fields} fields, got {count}")
        return self._keep(self.field_weights(batch), count)

    def _keep(self, weights: Tensor, count: int) -> list[str]:
        best = weights.argsort(descending=True, stable=True)[:count]
        self.kept.zero_()
        self.kept[best] = 1.0
        return [self.field_names[place] for place in sorted(best.tolist())]

    def _join(self, users: Tensor, items: Tensor) -> Tensor:
        shape = torch.broadcast_shapes(users.shape[:-2], items.shape[:-2])
        cross = users[..., -self.item_fields.count :, :] * items
        parts = (users, items, cross)
        return torch.cat([part.expand(*shape, *part.shape[-2:]) for part in parts], dim=-2)

    def _weights(self, fields: Tensor) -> Tensor:
        # A field that is left out must not speak through the weights of the others either.
        return torch.sigmoid(self.excitation((fields * self.kept[:, None]).flatten(-2))) * self.kept

    def _network(self, users: Tensor, items: Tensor) -> Tensor:
        fields = self._join(users, items)
        weights = self._weights(fields)
        if self.training and not self.selectable:
            with torch.no_grad():
                self.mean_weights.lerp_(weights.flatten(0, -2).float().mean(dim=0), STEP_SHARE)
        weighted = fields * weights[..., None]
        return self.projection(self.stack(weighted.flatten(-2)))[..., 0]

    def _check(self, users: object, items: object) -> None:
        dim = self.excitation.in_features // self.num_fields
        shapes = [part.shape[-2:] if isinstance(part, Tensor) and part.ndim > 2 else () for part in (users, items)]
        if shapes != [(self.num_user_fields, dim), (self.item_fields.count, dim)]:
            raise InputError(
                f"COLD scores [users, {self.num_user_fields}, {dim}] with [items, {self.item_fields.count}, {dim}]; "
                "these are another model's states"
            )
