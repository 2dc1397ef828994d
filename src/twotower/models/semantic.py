"""Augmented-semantic two-tower: items by their texts alone, users by the texts of their latest items."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from jaxtyping import Float, Int
from torch import Tensor

from twotower.core.records import FIRST_KNOWN, PADDING, Features, Items, Users
from twotower.core.schema import Schema
from twotower.models.base import Model
from twotower.towers.sequence.causal import CausalTransformer
from twotower.towers.words import ResidualBlock, SemanticItems, TextField


class Semantic(Model):
    """Encode items by their texts, and users by the texts of their latest items.

    No id and no category is read, so that an item needs nothing but its text, before and after launch.

    Item: text vector (TF-IDF on its main axes, fixed) and keyword vector (learnt), residual feed-forward blocks. User:
    a sequential transformer over the item vectors of the recent history, a residual block. Score: the dot product;
    trained with binary cross-entropy in its recipe.

    Source: George et al., "Diagnosing Embedding Space Collapse", sections II-C and VII-A. Differences: the text vector
    is latent semantic analysis of the item's own texts where the paper takes a language model, and keywords are the
    words of highest idf where it takes named entities, so that training needs no network; a sentence encoder's vectors
    may come beside the first (``vectors``), a library's keywords in place of the second (``keyword_features``). Sizes
    are ours, as the paper gives none.

    Args:
        vectors: features of kind "vector" that an encoder made of the texts (`twotower.audit.text_encoder`).
        keyword_features: features of kind "multi_categorical" that hold keywords (`twotower.audit.keywords`).
        dim: width of user and item vectors.
        text_dim: width of a text vector.
        keyword_dim: width of a keyword vector.
        keywords: of a text, at most, where there are no ``keyword_features``.
        blocks: residual blocks of the item tower.
        layers: of the transformer.
        heads: of its attention; must divide ``dim``.
        history_length: latest items that are read.
        dropout: share of numbers set to 0 in training.
    """

    history_texts: Tensor
    history_vectors: Tensor
    fitted: Tensor

    def __init__(
        self,
        schema: Schema,
        *,
        vectors: Sequence[str] = (),
        keyword_features: Sequence[str] = (),
        dim: int = 64,
        text_dim: int = 64,
        keyword_dim: int = 32,
        keywords: int = 5,
        blocks: int = 2,
        layers: int = 1,
        heads: int = 2,
        history_length: int = 20,
        dropout: float = 0.1,
    ) -> None:
        super().__init__()
        self.schema = schema
        self.history_length = history_length
        self.items = SemanticItems(
            schema.item_features,
            vectors=vectors,
            keyword_features=keyword_features,
            dim=dim,
            text_dim=text_dim,
            keyword_dim=keyword_dim,
            keywords=keywords,
            blocks=blocks,
            dropout=dropout,
        )
        self.sequence = CausalTransformer(
            dim=dim, layers=layers, heads=heads, length=history_length, dropout=dropout, feed_forward=4
        )
        self.user_block = ResidualBlock(dim, dropout=dropout)
        self.words = [*self.items.texts, *self.items.keywords]
        self.widths = [feature.width for feature in self.words]
        self.sizes = [feature.size for feature in self.items.vectors]
        self.register_buffer("history_texts", torch.zeros(schema.num_items, sum(self.widths), dtype=torch.int64))
        self.register_buffer("history_vectors", torch.zeros(schema.num_items, sum(self.sizes)))
        self.register_buffer("fitted", torch.tensor(False))
        self.dim = dim

    def attach_items(self, items: Items) -> None:
        """Keep all texts and keywords for histories. The first call, before training, also makes the text vectors."""
        assert items.features is not None
        texts = [items.features[feature.name] for feature in self.words]
        vectors = [items.features[feature.name] for feature in self.items.vectors]
        self.history_texts.copy_(torch.cat([self.history_texts[:, :0], *texts], dim=1))
        self.history_vectors.copy_(torch.cat([self.history_vectors[:, :0], *vectors], dim=1))
        if not self.fitted:
            for seed, (field, words) in enumerate(zip(self.items.fields, texts, strict=False)):
                assert isinstance(field, TextField)
                field.fit(words[FIRST_KNOWN:], seed)
            self.fitted.fill_(True)

    def encode_items(self, items: Items) -> Float[Tensor, "rows dim"]:
        """Return one vector an item, from its texts and vectors."""
        return self.items(items.features or {})

    def logit_scale(self) -> float:
        """Return 1 / √dim, so that untrained logits have a size of about one."""
        return float(self.dim**-0.5)

    def encode_users(self, users: Users) -> Float[Tensor, "rows dim"]:
        """Return one vector a user, zero without a history."""
        history = users.history
        distinct, place = history.unique(return_inverse=True)
        vectors = self.items(self._stored(distinct))
        real = history != PADDING
        states = self.sequence.at_end(vectors[place] * real[:, :, None], real.sum(1))
        return self.user_block(states) * real.any(1, keepdim=True)

    def _stored(self, ids: Int[Tensor, " ids"]) -> Features:
        """What the item tower reads of known items."""
        texts = self.history_texts[ids].split(self.widths, dim=1)
        vectors = self.history_vectors[ids].split(self.sizes, dim=1)
        names = [feature.name for feature in (*self.words, *self.items.vectors)]
        return dict(zip(names, (*texts, *vectors), strict=True))
