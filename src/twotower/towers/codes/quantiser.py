"""Vector and product quantisation of tokens, with codebooks that are moving averages of the tokens."""

from __future__ import annotations

from typing import NamedTuple

import torch
import torch.nn.functional as F
from jaxtyping import Float, Int
from torch import Tensor, nn

from twotower.ops.kmeans import kmeans
from twotower.towers.codes.starting import Starting

GRADIENTS = ("straight_through", "stop_gradient")
UPDATES = ("ema", "gradient")


class Quantised(NamedTuple):
    """Hold tokens after quantisation.

    ``vectors`` is [rows, tokens, dim], ``codes`` int64 [rows, tokens, books]; ``losses`` by name are scalars that
    are not yet weighted.
    """

    vectors: Tensor
    codes: Tensor
    losses: dict[str, Tensor]


class CodeUse(NamedTuple):
    """Hold how codebooks were used since the last call.

    ``used`` is the share of codes with a token, ``perplexity`` exp of the entropy of use over the number of codes (1:
    all alike), ``busiest`` the largest share of one code.
    """

    used: float
    perplexity: float
    busiest: float


def use_of(hits: Float[Tensor, "books codes"]) -> CodeUse:
    """Return how codes are used, from how often each was: means over codebooks.

    Examples:
        >>> use_of(torch.tensor([[2.0, 2.0, 0.0, 0.0]]))
        CodeUse(used=0.5, perplexity=0.5, busiest=0.5)
    """
    share = hits / hits.sum(1, keepdim=True).clamp(min=1.0)
    entropy = -(share * share.clamp(min=1e-12).log()).sum(1)
    used, perplexity = (hits > 0).float().mean(), (entropy.exp() / hits.shape[1]).mean()
    return CodeUse(used.item(), perplexity.item(), share.max(1).values.mean().item())


class Quantiser(Starting):
    """Replace each of the M parts of a token by the nearest of N codes (Euclidean).

    Until `start` the tokens pass as they are. EMA update of code n with decay g, from the tokens t that took it:

        N_n <- g N_n + (1 - g) count,   V_n <- g V_n + (1 - g) Σ t,   code n = V_n / N_n

    Source: SparCode (Su et al., SIGIR 2023), equations 7, 8 and 13 and the codebook update, after van den Oord et al.,
    NeurIPS 2017. Differences: gradients pass straight through by default (with the printed stop-gradient the tokenizer
    learns from the commitment loss alone, and collapses), the commitment loss is a mean over numbers and not a sum,
    codes start from k-means, and codes that lose their tokens come back at tokens drawn at random.

    Args:
        dim: width of a token.
        tokens: how many tokens a row has; each has codebooks of its own unless ``shared``.
        codes: N, codes of a codebook.
        books: M, parts of a token, each with a codebook; must divide ``dim``.
        shared: whether all tokens share their codebooks.
        gradient: "straight_through", or "stop_gradient" as printed.
        update: "ema", or "gradient": codes are parameters, pulled by the squared distance to their tokens.
        decay: g of the EMA.
        revive: a code whose N_n is below this share of the mean is put at a token of the batch; 0: never.

    Raises:
        ValueError: if a setting is out of range or ``books`` does not divide ``dim``.
    """

    counts: Tensor
    sums: Tensor
    hits: Tensor

    def __init__(
        self,
        dim: int,
        *,
        tokens: int = 1,
        codes: int = 256,
        books: int = 1,
        shared: bool = False,
        gradient: str = "straight_through",
        update: str = "ema",
        decay: float = 0.99,
        revive: float = 0.05,
    ) -> None:
        super().__init__()
        if min(dim, tokens, codes, books) < 1 or dim % books:
            raise ValueError(f"{books} codebooks do not divide tokens of width {dim}, or a count is below 1")
        if gradient not in GRADIENTS or update not in UPDATES:
            raise ValueError(f"gradient is one of {GRADIENTS} and update of {UPDATES}, got {gradient!r}, {update!r}")
        if not (0.0 < decay < 1.0 and 0.0 <= revive < 1.0):
            raise ValueError(f"decay must be in (0, 1) and revive in [0, 1), got {decay} and {revive}")
        self.tokens, self.codes, self.books, self.shared = tokens, codes, books, shared
        self.gradient, self.update, self.decay, self.revive = gradient, update, decay, revive
        groups = books * (1 if shared else tokens)
        first = torch.randn(groups, codes, dim // books) * dim**-0.5
        if update == "gradient":
            self.centres = nn.Parameter(first)
        else:
            self.register_buffer("centres", first)
        self.register_buffer("counts", torch.zeros(groups, codes))
        self.register_buffer("sums", torch.zeros_like(first))
        self.register_buffer("hits", torch.zeros(groups, codes))

    def forward(self, tokens: Float[Tensor, "rows tokens dim"]) -> Quantised:
        """Return the nearest codes; in training they move towards the tokens that they replace."""
        rows, count = tokens.shape[:2]
        if not self.begun:
            return Quantised(tokens, tokens.new_full((rows, count, self.books), -1, dtype=torch.int64), {})
        parts = self._parts(tokens)
        found = self._nearest(parts.detach())
        chosen = self._tokens(self._look_up(found), rows)
        losses = {}
        if self.training:
            losses["commitment"] = F.mse_loss(tokens, chosen.detach())
            if self.update == "gradient":
                losses["codebook"] = F.mse_loss(chosen, tokens.detach())
        vectors = chosen.detach() if self.gradient == "stop_gradient" else tokens + (chosen - tokens).detach()
        if self.training:
            self._follow(parts.detach(), found)
        codes = self._tokens(found[:, :, None], rows)
        return Quantised(vectors, codes, losses)

    @torch.no_grad()
    def start(self, tokens: Float[Tensor, "rows tokens dim"], *, seed: int = 0) -> None:
        """Put the codes at the k-means centres of these tokens; from now on tokens are quantised.

        With fewer tokens than codes, the codes that are left over stand at tokens of the batch with a little noise.
        """
        parts, generator = self._parts(tokens.detach()), torch.Generator().manual_seed(seed)
        for group, rows in enumerate(parts):
            many = min(self.codes, len(rows))
            found = kmeans(rows.cpu().float(), many, restarts=1, iterations=20, generator=generator)
            centres = found.centres
            taken = torch.bincount(found.labels, minlength=self.codes).float()
            if many < self.codes:
                more = torch.randint(len(rows), (self.codes - many,), generator=generator)
                noise = torch.randn(len(more), rows.shape[1], generator=generator)
                centres = torch.cat([centres, rows.cpu().float()[more] + 1e-3 * noise])
            self.centres.data[group] = centres.to(self.centres)
            self.counts[group] = taken.clamp(min=1.0).to(self.counts) / len(rows)
        self.sums.copy_(self.centres.data * self.counts[:, :, None])
        self.begin()

    def use(self, *, reset: bool = True) -> CodeUse:
        """Return how the codes were used in training since the last call: means over codebooks."""
        found = use_of(self.hits)
        if reset:
            self.hits.zero_()
        return found

    def numbers(self, codes: Int[Tensor, "rows tokens books"]) -> Int[Tensor, "rows tokens"]:
        """Return one number for the codes of each token: those of token 0 first, the last book counting by one."""
        number = torch.arange(self.tokens, device=codes.device).expand(codes.shape[:2])
        for book in range(self.books):
            number = number * self.codes + codes[:, :, book]
        return number

    def vectors(self, numbers: Int[Tensor, " numbers"]) -> Float[Tensor, "numbers dim"]:
        """Return the quantised tokens of these `numbers`: their codes side by side; not for shared codebooks."""
        parts, rest = [], numbers
        for book in reversed(range(self.books)):
            parts.append((book, rest % self.codes))
            rest = rest // self.codes
        return torch.cat([self.centres[rest * self.books + book, code] for book, code in reversed(parts)], dim=1)

    def _parts(self, tokens: Tensor) -> Tensor:
        """What each codebook sees: [groups, rows, width]."""
        rows, count, _ = tokens.shape
        split = tokens.reshape(rows, count, self.books, -1)
        if self.shared:
            return split.permute(2, 0, 1, 3).flatten(1, 2)
        return split.permute(1, 2, 0, 3).flatten(0, 1)

    def _tokens(self, parts: Tensor, rows: int) -> Tensor:
        """The inverse of `_parts`."""
        if self.shared:
            return parts.unflatten(1, (rows, -1)).permute(1, 2, 0, 3).flatten(2)
        return parts.unflatten(0, (-1, self.books)).permute(2, 0, 1, 3).flatten(2)

    def _nearest(self, parts: Tensor) -> Int[Tensor, "groups rows"]:
        centres = self.centres.detach()
        half = centres.square().sum(2)[:, None] / 2.0
        return torch.baddbmm(half, parts, centres.transpose(1, 2), alpha=-1.0).argmin(dim=2)

    def _look_up(self, found: Tensor) -> Tensor:
        return self.centres.gather(1, found[:, :, None].expand(-1, -1, self.centres.shape[2]))

    @torch.no_grad()
    def _follow(self, parts: Tensor, found: Tensor) -> None:
        taken = torch.zeros_like(self.counts).scatter_add_(1, found, torch.ones_like(found, dtype=self.counts.dtype))
        self.hits += taken
        where = found[:, :, None].expand_as(parts)
        total = torch.zeros_like(self.sums).scatter_add_(1, where, parts.to(self.sums.dtype))
        per_row = 1.0 / parts.shape[1]  # counts are shares, so that batches of any size weigh alike
        self.counts.mul_(self.decay).add_(taken * per_row, alpha=1.0 - self.decay)
        self.sums.mul_(self.decay).add_(total * per_row, alpha=1.0 - self.decay)
        if self.update == "ema":
            self.centres.copy_(self.sums / self.counts.clamp(min=1e-12)[:, :, None])
        if self.revive:
            self._revive(parts)

    def _revive(self, parts: Tensor) -> None:
        """Dead codes move to tokens of the batch; which ones are dead is never asked on the host, which would wait."""
        dead = self.counts < self.revive / self.codes
        row = torch.randint(parts.shape[1], dead.shape, device=parts.device)
        fresh = parts.gather(1, row[:, :, None].expand(-1, -1, parts.shape[2])).to(self.sums.dtype)
        self.centres.data.copy_(torch.where(dead[:, :, None], fresh.to(self.centres.dtype), self.centres.data))
        self.sums.copy_(torch.where(dead[:, :, None], fresh / self.codes, self.sums))
        self.counts.masked_fill_(dead, 1.0 / self.codes)
