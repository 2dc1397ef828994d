"""SparCode by the number and size of its codebooks, and by its tokens a user.

Source: Su et al., "Beyond two-tower matching", SIGIR 2023, figures 4 (M codebooks of N codes) and 5 (K_u). Ours: one
learning rate, the table ``sparcode``'s first; N of 64, 256 and 1,024. With several codebooks a token's code is a pair,
and has no list here: such rows are dense.
"""

from __future__ import annotations

from collections.abc import Sequence

from twotower.experiment.run import Run
from twotower.reproduce.sparcode.measure import measure
from twotower.reproduce.sparcode.parts_picture import draw_each
from twotower.reproduce.sparcode.quick import COUNTED, ONE_SEED, form
from twotower.reproduce.sparcode.table import COLUMNS
from twotower.reproduce.study import Table

BOOKS, SIZES, TOKENS = (1, 2), (64, 256, 1024), (1, 2, 4, 8)


def by_codebooks(data: str) -> dict[str, Sequence[Run]]:
    """Return the rows of figure 4, and the tokens without codes."""
    rows: dict[str, Sequence[Run]] = {
        f"books_{books}_codes_{codes}": [form({"books": books, "codebook": codes})]
        for books in BOOKS
        for codes in SIZES
    }
    rows["no_codes"] = [form({"codes": "none"})]
    return rows | COUNTED


def by_tokens(data: str) -> dict[str, Sequence[Run]]:
    """Return the rows of figure 5."""
    rows: dict[str, Sequence[Run]] = {f"tokens_{tokens}": [form({"tokens": tokens})] for tokens in TOKENS}
    return rows | COUNTED


CODEBOOKS = Table(
    "sparcode-codebooks",
    "SparCode by the number M and the size N of its codebooks",
    ("ml-1m",),
    by_codebooks,
    measure,
    "books_1_codes_256",
    COLUMNS,
    3,
    fewer=ONE_SEED,
    views={
        f"books_1_codes_{codes}/lists {percent} %": (f"books_1_codes_{codes}", f"{percent}/")
        for codes in SIZES
        for percent in ("98", "99")
    },
    extras=draw_each,
    notes={"no_codes": "the same tokens unquantised."},
)
BY_TOKENS = Table(
    "sparcode-tokens",
    "SparCode by its tokens a user K_u",
    ("ml-1m",),
    by_tokens,
    measure,
    "tokens_4",
    COLUMNS,
    3,
    fewer=ONE_SEED,
    views={
        f"tokens_{tokens}/lists {percent} %": (f"tokens_{tokens}", f"{percent}/")
        for tokens in TOKENS
        for percent in ("98", "99")
    },
    extras=draw_each,
)
TABLES = (CODEBOOKS, BY_TOKENS)
