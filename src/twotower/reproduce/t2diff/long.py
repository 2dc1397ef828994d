"""T2Diff and SASRec trained until SASRec has all it can give: MovieLens-1M, width 32, 110 epochs.

The table ``t2diff`` gives every row the same short schedule, which may be too short for SASRec on MovieLens-1M. Here
SASRec, and T2Diff's rows that come near it there, get the schedule of a prototype in which SASRec was tuned: 2e-3 along
a cosine to 0, a decay of 0.1, 110 epochs, the best validation of every fifth one. It is SASRec's schedule, the same for
all; dropouts are 0, 0.1 and 0.2, chosen on validation. Data, windows, batches, targets and metrics are the table's.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

from twotower.experiment.run import Run
from twotower.reproduce.study import Table
from twotower.reproduce.t2diff.measure import measure
from twotower.reproduce.t2diff.rows import counted, size_of, trained
from twotower.reproduce.t2diff.table import COLUMNS, FEWER, NOTES

EPOCHS = 110
RATE = 2e-3
DECAY = 0.1
ROWS = ("sasrec", "mixed_attention", "t2diff_as_served", "t2diff")


def longer(run: Run) -> Run:
    """Return the run with the long schedule."""
    training = replace(
        run.training,
        epochs=EPOCHS,
        learning_rate=RATE,
        schedule="cosine",
        weight_decay=DECAY,
        evaluate_every=5,
        patience=0,
    )
    return replace(run, training=training)


def variants(data: str) -> dict[str, Sequence[Run]]:
    """Return closed forms, and the rows, each with its three choices."""
    size = size_of(data)
    return {
        **counted(size),
        **{row: [longer(trained(row, size, dropout=size.beside(step))) for step in (-2, -1, 0)] for row in ROWS},
    }


TABLE = Table(
    "t2diff-long",
    "T2Diff and SASRec at width 32, trained for 110 epochs",
    ("ml-1m",),
    variants,
    measure,
    "sasrec",
    COLUMNS,
    3,
    fewer=FEWER,
    notes={"popularity": NOTES["popularity"]},
)
TABLES = (TABLE,)
