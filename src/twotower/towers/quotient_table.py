"""A table of two small ones: each id is the product of the row of its quotient and the row of its remainder."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from jaxtyping import Float, Int
from torch import Tensor, nn

from twotower.core.records import FIRST_KNOWN, PADDING, UNKNOWN
from twotower.towers.hashed_table import check_buckets, only_unknown


class QuotientRemainderTable(nn.Module):
    """Embed an id as the product of a row for id // buckets and one for id mod buckets: no two ids are the same.

        v(i) = Q[i ÷ m] ∘ R[i mod m],  m the buckets

    It has buckets + ids / buckets rows. Padding is zero, and the unknown id has a row of its own, as have, through it,
    ids that came after the table was made.

    Source: Shi et al., Compositional Embeddings Using Complementary Partitions, KDD 2020, algorithm 2. Difference: the
    quotients' rows begin near 1, so that vectors begin as those of their remainders, as long as a dense table's.

    Args:
        num_rows: ids, padding and unknown included.
        dim: width of a vector.
        buckets: remainders, each with a row.
        std: of the normal entries of the remainders; None: 1 / sqrt(dim).

    Raises:
        InputError: if there are too few buckets, or as many as ids.
    """

    row_an_id = False
    known_ids: Tensor

    def __init__(self, num_rows: int, dim: int, *, buckets: int, std: float | None = None) -> None:
        super().__init__()
        check_buckets(buckets, num_rows)
        self.num_rows, self.dim, self.buckets = num_rows, dim, buckets
        quotients = -(-num_rows // buckets)
        self.quotients = nn.Parameter(1.0 + 0.5 * torch.randn(FIRST_KNOWN + quotients, dim))
        self.remainders = nn.Parameter(torch.empty(FIRST_KNOWN + buckets, dim).normal_(std=std or dim**-0.5))
        self.register_buffer("known_ids", torch.tensor(num_rows))
        with torch.no_grad():
            self.quotients[:FIRST_KNOWN] = 1.0
            self.remainders[PADDING] = 0.0

    def forward(self, ids: Int[Tensor, "*shape"]) -> Float[Tensor, "*shape dim"]:
        """Return the vector of each id."""
        ids = torch.where(ids < self.known_ids, ids, UNKNOWN)
        own = ids < FIRST_KNOWN  # padding and the unknown id have rows before those of the others, in both tables
        left = torch.where(own, ids, ids // self.buckets + FIRST_KNOWN)
        right = torch.where(own, ids, ids % self.buckets + FIRST_KNOWN)
        rows = F.embedding(right, self.remainders, padding_idx=PADDING)
        return F.embedding(left, self.quotients, padding_idx=PADDING) * rows

    def mean(self, ids: Int[Tensor, "rows length"]) -> Float[Tensor, "rows dim"]:
        """Return the mean of each row's ids without padding; zero where all is padding."""
        present = (ids != PADDING).sum(1, keepdim=True).clamp(min=1)
        return self(ids).sum(1) / present

    def whole(self) -> Float[Tensor, "ids dim"]:
        """Return the vectors of all ids, in their order."""
        found: Tensor = self(torch.arange(self.num_rows, device=self.remainders.device))
        return found

    @torch.no_grad()
    def put(self, ids: Int[Tensor, " ids"], rows: Float[Tensor, "ids dim"]) -> None:
        """Set the row of the unknown id, the only one that is its own.

        Raises:
            InputError: if another id is named.
        """
        only_unknown(ids, "quotient_remainder")
        self.quotients[UNKNOWN], self.remainders[UNKNOWN] = 1.0, rows[0].to(self.remainders)

    def extra_repr(self) -> str:
        """Hold the sizes."""
        return f"{self.num_rows}, {self.dim}, {self.buckets} remainders"
