"""Sparse autoencoder of vectors: each as a few positive numbers over many learned directions."""

from __future__ import annotations

from typing import NamedTuple

import torch
from jaxtyping import Float, Int
from torch import Tensor

from twotower.core.errors import InputError

BATCH, RATE = 512, 3e-3
EPOCHS, LEAST, MOST = 20, 200, 1000
"""Epochs over the vectors, as far as they make no fewer and no more steps than the other two."""


class Directions(NamedTuple):
    """Hold an autoencoder: encoder [dim, codes], bias [codes], decoder [codes, dim] of unit rows, mean [dim]."""

    encoder: Tensor
    bias: Tensor
    decoder: Tensor
    mean: Tensor


def encode(
    vectors: Float[Tensor, "rows dim"], directions: Directions, active: int
) -> tuple[Int[Tensor, "rows active"], Float[Tensor, "rows active"]]:
    """Return the ``active`` codes of each vector that are largest, and their values of at least 0."""
    found = ((vectors - directions.mean) @ directions.encoder + directions.bias).relu().topk(active, dim=1)
    return found.indices, found.values


def decode(
    codes: Int[Tensor, "rows active"], values: Float[Tensor, "rows active"], directions: Directions
) -> Float[Tensor, "rows dim"]:
    """Restore vectors from their codes."""
    return (values[:, :, None] * directions.decoder[codes]).sum(1) + directions.mean


def fit_directions(vectors: Float[Tensor, "rows dim"], codes: int, active: int, *, seed: int = 0) -> Directions:
    """Learn directions by which few numbers restore the vectors: the least squared error, by Adam.

    Directions begin at vectors that are drawn, so that few are never used.

    Source: the top-k autoencoder of Kasalický et al., "The future is sparse: embedding compression for scalable
    retrieval in recommender systems", RecSys 2025 (CompresSAE). Differences: values of one sign, so that each code is
    one list; squared error of vectors as long as they are, since users take inner products with them.

    Args:
        vectors: finite.
        codes: directions.
        active: codes of a vector.
        seed: of the draws.

    Raises:
        InputError: if there are no vectors, ``active`` is not between 1 and ``codes``, or a vector is not finite.
    """
    if not 1 <= active <= codes or not len(vectors):
        raise InputError(f"sparse codes: {active} of {codes} codes for {len(vectors)} vectors")
    if not vectors.isfinite().all():
        raise InputError("sparse codes: a vector holds NaN or inf; was training stable?")
    generator = torch.Generator().manual_seed(seed)
    vectors = vectors.detach().float().cpu()
    mean = vectors.mean(0)
    scale = (vectors - mean).square().mean().sqrt().clamp(min=1e-6)
    given = (vectors - mean) / scale
    drawn = given[torch.randint(len(given), (codes,), generator=generator)]
    drawn = drawn + 0.1 * torch.randn(drawn.shape, generator=generator)
    decoder = torch.nn.functional.normalize(drawn, dim=1)
    weights = [decoder.T.clone(), torch.zeros(codes), decoder.clone()]
    with torch.inference_mode(False), torch.enable_grad():
        learnt = [part.clone().requires_grad_() for part in weights]
        optimizer = torch.optim.Adam(learnt, lr=RATE)
        size = min(BATCH, len(given))
        for _ in range(min(max(LEAST, EPOCHS * len(given) // size), MOST)):
            batch = given[torch.randint(len(given), (size,), generator=generator)].clone()
            now = Directions(learnt[0], learnt[1], torch.nn.functional.normalize(learnt[2], dim=1), torch.zeros(1))
            loss = (decode(*encode(batch, now, active), now) - batch).square().mean()
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
    encoder, bias, decoder = (part.detach() for part in learnt)
    return Directions(encoder, bias * scale, torch.nn.functional.normalize(decoder, dim=1), mean)
