"""Quality and time against sparsity and mean list length: SparCode's lists, a gate's, and lists that nominate.

Source: Su et al., "Beyond two-tower matching", SIGIR 2023, equation 15 and figure 6. Ours: lists of the best L items a
code beside those of one bias; rows that are one training each, answered by lists of six lengths; the time is the
processor time of a search for one user, codes known (SparCode, gate) or found (nominating), called from Python.
"""

from __future__ import annotations

from collections.abc import Sequence

from twotower.experiment.run import Run
from twotower.reproduce.sparcode.measure import CURVE, measure_curve
from twotower.reproduce.sparcode.quick import COUNTED, ONE_SEED, form, sampled_twin
from twotower.reproduce.sparcode.sparsity_picture import draw_each
from twotower.reproduce.sparcode.table import GATE_SPHERE
from twotower.reproduce.study import Table

COLUMNS = ("recall@50", "ndcg@50", "sparsity", "mean_list", "longest", "empty", "short", "microseconds")
LISTED = ("nominate", "quantised", "gate")


def variants(data: str) -> dict[str, Sequence[Run]]:
    """Return the rows that are trained."""
    return {
        "nominate": [sampled_twin({})],
        "quantised": [form({})],
        "gate": [form({"codes": "gate", "codebook": 1024, **GATE_SPHERE})],
        **COUNTED,
    }


TABLE = Table(
    "sparcode-sparsity",
    "Lists by their length: quality, mean length and time of a search",
    ("ml-1m",),
    variants,
    measure_curve,
    "nominate",
    COLUMNS,
    3,
    fewer=ONE_SEED,
    views={f"{name}/{percent:g} %": (name, f"{percent:g}/") for name in LISTED for percent in CURVE}
    | {
        f"{name}/one bias {percent:g} %": (name, f"bias{percent:g}/")
        for name in LISTED[1:]
        for percent in CURVE
        if percent
    },
    extras=draw_each,
    notes={
        "nominate": "the twin with self-attention; with a per cent: lists of 1,024 codes nominate, it ranks.",
        "quantised": "SparCode as it is; with a per cent: by its lists of that sparsity.",
        "gate": "the eight best of 1,024 codes.",
    },
)
TABLES = (TABLE,)
