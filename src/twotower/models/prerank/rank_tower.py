"""RankTower: cross-attention between diversified heads of both sides, then the sum of their best cosines."""

from __future__ import annotations

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor

from twotower.core.errors import InputError
from twotower.core.records import Batch, Encoded, Items, Users
from twotower.core.schema import Schema
from twotower.models.prerank.base import PreRanker
from twotower.scorers.heads import check_heads
from twotower.scorers.sum_max import SumMax
from twotower.scorers.tiles import in_tiles
from twotower.towers.fc_stack import FCStack
from twotower.towers.gated_heads import GatedHeads
from twotower.towers.heads import checked_head_dim
from twotower.towers.interaction.gated_cross_attention import GatedCrossAttention


class RankTower(PreRanker):
    """Score by gated heads a side, gated cross-attention both ways for each pair, and sum-max of cosines.

    Training adds two terms to the loss of the run: heads of one vector should differ (mean squared cosine between
    them), and each positive should score above items of other rows, a coarse ranking beside the fine one of labels.

    Source: Yan and Li, arXiv 2407.12385, as FIT (Xiong et al., SIGIR 2025, section 2) describes it: diversified
    representations, gated cross-attention, sum-max. Its samples of every stage of a cascade and the distillation from
    its ranking model have no counterpart in a public log: in their place stand other rows' items. The weight of either
    term, the gates' form and the diversity term are ours.

    Args:
        dim: numbers stored an item: ``item_heads`` of dim / item_heads.
        field_dim: width of one field's embedding.
        hidden: widths of the layers of each tower.
        user_heads: heads of the user, as wide as the item's.
        item_heads: heads of the item.
        diversity_weight: of the first term.
        coarse_weight: of the second term.
        coarse_negatives: items of other rows that each positive meets in the second term.
        temperature: scores are divided by it.
        learn_temperature: whether training moves it.
        user_id: whether the user's id is a field.
        history_length: latest items of the history that are read.
        batch_norm: whether each layer is normalised over the batch.
        dropout: share of hidden numbers set to 0 in training.

    Raises:
        InputError: if ``item_heads`` does not divide ``dim``.
    """

    has_vectors = False
    inner_product = False

    def __init__(
        self,
        schema: Schema,
        *,
        dim: int = 128,
        field_dim: int = 16,
        hidden: Sequence[int] = (300, 300, 128),
        user_heads: int = 4,
        item_heads: int = 4,
        diversity_weight: float = 0.01,
        coarse_weight: float = 0.1,
        coarse_negatives: int = 4,
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
        if min(diversity_weight, coarse_weight) < 0 or coarse_negatives < 1:
            raise ValueError(
                "weights of losses must not be negative and coarse_negatives at least 1, "
                f"got {diversity_weight}, {coarse_weight} and {coarse_negatives}"
            )
        self.head_dim = head_dim
        self.diversity_weight = diversity_weight
        self.coarse_weight = coarse_weight
        self.coarse_negatives = coarse_negatives
        self.user_stack = FCStack(self.num_user_fields * field_dim, hidden, batch_norm=batch_norm, dropout=dropout)
        self.item_stack = FCStack(self.item_fields.width, hidden, batch_norm=batch_norm, dropout=dropout)
        self.user_heads = GatedHeads(hidden[-1], heads=user_heads, dim=head_dim)
        self.item_heads = GatedHeads(hidden[-1], heads=item_heads, dim=head_dim)
        self.user_attention = GatedCrossAttention(head_dim)
        self.item_attention = GatedCrossAttention(head_dim)
        self.sum_max = SumMax()

    def encode_users(self, users: Users) -> Float[Tensor, "rows heads dim"]:
        """Return the gated heads."""
        return self.user_heads(self.user_stack(self.embed_users(users).flatten(1)))

    def encode_items(self, items: Items) -> Float[Tensor, "rows heads dim"]:
        """Return the gated heads."""
        return self.item_heads(self.item_stack(self.embed_items(items).flatten(1)))

    def score(
        self, users: Float[Tensor, "users user_heads dim"], items: Float[Tensor, "items item_heads dim"]
    ) -> Float[Tensor, "users items"]:
        """Score every pair by attention and sum-max."""
        self._check(users, items)
        return in_tiles(lambda some, others: self._network(some[:, None], others[None]), users, items)

    def score_rows(
        self, users: Float[Tensor, "rows user_heads dim"], items: Float[Tensor, "rows *n item_heads dim"]
    ) -> Float[Tensor, "rows *n"]:
        """Score row i with row i, or with each of its n items, by attention and sum-max."""
        self._check(users, items)
        return self._network(users if items.ndim == users.ndim else users[:, None], items)

    def forward(self, batch: Batch) -> Encoded:
        """Encode users and items; in training also compute the diversity and the coarse ranking loss."""
        users, items = self.encode_users(batch.users), self.encode_items(batch.items)
        losses: dict[str, Tensor] = {}
        if self.training and self.diversity_weight:
            losses["diversity"] = self.diversity_weight * (likeness_of_heads(users) + likeness_of_heads(items))
        if self.training and self.coarse_weight and len(users) > 1:
            losses["coarse"] = self.coarse_weight * self._coarse(users, items, batch)
        return Encoded(users, items, batch.items.ids, losses)

    def _coarse(self, users: Tensor, items: Tensor, batch: Batch) -> Tensor:
        """−log softmax of each positive against the items some rows further on; the same item there is masked, a user's
        further positives are not."""
        shifts = range(min(self.coarse_negatives, len(users) - 1) + 1)
        candidates = torch.stack([items.roll(-shift, dims=0) for shift in shifts], dim=1)
        ids = torch.stack([batch.items.ids.roll(-shift) for shift in shifts], dim=1)
        same = ids == ids[:, :1]
        same[:, 0] = False
        logits = (self._network(users[:, None], candidates) * self.logit_scale()).masked_fill(same, -torch.inf)
        loss = logits.logsumexp(dim=1) - logits[:, 0]
        if batch.labels is None:
            return loss.mean()
        return (loss * batch.labels).sum() / batch.labels.sum().clamp(min=1.0)

    def _network(self, users: Tensor, items: Tensor) -> Tensor:
        users, items = self.user_attention(users, items), self.item_attention(items, users)
        return self.sum_max(F.normalize(users, dim=-1) @ F.normalize(items, dim=-1).mT)

    def _check(self, users: Tensor, items: Tensor) -> None:
        check_heads(users, items)
        if users.shape[-1] != self.head_dim:
            raise InputError(
                f"RankTower scores heads of width {self.head_dim}, got {users.shape[-1]}: another model's?"
            )


def likeness_of_heads(heads: Float[Tensor, "rows heads dim"]) -> Float[Tensor, ""]:
    """Return the mean squared cosine between different heads of a row.

    0 when all are orthogonal, or when there is one head.
    """
    count = heads.shape[1]
    if count == 1:
        return heads.new_zeros(())
    unit = F.normalize(heads, dim=-1)
    squares = (unit @ unit.mT).square().sum(dim=(1, 2)) - unit.square().sum(dim=(1, 2))
    return squares.mean() / (count * (count - 1))
