"""Projections of vectors to two and three dimensions for people to look at: PCA, t-SNE, UMAP."""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

from twotower.core.seeds import derive, numpy_generator

LEAST_POINTS = 5
"""Below this many points there are no neighbourhoods for t-SNE or UMAP to keep."""
KEPT_AXES = 50
"""Principal axes that t-SNE and UMAP see: the rest costs time and holds next to nothing of the neighbourhoods."""
PERPLEXITY = 30.0
UMAP_NEIGHBOURS = 15


class Projection(NamedTuple):
    """Hold one way to draw the points: ``flat`` [points, 2], ``deep`` [points, 3], and a sentence on how to read it."""

    name: str
    flat: Tensor
    deep: Tensor
    note: str


def project(vectors: Float[Tensor, "points dim"], *, seed: int = 0) -> tuple[list[Projection], list[str]]:
    """Return PCA of the vectors, t-SNE of their directions, and UMAP of the same where umap-learn is installed.

    t-SNE and UMAP see unit vectors, so that near means a high cosine, and start from the principal axes, so that a
    seed gives the same picture again.

    Returns:
        The projections, and a sentence on each one that is missing.
    """
    plain, held = principal(vectors, 3)
    found = [
        Projection(
            "PCA",
            plain[:, :2],
            plain,
            f"Straight projection about the mean: two axes hold {held[:2].sum():.0%} of the variance, "
            f"three hold {held[:3].sum():.0%}.",
        )
    ]
    lengths = torch.linalg.vector_norm(vectors.double(), dim=1, keepdim=True)
    unit = vectors.double() / torch.where(lengths > 0, lengths, 1.0)
    axes, shares = principal(unit, KEPT_AXES)
    if len(vectors) < LEAST_POINTS or not shares.any():
        why = f"fewer than {LEAST_POINTS} vectors" if len(vectors) < LEAST_POINTS else "all directions are the same"
        return found, [f"No t-SNE and no UMAP: {why}."]
    # the scale is taken off: neither method should depend on how narrow a cone is
    axes = axes / axes[:, 0].std()
    perplexity = min(PERPLEXITY, (len(axes) - 1) / 3)
    found.append(
        Projection(
            "t-SNE",
            _t_sne(axes, 2, perplexity, seed),
            _t_sne(axes, 3, perplexity, seed),
            f"Keeps neighbourhoods (perplexity {perplexity:.0f}): groups are real, distances between groups are not.",
        )
    )
    try:
        import umap
    except ImportError:
        return found, ["No UMAP: umap-learn is not installed (it comes with twotower[plots])."]
    neighbours = min(UMAP_NEIGHBOURS, len(axes) - 1)
    found.append(
        Projection(
            "UMAP",
            _umap(umap, axes, 2, neighbours, seed),
            _umap(umap, axes, 3, neighbours, seed),
            f"Keeps neighbourhoods ({neighbours} neighbours) and some of the larger layout.",
        )
    )
    return found, []


def principal(vectors: Float[Tensor, "points dim"], width: int) -> tuple[Tensor, Tensor]:
    """Return coordinates on the first principal axes [points, width] and the share of variance on each [width].

    Axes that the vectors do not have are zero. The largest entry of each axis is positive, so signs do not flip
    between runs.
    """
    plane = principal_axes(vectors, width)
    return (vectors.double() - plane.mean) @ plane.axes.T, plane.shares


class Axes(NamedTuple):
    """Hold principal axes: ``mean`` [dim] of the vectors, ``axes`` [width, dim] and the variance's ``shares`` [width].

    A further vector lies at ``(vector - mean) @ axes.T``.
    """

    mean: Tensor
    axes: Tensor
    shares: Tensor


def principal_axes(vectors: Float[Tensor, "points dim"], width: int) -> Axes:
    """Return the mean and the first principal axes of vectors, as `principal` draws them, in float64."""
    mean = vectors.double().mean(0)
    _, values, axes = torch.linalg.svd(vectors.double() - mean, full_matrices=False)
    axes = axes * torch.take_along_dim(axes, axes.abs().argmax(1, keepdim=True), 1).sign()
    total = values.square().sum()
    # what rounding alone leaves of equal vectors is no spread
    floor = torch.finfo(torch.float64).eps * vectors.double().abs().max() * max(vectors.shape)
    first, shares = torch.zeros(width, vectors.shape[1]).double(), torch.zeros(width).double()
    if total.sqrt() > floor:
        there = min(width, len(values))
        first[:there] = axes[:there]
        shares[:there] = values[:there].square() / total
    return Axes(mean, first, shares)


def _t_sne(axes: Tensor, width: int, perplexity: float, seed: int) -> Tensor:
    from sklearn.manifold import TSNE
    from threadpoolctl import threadpool_limits

    model = TSNE(
        width, perplexity=perplexity, init=_start(axes, width, 1e-4, seed), random_state=derive(seed, "t-sne") % 2**32
    )
    # scikit-learn would take every core it sees: on a shared machine its threads then wait for each other, busily
    with threadpool_limits(torch.get_num_threads(), user_api="openmp"):
        return torch.from_numpy(np.array(model.fit_transform(axes.float().numpy()), dtype=np.float64))


def _umap(umap: Any, axes: Tensor, width: int, neighbours: int, seed: int) -> Tensor:
    model = umap.UMAP(
        n_neighbors=neighbours,
        n_components=width,
        init=_start(axes, width, 5.0, seed),
        random_state=derive(seed, "umap") % 2**32,
        n_jobs=1,
    )
    return torch.from_numpy(np.array(model.fit_transform(axes.float().numpy()), dtype=np.float64))


def _start(axes: Tensor, width: int, spread: float, seed: int) -> Any:
    """The first principal axes with a trace of noise, which parts repeated vectors and fills axes that are missing."""
    first = np.zeros((len(axes), width))
    there = min(width, axes.shape[1])
    first[:, :there] = axes[:, :there].numpy()
    noise = numpy_generator(seed, "start", width).normal(size=first.shape)
    return (spread * (first + 1e-3 * noise)).astype(np.float32)
