"""Registry of the tables. Add one: its file holds the `Table`; list it here."""

from __future__ import annotations

from twotower.core.errors import unknown_name
from twotower.reproduce import fit, fit_exposures, fit_query_start, fit_users, negatives
from twotower.reproduce.leaderboard import table as leaderboard
from twotower.reproduce.sparcode import codebooks as sparcode_codebooks
from twotower.reproduce.sparcode import cold as sparcode_cold
from twotower.reproduce.sparcode import scorers as sparcode_scorers
from twotower.reproduce.sparcode import short as sparcode_short
from twotower.reproduce.sparcode import sparsity as sparcode_sparsity
from twotower.reproduce.sparcode import splits as sparcode_splits
from twotower.reproduce.sparcode import table as sparcode
from twotower.reproduce.sparcode import trees as sparcode_trees
from twotower.reproduce.sparcode import tries as sparcode_tries
from twotower.reproduce.study import Table
from twotower.reproduce.t2diff import ablations as t2diff_ablations
from twotower.reproduce.t2diff import long as t2diff_long
from twotower.reproduce.t2diff import table as t2diff

LISTED: tuple[Table, ...] = (
    *fit.TABLES,
    *fit_query_start.TABLES,
    *fit_users.TABLES,
    *fit_exposures.TABLES,
    *negatives.TABLES,
    *sparcode.TABLES,
    *sparcode_splits.TABLES,
    *sparcode_cold.TABLES,
    *sparcode_short.TABLES,
    *sparcode_scorers.TABLES,
    *sparcode_codebooks.TABLES,
    *sparcode_sparsity.TABLES,
    *sparcode_trees.TABLES,
    *sparcode_tries.TABLES,
    *leaderboard.TABLES,
    *t2diff.TABLES,
    *t2diff_long.TABLES,
    *t2diff_ablations.TABLES,
)
TABLES = {table.name: table for table in LISTED}


def table_of(name: str) -> Table:
    """Return the table of that name.

    Raises:
        InputError: if there is none; names the closest.
    """
    if name not in TABLES:
        raise unknown_name("table", name, TABLES)
    return TABLES[name]
