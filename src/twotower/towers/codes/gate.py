"""Gate that chooses few codes softly: it stays good when lists are short."""

from __future__ import annotations

from typing import Any, NamedTuple

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn

from twotower.ops.kmeans import kmeans
from twotower.towers.codes.quantiser import CodeUse, use_of
from twotower.towers.codes.starting import Starting


class Gated(NamedTuple):
    """Hold the chosen codes of each row: numbers and softmax weights [rows, chosen], vectors and offsets.

    Vectors are [rows, chosen, dim]."""

    codes: Tensor
    weights: Tensor
    vectors: Tensor
    offsets: Tensor


class Gate(Starting):
    """Choose the c codes with the largest logits W h + g of N and weight them by their softmax.

    A code has a vector and an offset.

    Source: ours, for SparCode (Su et al., SIGIR 2023); like a mixture of experts whose experts are lists.

    Args:
        dim: width of h and of the codes' vectors.
        codes: N.
        chosen: c.

    Raises:
        ValueError: if a number is below 1 or more codes are chosen than there are.
    """

    counts: Tensor
    hits: Tensor

    def __init__(self, dim: int, *, codes: int = 256, chosen: int = 8) -> None:
        super().__init__()
        if dim < 1 or not 1 <= chosen <= codes:
            raise ValueError(f"a gate chooses 1 to all of its codes, got {chosen} of {codes}")
        self.codes, self.chosen = codes, chosen
        self.logits = nn.Linear(dim, codes)
        self.vectors = nn.Parameter(torch.randn(codes, dim) * dim**-0.5)
        self.offsets = nn.Parameter(torch.zeros(codes))
        self.register_buffer("counts", torch.zeros(1, codes))
        self.register_buffer("hits", torch.zeros(codes), persistent=False)
        self.register_load_state_dict_pre_hook(_without_counts)

    def forward(self, states: Float[Tensor, "rows dim"]) -> Gated:
        """Return the chosen codes of each row."""
        best, codes = self.logits(states).topk(self.chosen, dim=1)
        if self.training:
            self.hits.scatter_add_(0, codes.flatten(), torch.ones_like(codes, dtype=self.hits.dtype).flatten())
        return Gated(codes, best.softmax(1), self.vectors[codes], self.offsets[codes])

    def code_rows(self, codes: Int[Tensor, " codes"]) -> tuple[Tensor, Tensor]:
        """Return vectors and offsets of codes."""
        return self.vectors[codes], self.offsets[codes]

    def use(self) -> CodeUse:
        """Return how often codes were chosen in training since the last call, and keep it with the weights."""
        found = use_of(self.hits[None])
        self.counts.copy_(self.hits[None])
        self.hits.zero_()
        return found

    @torch.no_grad()
    def start(self, states: Float[Tensor, "rows dim"], *, seed: int = 0, temperature: float = 1.0) -> None:
        """Start at the k-means centres of these states: each row then chooses the centres nearest to it.

        A centre at distance r weighs e^(-r² / (2 ``temperature``)).
        """
        rows, generator = states.detach().cpu().float(), torch.Generator().manual_seed(seed)
        many = min(self.codes, len(rows))
        centres = kmeans(rows, many, restarts=1, iterations=20, generator=generator).centres
        if many < self.codes:
            more = rows[torch.randint(len(rows), (self.codes - many,), generator=generator)]
            noise = torch.randn(more.shape, generator=generator) * rows.std() * 0.1
            centres = torch.cat([centres, more + noise])
        self.vectors.copy_(centres)
        self.logits.weight.copy_(centres / temperature)
        self.logits.bias.copy_(-centres.square().sum(1) / (2.0 * temperature))
        self.begin()


def _without_counts(module: nn.Module, weights: dict[str, Any], prefix: str, *others: object) -> None:
    """Weights of before 30 November 2026 do not say how codes were used."""
    assert isinstance(module, Gate)
    weights.setdefault(f"{prefix}counts", torch.zeros_like(module.counts))
