"""A table of fewer rows than ids: each id is the sum of a few rows that hashes choose, shared with other ids."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from jaxtyping import Float, Int
from torch import Tensor, nn

from twotower.core.errors import InputError
from twotower.core.records import FIRST_KNOWN, PADDING, UNKNOWN
from twotower.core.seeds import derive

PRIME = (1 << 31) - 1
"""Ids and the hashes' numbers are below it, so that a product fits an int64."""
LEAST_BUCKETS = 2


class HashedTable(nn.Module):
    """Sum ``hashes`` rows of one pool for each id, over the root of their number.

        v(i) = Σ_j E[h_j(i)] / √k,  h_j(i) = ((a_j i + b_j) mod p) mod buckets,  p = 2³¹ − 1

    Two ids that share one row differ in the others, unless all k hashes meet: with k = 2 that is one pair of ids in
    about buckets² / 2. Padding is zero, and the unknown id has a row of its own, as have, through it, ids that came
    after the table was made.

    Source: Weinberger et al., ICML 2009, for one hash; Serrà and Karatzoglou, RecSys 2017 (Bloom embeddings), for
    several. Differences: hashes of one universal family (Carter and Wegman, 1979) in place of signed ones, the sum over
    the root of k (so that a vector is as long as a dense one's), and the output is not hashed.

    Args:
        num_rows: ids, padding and unknown included.
        dim: width of a vector.
        buckets: rows of the pool.
        hashes: rows that are summed for an id.
        std: of the normal entries; None: 1 / sqrt(dim).

    Raises:
        InputError: if there are too few buckets, or too many ids to hash.
    """

    row_an_id = False
    multipliers: Tensor
    shifts: Tensor
    known_ids: Tensor

    def __init__(self, num_rows: int, dim: int, *, buckets: int, hashes: int = 2, std: float | None = None) -> None:
        super().__init__()
        check_buckets(buckets, num_rows)
        if hashes < 1 or num_rows >= PRIME:
            raise InputError(f"a hashed table wants a hash and fewer than {PRIME:,} ids, got {hashes} and {num_rows}")
        self.num_rows, self.dim, self.buckets, self.hashes = num_rows, dim, buckets, hashes
        self.rows = nn.Parameter(torch.empty(FIRST_KNOWN + buckets, dim).normal_(std=std or dim**-0.5))
        drawn = [[1 + derive(place, f"hash {part}") % (PRIME - 1) for place in range(hashes)] for part in "ab"]
        self.register_buffer("multipliers", torch.tensor(drawn[0]))
        self.register_buffer("shifts", torch.tensor(drawn[1]))
        self.register_buffer("known_ids", torch.tensor(num_rows))
        with torch.no_grad():
            self.rows[PADDING] = 0.0

    def places(self, ids: Int[Tensor, "*shape"]) -> Int[Tensor, "*shape hashes"]:
        """Return the rows of each id: those of its hashes; padding and the unknown id have one, named k times."""
        chosen = (ids[..., None] * self.multipliers + self.shifts) % PRIME % self.buckets + FIRST_KNOWN
        ids = torch.where(ids < self.known_ids, ids, UNKNOWN)
        return torch.where(ids[..., None] < FIRST_KNOWN, ids[..., None], chosen)

    def forward(self, ids: Int[Tensor, "*shape"]) -> Float[Tensor, "*shape dim"]:
        """Return the vector of each id."""
        places = self.places(ids)
        summed = F.embedding_bag(places.reshape(-1, self.hashes), self.rows, mode="sum", padding_idx=PADDING)
        return summed.view(*ids.shape, self.dim) * self.hashes**-0.5

    def mean(self, ids: Int[Tensor, "rows length"]) -> Float[Tensor, "rows dim"]:
        """Return the mean of each row's ids without padding; zero where all is padding."""
        if not ids.shape[1]:
            return self.rows.new_zeros(ids.shape[0], self.dim)
        mean = F.embedding_bag(self.places(ids).flatten(1), self.rows, mode="mean", padding_idx=PADDING)
        return mean * self.hashes**0.5

    def whole(self) -> Float[Tensor, "ids dim"]:
        """Return the vectors of all ids, in their order."""
        found: Tensor = self(torch.arange(self.num_rows, device=self.rows.device))
        return found

    @torch.no_grad()
    def put(self, ids: Int[Tensor, " ids"], rows: Float[Tensor, "ids dim"]) -> None:
        """Set the row of the unknown id, the only one that is its own.

        Raises:
            InputError: if another id is named.
        """
        only_unknown(ids, "hashed")
        self.rows[UNKNOWN] = (rows[0] * self.hashes**-0.5).to(self.rows)

    def extra_repr(self) -> str:
        """Hold the sizes."""
        return f"{self.num_rows}, {self.dim}, {self.buckets} buckets, {self.hashes} hashes"


def check_buckets(buckets: int, num_rows: int) -> None:
    """Refuse a number of rows that is no table, or no smaller one than a dense table.

    Raises:
        InputError: says what would do.
    """
    if not LEAST_BUCKETS <= buckets < num_rows:
        raise InputError(
            f"a table that shares rows needs at least {LEAST_BUCKETS} buckets and fewer than its {num_rows:,} ids, got "
            f"{buckets:,}: set model.table_buckets, such as {max(LEAST_BUCKETS, num_rows // 4):,}, or model.table = "
            "'dense'"
        )


def only_unknown(ids: Tensor, kind: str) -> None:
    """Refuse to set any row but that of the unknown id.

    Raises:
        InputError: if ``ids`` names another.
    """
    if ids.tolist() != [UNKNOWN]:
        raise InputError(f"ids of a {kind} table share their rows, so that none can be set but that of the unknown id")
