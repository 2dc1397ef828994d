"""T2Diff beside its nine baselines and three newer towers: each a user tower of one kind, trained and tested alike.

Source: Wang et al., "Unleashing the potential of two-tower models: diffusion-based cross-interaction for large-scale
matching", WWW 2025, table 2. As there: MovieLens-1M with its latest 200 events a user (which gives the paper's counts
of users, items and nearly of interactions) at cut-offs 2 and 20; clicks of KuaiRand at 10 and 100, of **KuaiRand-Pure**
though (7,807 users with five clicks, 4,564 items), which is not the paper's 27K and not to be compared with it. Amazon
Beauty (5-core) stands beside them. Users with five events and more; the full softmax; item vectors of 32, which with
3,649 of them is about the paper's 0.126 M of parameters.

Ours, since the paper is silent: the last event of a user is the test, the one before it the validation, all else
trains; the whole catalogue is ranked without what the user has had before. Every place of a window is trained. Dot
products, as far as a tower has them (STOSA: its Wasserstein distance; DAT+: its cosine). AdamW at 4e-3 with 50 steps of
warm-up and a linear fall to 0 over 20 epochs (MovieLens: 30; BERT4Rec, which asks for a fifth of the places: twice as
many), the best validation of every second epoch; every row chooses among the same dropouts of its data set
(MovieLens: four, else five), the rate is one for all, which favours SASRec if any: 4e-3 was preferred to 2e-3 by its
validation on KuaiRand-Pure (one training each). All else at a model's default; T2Diff's U-Net has 32 channels, which
makes it as large as the paper's (0.06 M).

"t2diff_printed" is the paper's own: mixed attention over a session of 20, vectors as they are, all 50 steps of the
reverse process when asked; with time lags on KuaiRand-Pure alone, since the other two logs have no clock.
"t2diff_as_served" learns from what pure noise gives, in four passes and with normalised vectors; "t2diff" is the
default here, a prediction by the same U-Net without noise. Both have SASRec's tower.

``t2diff-wide`` has the rows of most interest at widths 64 and 128, chosen on validation data; ``t2diff-long`` SASRec
and those near it on MovieLens-1M under a schedule that is long enough for SASRec, which 30 epochs may not be.
"""

from __future__ import annotations

from collections.abc import Sequence

from twotower.experiment.run import Run
from twotower.reproduce.study import Table
from twotower.reproduce.t2diff.costs import write_costs
from twotower.reproduce.t2diff.measure import measure
from twotower.reproduce.t2diff.rows import COUNTED, TOWERS, choices, counted, size_of, trained

DATA = ("ml-1m", "amazon-reviews Beauty", "kuairand-pure")
COLUMNS = (
    *(f"{name}@{k}" for name in ("recall", "mrr") for k in (2, 20, 10, 100)),
    "ndcg@10",
    "million_parameters",
    "cosine_trained",
    "cosine_asked",
)
HEADLINE = ("sasrec", "t2diff", "t2diff_as_served", "t2diff_printed")
"""Rows of five seeds."""
WIDE = ("sasrec", "gru4rec", "hstu", "lrurec", "diffurec", "t2diff_as_served", "t2diff")
DEAR = ("mixed_attention", "t2diff_printed")
"""Rows of the wide table that windows of 200 make too dear."""
LONG = ("ml-1m",)
FEWER = dict.fromkeys(COUNTED, 1)
"""Trainings of rows that draw nothing."""


def variants(data: str) -> dict[str, Sequence[Run]]:
    """Return every row at width 32."""
    size = size_of(data)
    return {**counted(size), **{row: choices(row, size) for row in TOWERS}}


def wide_variants(data: str) -> dict[str, Sequence[Run]]:
    """Return closed forms, and rows that choose among two widths by two dropouts, less the narrower with the higher."""
    size = size_of(data)
    middle, high = size.dropout, size.beside(1)
    shapes = ((64, middle), (128, middle), (128, high))
    rows = (*WIDE, *(() if data in LONG else DEAR))
    wide = {row: [trained(row, size, width=width, dropout=dropout) for width, dropout in shapes] for row in rows}
    return {**counted(size), **wide}


NOTES = {
    "popularity": "closed forms draw nothing: one training.",
    "bert4rec": "twice the epochs of all others; each asks for about a fifth of the places.",
    "stosa": "16 numbers for a mean and 16 for its variances, scored by the Wasserstein distance.",
    "dat_plus": "cosine over 0.1, the default of DAT+; under a dot product its mimic loss has no bounds.",
    "t2diff_printed": "the paper's own form: cosine_trained is read with the answer at hand, cosine_asked without it.",
}

TABLE = Table(
    "t2diff",
    "T2Diff, its baselines and newer sequence towers at width 32",
    DATA,
    variants,
    measure,
    "sasrec",
    COLUMNS,
    5,
    fewer=FEWER | {row: 3 for row in TOWERS if row not in HEADLINE},
    notes=NOTES,
    extras=write_costs,
)
WIDE_TABLE = Table(
    "t2diff-wide",
    "T2Diff and sequence towers, each at the better of widths 64 and 128",
    DATA,
    wide_variants,
    measure,
    "sasrec",
    COLUMNS,
    3,
    fewer=FEWER,
    notes={name: NOTES[name] for name in ("popularity", "t2diff_printed")},
    extras=write_costs,
)
TABLES = (TABLE, WIDE_TABLE)
