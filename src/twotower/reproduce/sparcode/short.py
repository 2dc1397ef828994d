"""SparCode's table as it was trained first: six epochs, and codes that start after one of them.

Kept beside the present table for what it shows: on 4,000 items SparCode learns this way, on 43,000 its codes start at
tokens that know nothing yet and stay there. Rows of SparCode were not tuned; they have the dot product and the rate of
their twins. The gate and the printed form are no rows here: their models have changed since.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

from twotower.experiment.run import Run
from twotower.reproduce.sparcode import table
from twotower.reproduce.sparcode.table import ENCODERS, SCORES, TRAINED, TREES, coded, counted, twin


def variants(data: str) -> dict[str, Sequence[Run]]:
    """Return every row: twins as they were tuned, SparCode at one setting."""
    rows: dict[str, Sequence[Run]] = {
        name: [twin(encoder, score) for score in SCORES] for name, encoder in ENCODERS.items()
    }
    rows |= {f"sparcode_{name}": [coded({"tokenizer": encoder}, TRAINED)] for name, encoder in ENCODERS.items()}
    rows["all_to_all"] = [coded({"codes": "none"}, TRAINED)]
    present = table.variants(data)
    same = ("popularity", "item_cosine", "all_to_all_pdnn")
    as_they_come = ("item_lists", *(("ease",) if "ease" in present else ()))
    return (
        rows
        | {name: present[name] for name in same if name in present}
        | {name: [counted(name)] for name in as_they_come}
    )


TABLE = replace(
    table.TABLE,
    name="sparcode-short",
    title="SparCode trained for six epochs with codes from the second on, and its twins",
    variants=variants,
    views={view: (of, prefix) for view, (of, prefix) in table.TABLE.views.items() if of not in ("gate_sasrec", *TREES)},
    notes={
        "sparcode_sasrec": "not tuned, nor is any other row of SparCode. On Diginetica these rows and all_to_all are "
        "not trained out: they say nothing about SparCode.",
        "all_to_all": table.TABLE.notes["all_to_all"],
        "all_to_all_pdnn": table.TABLE.notes["all_to_all_pdnn"],
    },
)
TABLES = (TABLE,)
