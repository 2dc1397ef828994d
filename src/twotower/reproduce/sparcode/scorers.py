"""SparCode by the score of a code with an item: dot product, max-sim, cross network, a deep network (DNN), InnerPDNN.

Source: Su et al., "Beyond two-tower matching", SIGIR 2023, table 3 (on Deezer). Ours: on the sequences of ML-1M with
self-attention, two tokens an item, since max-sim of one is the dot product; every row chooses between two learning
rates; the networks have 128 and 64 hidden numbers, the cross network three layers.
"""

from __future__ import annotations

from collections.abc import Sequence

from twotower.experiment.run import Run
from twotower.reproduce.sparcode.measure import measure
from twotower.reproduce.sparcode.quick import COUNTED, NETWORK, OF_NETWORK, ONE_SEED, RATES, form, sampled_twin
from twotower.reproduce.sparcode.table import COLUMNS
from twotower.reproduce.study import Table
from twotower.towers.codes.scorers import SCORERS

ORACLES = ("dot", "inner_pdnn")
"""Scorers that are trained without codes too."""


def variants(data: str) -> dict[str, Sequence[Run]]:
    """Return every row."""
    rows: dict[str, Sequence[Run]] = {"two_tower": [sampled_twin({}, NETWORK, OF_NETWORK, rate=rate) for rate in RATES]}
    for name in SCORERS:
        settings = {"scorer": name, "item_tokens": 2}
        rows[f"sparcode_{name}"] = [form(settings, NETWORK, OF_NETWORK, rate=rate) for rate in RATES]
    for name in ORACLES:
        settings = {"scorer": name, "item_tokens": 2, "codes": "none"}
        rows[f"all_to_all_{name}"] = [form(settings, NETWORK, OF_NETWORK, rate=rate) for rate in RATES]
    return rows | COUNTED


TABLE = Table(
    "sparcode-scorers",
    "SparCode by its scorer of codes and items",
    ("ml-1m",),
    variants,
    measure,
    "two_tower",
    COLUMNS,
    3,
    fewer=ONE_SEED,
    views={
        f"sparcode_{name}/lists {percent} %": (f"sparcode_{name}", f"{percent}/")
        for name in SCORERS
        for percent in ("98", "99")
    },
    notes={
        "two_tower": "the twin with self-attention, trained against as few items as the networks.",
        **{f"all_to_all_{name}": "without codes." for name in ORACLES},
    },
)
TABLES = (TABLE,)
