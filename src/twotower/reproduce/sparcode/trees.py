"""Tree-based deep model (TDM) by its tree: as first built, or learned in turn with the model; SparCode beside it.

Source: Su et al., "Beyond two-tower matching", SIGIR 2023, table 4, and the trees of Zhu et al., KDD 2018. Ours: first
trees by co-occurrence or by popularity; in turn: new trees after the second and the fourth epoch of six. TDM has the
learning rate of the table ``sparcode``'s second choice, SparCode its first.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from twotower.experiment.run import Run
from twotower.reproduce.sparcode.measure import measure
from twotower.reproduce.sparcode.quick import COUNTED, NETWORK, OF_NETWORK, ONE_SEED, at_rate, form
from twotower.reproduce.sparcode.table import COLUMNS, tree
from twotower.reproduce.study import Table

TREES: dict[str, dict[str, Any]] = {
    f"{scorer}_{first}_{how}": {"scorer": scorer, "first_tree": tree_of, "rounds": rounds}
    for scorer, first, tree_of in (
        ("mlp", "likeness", "cooccurrence"),
        ("mlp", "popularity", "popularity"),
        ("attention", "likeness", "cooccurrence"),
        ("dot", "likeness", "cooccurrence"),
    )
    for how, rounds in (("first", 0), ("in_turn", 2))
}
CODED = {"mean_dot": "dot", "mean_dnn": "dnn"}
"""SparCode with the mean of the history, which is what the paper's YouTubeDNN reads."""


def variants(data: str) -> dict[str, Sequence[Run]]:
    """Return every row."""
    rows: dict[str, Sequence[Run]] = {
        name: [tree(settings, at_rate(NETWORK, 3e-3))] for name, settings in TREES.items()
    }
    for name, scorer in CODED.items():
        rows[name] = [form({"tokenizer": "dnn", "scorer": scorer}, NETWORK, OF_NETWORK)]
    return rows | COUNTED


TABLE = Table(
    "sparcode-trees",
    "TDM by its tree, and SparCode with the same encoder",
    ("ml-1m",),
    variants,
    measure,
    "mlp_likeness_first",
    COLUMNS,
    3,
    fewer=ONE_SEED,
    views={f"{name}/beam": (name, "beam/") for name in TREES} | {f"{name}/lists 98 %": (name, "98/") for name in CODED},
    notes={
        "mlp_likeness_first": "every item scored by the nodes' scorer; /beam: down the tree, 100 nodes a level.",
    },
)
TABLES = (TABLE,)
