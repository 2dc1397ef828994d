"""Tables by the name that a run gives them."""

from __future__ import annotations

from twotower.core.errors import InputError, unknown_name
from twotower.towers.hashed_table import HashedTable
from twotower.towers.host_table import HostTable
from twotower.towers.quotient_table import QuotientRemainderTable
from twotower.towers.shared_table import drawn_seed, share_or_all
from twotower.towers.sparse_table import SparseTable
from twotower.towers.table import DenseTable, Table
from twotower.towers.torchrec_table import TorchRecTable

TABLES = ("dense", "hashed", "quotient_remainder", "sparse", "host", "sharded", "torchrec")
"""What ``model.table`` may be."""
SHARING = ("hashed", "quotient_remainder")
"""Those whose ids share rows."""
HASHES = 2
"""Rows that are summed for an id of a hashed table unless said otherwise."""
MOST_HASHES = 64


def build_table(
    kind: str, num_rows: int, dim: int, *, buckets: int = 0, hashes: int = HASHES, std: float | None = None
) -> Table:
    """Build a table of ids.

    Args:
        kind: one of `TABLES`.
        num_rows: ids, padding and unknown included.
        dim: width of a vector.
        buckets: rows that a table of `SHARING` has for them.
        hashes: rows that are summed for an id of a hashed table.
        std: of the normal entries (of a sharded or TorchRec table: uniform ones); None: 1 / sqrt(dim).

    Raises:
        InputError: if the kind is unknown, the buckets or hashes do not suit it, or a table to be shared out has fewer
            rows than there are ranks.

    Examples:
        >>> build_table("hashed", 1000, 8, buckets=100).row_an_id
        False
    """
    check_kind(kind, buckets, hashes)
    if kind == "hashed":
        return HashedTable(num_rows, dim, buckets=buckets, hashes=hashes, std=std)
    if kind == "quotient_remainder":
        return QuotientRemainderTable(num_rows, dim, buckets=buckets, std=std)
    if kind == "sharded":
        return share_or_all(num_rows, dim, std=std)
    if kind == "torchrec":
        return TorchRecTable(num_rows, dim, seed=drawn_seed(), std=std)
    made = {"sparse": SparseTable, "host": HostTable}.get(kind, DenseTable)
    return made(num_rows, dim, std=std)


def check_kind(kind: str, buckets: int, hashes: int) -> None:
    """Refuse a kind that is none, and buckets and hashes where nothing reads them.

    Raises:
        InputError: says what there is.
    """
    if kind not in TABLES:
        raise unknown_name("model.table", kind, TABLES)
    if buckets and kind not in SHARING:
        raise InputError(f"model.table_buckets is read by {' and '.join(SHARING)} alone, and model.table is '{kind}'")
    if hashes != HASHES and kind != "hashed":
        raise InputError(f"model.table_hashes is read by a hashed table alone, and model.table is '{kind}'")
    if not 1 <= hashes <= MOST_HASHES:
        raise InputError(f"model.table_hashes = {hashes}: 1 to {MOST_HASHES} rows make the vector of an id")
