"""IntTower (interaction-enhanced two-tower): heads of every user layer are compared with the item's last layer's."""

from __future__ import annotations

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from jaxtyping import Float, Int
from torch import Tensor, nn

from twotower.core.errors import InputError
from twotower.core.records import Batch, Encoded, Items, Users
from twotower.core.schema import Schema
from twotower.models.prerank.base import PreRanker
from twotower.scorers.heads import HeadScorer
from twotower.scorers.sum_max import SumMax
from twotower.towers.fc_stack import FCStack
from twotower.towers.heads import Heads, checked_head_dim
from twotower.towers.light_se import LightSE


class IntTower(PreRanker):
    """Score by sum-max over layers and heads, with weighted fields and a contrastive loss.

    In the paper's words: Light-SE (light squeeze-and-excitation) on the fields, FE-Block (fine-grained and early
    feature interaction), and CIR (contrastive interaction regularisation).

    Each user layer's output is mapped to ``user_heads`` heads, the item's last one to ``item_heads``; a score is the
    sum, over all user heads of all layers, of the best similarity with an item head.

    Source: Li et al., CIKM 2022, sections 3.2 to 3.4. Differences: heads may be normalised; the contrastive loss
    compares the towers' last outputs among the batch's items, for rows with label 1, and enters the training loss.
    With heads of any length the printed form starts at logits near 100, since a score is a sum of many inner products:
    the public code has a small start and an output bias, which are here ``head_std`` and ``output_bias``.

    Args:
        dim: numbers stored an item: ``item_heads`` of dim / item_heads.
        field_dim: width of one field's embedding.
        hidden: widths of the layers of each tower.
        user_heads: heads of one user layer, as wide as the item's.
        item_heads: heads of the item.
        contrastive_weight: of the contrastive loss.
        contrastive_temperature: of its cosines.
        normalise_heads: whether heads have length 1, so that their similarities are cosines.
        head_std: standard deviation of the weights that make heads, when training starts; their biases are 0 then. 0:
            PyTorch's own start.
        output_bias: whether a learnt number, 0 at the start, is added to every score.
        temperature: scores are divided by it.
        learn_temperature: whether training moves it.
        user_id: whether the user's id is a field.
        history_length: latest items of the history that are read.
        batch_norm: whether each layer is normalised over the batch.
        dropout: share of hidden numbers set to 0 in training.

    Raises:
        InputError: if ``item_heads`` does not divide ``dim``, or ``head_std`` is negative.
    """

    has_vectors = False
    inner_product = False

    def __init__(
        self,
        schema: Schema,
        *,
        dim: int = 1024,
        field_dim: int = 16,
        hidden: Sequence[int] = (300, 300, 128),
        user_heads: int = 16,
        item_heads: int = 16,
        contrastive_weight: float = 0.1,
        contrastive_temperature: float = 0.1,
        normalise_heads: bool = True,
        head_std: float = 0.0,
        output_bias: bool = False,
        temperature: float = 1.0,
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
        head_dim = checked_head_dim(dim, user_heads, item_heads)
        if not head_std >= 0.0:
            raise InputError(f"head_std must be at least 0, got {head_std}")
        if contrastive_weight < 0 or contrastive_temperature <= 0:
            raise ValueError(
                "the contrastive loss needs a weight of at least 0 and a positive temperature, "
                f"got {contrastive_weight} and {contrastive_temperature}"
            )
        self.contrastive_weight = contrastive_weight
        self.contrastive_temperature = contrastive_temperature
        self.user_se = LightSE(self.num_user_fields)
        self.item_se = LightSE(self.item_fields.count)
        self.user_stack = FCStack(self.num_user_fields * field_dim, hidden, batch_norm=batch_norm, dropout=dropout)
        self.item_stack = FCStack(self.item_fields.width, hidden, batch_norm=batch_norm, dropout=dropout)
        self.user_heads = nn.ModuleList(
            Heads(width, heads=user_heads, dim=head_dim, normalise=normalise_heads) for width in hidden
        )
        self.item_heads = Heads(hidden[-1], heads=item_heads, dim=head_dim, normalise=normalise_heads)
        if head_std:
            for heads in (*self.user_heads, self.item_heads):
                assert isinstance(heads, Heads)
                nn.init.normal_(heads.linear.weight, std=head_std)
                nn.init.zeros_(heads.linear.bias)
        self.scorer = HeadScorer(SumMax())
        self.bias = nn.Parameter(torch.zeros(())) if output_bias else None

    def encode_users(self, users: Users) -> Float[Tensor, "rows heads dim"]:
        """Return the heads of all layers, first layer first."""
        return self._all_heads(self._user_layers(users))

    def encode_items(self, items: Items) -> Float[Tensor, "rows heads dim"]:
        """Return the heads of the last layer."""
        return self.item_heads(self._item_output(items))

    def score(
        self, users: Float[Tensor, "users user_heads dim"], items: Float[Tensor, "items item_heads dim"]
    ) -> Float[Tensor, "users items"]:
        """Score every user with every item by sum-max."""
        return self._biased(self.scorer(users, items))

    def score_rows(
        self, users: Float[Tensor, "rows user_heads dim"], items: Float[Tensor, "rows *n item_heads dim"]
    ) -> Float[Tensor, "rows *n"]:
        """Score row i with row i, or with each of its n items, by sum-max."""
        return self._biased(self.scorer.pairs(users, items))

    def forward(self, batch: Batch) -> Encoded:
        """Encode users and items; in training also compute the contrastive loss."""
        layers, output = self._user_layers(batch.users), self._item_output(batch.items)
        losses: dict[str, Tensor] = {}
        if self.training and self.contrastive_weight:
            loss = contrastive_loss(layers[-1], output, batch.items.ids, batch.labels, self.contrastive_temperature)
            losses["contrastive"] = self.contrastive_weight * loss
        return Encoded(self._all_heads(layers), self.item_heads(output), batch.items.ids, losses)

    def _biased(self, scores: Tensor) -> Tensor:
        return scores if self.bias is None else scores + self.bias

    def _user_layers(self, users: Users) -> list[Tensor]:
        return self.user_stack.outputs(self.user_se(self.embed_users(users)).flatten(1))

    def _item_output(self, items: Items) -> Tensor:
        return self.item_stack(self.item_se(self.embed_items(items)).flatten(1))

    def _all_heads(self, layers: list[Tensor]) -> Tensor:
        return torch.cat([heads(layer) for heads, layer in zip(self.user_heads, layers, strict=True)], dim=1)


def contrastive_loss(
    users: Float[Tensor, "rows dim"],
    items: Float[Tensor, "rows dim"],
    item_ids: Int[Tensor, " rows"],
    labels: Float[Tensor, " rows"] | None,
    temperature: float,
) -> Float[Tensor, ""]:
    """Return the contrastive loss of positive rows.

    Mean over positive rows of −log softmax(cos(user, items of the batch) / temperature) at the row's own item.

    Other rows that hold the same item are no negatives; a user's further positives in the batch are. 0 without
    positives.

    Source: IntTower (Li et al., CIKM 2022), section 3.4 (CIR).
    """
    cosines = F.normalize(users, dim=1) @ F.normalize(items, dim=1).T / temperature
    same = item_ids[:, None] == item_ids[None]
    same.fill_diagonal_(False)
    own = cosines.diagonal() - cosines.masked_fill(same, -torch.inf).logsumexp(dim=1)
    if labels is None:
        return -own.mean()
    return -(own * labels).sum() / labels.sum().clamp(min=1.0)
