"""Synthetic categories for rows that lack them: drawn from training as a whole, or by kind of text."""

from __future__ import annotations

import math

import torch
from jaxtyping import Float, Int
from torch import Tensor

from twotower.core.errors import InputError
from twotower.core.records import FIRST_KNOWN, UNKNOWN
from twotower.ops.kmeans import kmeans

ROWS_A_CLUSTER = 20
"""Training rows that a cluster of texts holds on average."""
MOST_CLUSTERS = 512


def draw_marginals(
    training: Int[Tensor, "rows *width"], count: int, generator: torch.Generator
) -> Int[Tensor, "count *width"]:
    """Draw ``count`` values, each as frequent as in ``training`` up to less than one, in random order.

    The values are a systematic sample: training rows are sorted by value, and every (rows / count)-th is taken from a
    random start. A row of several values is one value, so that their combinations keep their shares too.

    Source: George et al., "Diagnosing Embedding Space Collapse", section VII-B, first form. Difference: shares are met
    exactly instead of on average, so that a small table is not left to chance.

    Raises:
        InputError: if there is no training row.

    Examples:
        >>> drawn = draw_marginals(torch.tensor([2, 2, 2, 5]), 8, torch.Generator().manual_seed(0))
        >>> drawn.bincount().tolist()
        [0, 0, 6, 0, 0, 2]
    """
    if not len(training):
        raise InputError("no training row has a value, so there is nothing to draw from")
    values, codes = training.unique(dim=0, return_inverse=True)
    ordered = codes.sort().values
    start = torch.rand((), dtype=torch.float64, generator=generator)
    places = (torch.arange(count, dtype=torch.float64) + start) * len(training) / count
    taken = ordered[places.long().clamp(max=len(training) - 1)]
    return values[taken[torch.randperm(count, generator=generator)]]


def assign_by_cluster(
    training: Int[Tensor, "rows *width"],
    training_vectors: Float[Tensor, "rows dim"],
    vectors: Float[Tensor, "count dim"],
    generator: torch.Generator,
    *,
    clusters: int | None = None,
) -> Int[Tensor, "count *width"]:
    """Return, for each of ``vectors``, the value that most training rows of the same cluster have.

    Training vectors are clustered by k-means; each row of ``vectors`` belongs to the nearest centre. A vector of length
    0 tells nothing and gets what is most frequent among all training rows. Relations of the vectors to the values are
    kept, as far as clusters see them; shares are not: rare values lose.

    Source: George et al., "Diagnosing Embedding Space Collapse", section VII-B, second form, which leaves open how a
    cluster becomes a category.

    Args:
        training: values of the training rows, none of them without any.
        training_vectors: what is known of those rows, such as their texts.
        vectors: the same of the rows to be given a value.
        generator: of k-means.
        clusters: how many; None: one for each twenty training rows, at most 512.

    Raises:
        InputError: if there is no training row.
    """
    if not len(training):
        raise InputError("no training row has a value, so there is nothing to go by")
    number = clusters or min(MOST_CLUSTERS, math.ceil(len(training) / ROWS_A_CLUSTER))
    found = kmeans(training_vectors, min(number, len(training)), restarts=3, generator=generator)
    nearest = torch.cdist(vectors, found.centres).argmin(1)
    nearest = nearest.masked_fill(vectors.square().sum(1) == 0, -1)
    assigned = torch.zeros((len(vectors), *training.shape[1:]), dtype=torch.int64)
    for cluster in nearest.unique().tolist():
        members = training[found.labels == cluster]
        assigned[nearest == cluster] = prevailing(members if len(members) else training)
    return assigned


def prevailing(values: Int[Tensor, "rows *width"]) -> Int[Tensor, "*width"]:
    """Return the most frequent value; of rows with several, as many as a row has on average.

    Padding (0) and unknown (1) do not count unless there is nothing else; equal counts: the lower value first.

    Examples:
        >>> prevailing(torch.tensor([[2, 3, 0], [3, 0, 0], [3, 5, 0], [3, 2, 0]]))
        tensor([3, 2, 0])
    """
    counts = values.flatten().bincount(minlength=FIRST_KNOWN)
    counts[:FIRST_KNOWN] = 0
    order = counts.argsort(descending=True, stable=True)
    order = order[counts[order] > 0]
    if values.ndim == 1:
        return order[0] if len(order) else values.new_tensor(UNKNOWN)
    number = round(int(counts.sum()) / len(values)) or 1
    row = torch.zeros_like(values[0])
    kept = order[:number] if len(order) else values.new_tensor([UNKNOWN])
    row[: len(kept)] = kept
    return row
