"""Latent semantic analysis: bags of words as short vectors, by TF-IDF and its main axes."""

from __future__ import annotations

from typing import NamedTuple

import torch
import torch.nn.functional as F
from jaxtyping import Float, Int
from torch import Tensor

from twotower.core.records import FIRST_KNOWN


class TextSpace(NamedTuple):
    """Hold the map from texts to vectors. Words 0 (padding) and 1 (unknown) have weight 0."""

    idf: Tensor
    """ln((1 + texts) / (1 + texts with the word)) + 1, float32 [words]."""
    axes: Tensor
    """float32 [words, dim]; axes beyond the rank of the texts are zero."""


def fit_text(words: Int[Tensor, "rows width"], size: int, dim: int, *, seed: int = 0) -> TextSpace:
    """Fit the space of these texts, by scikit-learn's ``TfidfTransformer`` and ``TruncatedSVD``.

    Source: Deerwester et al., "Indexing by latent semantic analysis", 1990, with smoothed idf.

    Args:
        words: rows of a vocabulary, 0 where padded.
        size: words of the vocabulary, with padding and unknown.
        dim: axes to keep.
        seed: of the randomised SVD.
    """
    import numpy as np
    from scipy.sparse import csr_matrix
    from sklearn.decomposition import TruncatedSVD
    from sklearn.feature_extraction.text import TfidfTransformer

    row, place = (words >= FIRST_KNOWN).nonzero(as_tuple=True)
    found = words[row, place].cpu().numpy()
    counts = csr_matrix(
        (np.ones(len(found)), (row.cpu().numpy(), found)), shape=(len(words), size)
    )  # repeats of a word add up
    idf = np.zeros(size)
    axes = np.zeros((size, dim))
    if len(found):
        weigh = TfidfTransformer()
        weighted = weigh.fit_transform(counts)
        idf = weigh.idf_
        rank = min(dim, len(np.unique(found)), len(np.unique(row.cpu().numpy())))
        reduced = TruncatedSVD(rank, random_state=seed % (1 << 32)).fit(weighted)
        axes[:, :rank] = reduced.components_.T
    idf[:FIRST_KNOWN] = 0.0
    return TextSpace(torch.from_numpy(idf).float(), torch.from_numpy(axes).float())


def text_vectors(space: TextSpace, words: Int[Tensor, "*rows width"]) -> Float[Tensor, "*rows dim"]:
    """Map each text to ``space``: TF-IDF scaled to length 1, on its axes. A text without a known word is zero."""
    flat = words.reshape(-1, words.shape[-1])
    summed = F.embedding_bag(flat, space.axes, mode="sum", per_sample_weights=space.idf[flat])
    # a word that stands n times has weight n · idf: equal words stand together once they are sorted
    ordered = flat.sort(dim=1).values
    change = torch.zeros_like(ordered)
    change[:, 1:] = ordered[:, 1:] != ordered[:, :-1]
    weights = torch.zeros_like(ordered, dtype=summed.dtype).scatter_add_(1, change.cumsum(1), space.idf[ordered])
    square = weights.square().sum(1, keepdim=True)
    unit = summed * torch.where(square > 0, square.clamp(min=1e-30).rsqrt(), 0.0)
    return unit.view(*words.shape[:-1], unit.shape[1])
