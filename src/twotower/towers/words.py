"""Item towers that read words alone: a text vector and keywords, through residual feed-forward blocks."""

from __future__ import annotations

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from jaxtyping import Float, Int
from torch import Tensor, nn

from twotower.core.records import PADDING, UNKNOWN, Features
from twotower.core.schema import Feature
from twotower.towers.latent_text import TextSpace, fit_text, text_vectors
from twotower.towers.table import DenseTable


class ResidualBlock(nn.Module):
    """Apply x + W₂ · GELU(W₁ · LayerNorm(x)), W₁ four times as wide as x.

    Source: the feed-forward block of Radford et al., GPT-2, 2019, which George et al. ("Diagnosing Embedding Space
    Collapse", section II-C) put between the dense layers of both towers.
    """

    def __init__(self, dim: int, *, dropout: float = 0.0) -> None:
        super().__init__()
        self.inner = nn.Sequential(
            nn.LayerNorm(dim), nn.Linear(dim, 4 * dim), nn.GELU(), nn.Linear(4 * dim, dim), nn.Dropout(dropout)
        )

    def forward(self, x: Float[Tensor, "*rows dim"]) -> Float[Tensor, "*rows dim"]:
        """Apply the block to every row."""
        return x + self.inner(x)


class TextField(nn.Module):
    """Encode one text: its latent semantic vector, and the mean of learned vectors of its keywords.

    Keywords are the words of a text with the highest idf, those that tell it from others; each counts once. With
    ``keywords`` = 0 there is the text vector alone.

    Args:
        feature: of kind "text".
        text_dim: width of the text vector.
        keyword_dim: width of a keyword's vector.
        keywords: of a text, at most.
    """

    idf: Tensor
    axes: Tensor

    def __init__(self, feature: Feature, *, text_dim: int, keyword_dim: int, keywords: int) -> None:
        super().__init__()
        self.name, self.size = feature.name, feature.size
        self.keywords = min(keywords, feature.width)
        self.width = text_dim + (keyword_dim if keywords else 0)
        self.register_buffer("idf", torch.zeros(feature.size))
        self.register_buffer("axes", torch.zeros(feature.size, text_dim))
        self.table = DenseTable(feature.size, keyword_dim) if keywords else None

    def fit(self, words: Int[Tensor, "rows width"], seed: int) -> None:
        """Take the space of the text vectors from these texts."""
        space = fit_text(words, self.size, self.axes.shape[1], seed=seed)
        self.idf.copy_(space.idf)
        self.axes.copy_(space.axes)

    def forward(self, words: Int[Tensor, "rows width"]) -> Float[Tensor, "rows numbers"]:
        """Return text vector and keyword vector side by side; zeros for a text without a word that training knew."""
        text = text_vectors(TextSpace(self.idf, self.axes), words)
        if self.table is None:
            return text
        keywords = self.keywords_of(words)
        found = (keywords > 0).sum(1, keepdim=True).clamp(min=1)
        return torch.cat([text, self.table(keywords).sum(1) / found], dim=1)

    def keywords_of(self, words: Int[Tensor, "rows width"]) -> Int[Tensor, "rows keywords"]:
        """Return the words of each text with the highest TF-IDF, 0 where there are fewer."""
        ordered = words.sort(dim=1).values
        repeats = torch.zeros_like(ordered, dtype=torch.bool)
        repeats[:, 1:] = ordered[:, 1:] == ordered[:, :-1]
        weights, place = self.idf[ordered].masked_fill(repeats, 0.0).topk(self.keywords, dim=1)
        return ordered.gather(1, place).masked_fill(weights <= 0, 0)


class SemanticItems(nn.Module):
    """Encode all texts of an item, with vectors and keywords that a library made of them, as one vector.

    Args:
        vectors: the features of kind "vector" that come from an encoder of texts.
        keyword_features: the features of kind "multi_categorical" that hold keywords, in place of those of highest idf.

    Raises:
        ValueError: if there is neither a text nor such a feature, or a name is not one of its kind.
    """

    def __init__(
        self,
        features: tuple[Feature, ...],
        *,
        vectors: Sequence[str] = (),
        keyword_features: Sequence[str] = (),
        dim: int,
        text_dim: int,
        keyword_dim: int,
        keywords: int,
        blocks: int,
        dropout: float,
    ) -> None:
        super().__init__()
        self.texts = [feature for feature in features if feature.kind == "text"]
        self.vectors = _named(features, "vector", "vectors", vectors)
        self.keywords = _named(features, "multi_categorical", "keyword_features", keyword_features)
        if not self.texts and not self.vectors and not self.keywords:
            raise ValueError("items have no feature of kind 'text', and it reads nothing else")
        self.fields = nn.ModuleList(
            TextField(feature, text_dim=text_dim, keyword_dim=keyword_dim, keywords=0 if self.keywords else keywords)
            for feature in self.texts
        )
        self.tables = nn.ModuleList(DenseTable(feature.size, keyword_dim) for feature in self.keywords)
        width = len(self.texts) * text_dim + (len(self.tables) or len(self.texts)) * keyword_dim
        width += sum(feature.size for feature in self.vectors)
        self.project = nn.Linear(width, dim)
        self.blocks = nn.Sequential(*(ResidualBlock(dim, dropout=dropout) for _ in range(blocks)))
        self.norm = nn.LayerNorm(dim)

    def forward(self, values: Features) -> Float[Tensor, "rows dim"]:
        """Return one vector a row.

        Given vectors are scaled to length 1, a missing one is zero; unknown keywords are left out.
        """
        read = [field(values[feature.name]) for field, feature in zip(self.fields, self.texts, strict=True)]
        for table, feature in zip(self.tables, self.keywords, strict=True):
            assert isinstance(table, DenseTable)
            known = values[feature.name].masked_fill(values[feature.name] == UNKNOWN, PADDING)
            read.append(table.mean(known))
        read += [F.normalize(values[feature.name].nan_to_num(), dim=1) for feature in self.vectors]
        return self.norm(self.blocks(self.project(torch.cat(read, dim=1))))


def _named(features: tuple[Feature, ...], kind: str, setting: str, names: Sequence[str]) -> list[Feature]:
    """The features of this kind that a setting names."""
    found = [feature for feature in features if feature.kind == kind and feature.name in names]
    if len(found) < len(names):
        known = [feature.name for feature in features if feature.kind == kind]
        raise ValueError(f"{setting} = {list(names)}: the items' features of kind '{kind}' are {known}")
    return found
