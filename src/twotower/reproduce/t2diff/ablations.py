"""T2Diff's parts one by one: what is restored and how, the noise, λ, the session, and equal numbers of targets.

Source: the ablations of Wang et al. (T2Diff), WWW 2025, tables 2 to 4, and more. Protocol, sizes and schedule are those
of the table ``t2diff``; nothing is tuned, every row has the middle one of the data set's dropouts.

Rows say what differs from the row that they begin with. "t2diff" is the default, a prediction by the U-Net without
noise; "as_served" starts from pure noise in training as when asked; "printed" is the leak under the same tower as those
two, so that it can be told from "paper", which has mixed attention, vectors as they are and all steps of the reverse
process. "_item": the item itself and not the drift to it ("W/O DP" of the paper). "_plain": vectors not normalised.
"_ligr", "_hstu": blocks of those models in the tower. "_steps": passes of the reverse process, where the default is
four. "mixed" is mixed attention alone. "_equal": no early stop, and the weights after the last epoch, for cloze after
as many as ask for about the same number of targets.

Every part is a row of KuaiRand-Pure, where a training is short and a clock parts sessions. On MovieLens-1M, the paper's
own set, whose histories are long enough to have a session and what precedes it, are the rows that decide: what is
restored, under which attention. It has no clock for all users.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

from twotower.experiment.run import Run
from twotower.reproduce.study import Table
from twotower.reproduce.t2diff.measure import measure
from twotower.reproduce.t2diff.rows import PAPER, Size, counted, size_of, trained
from twotower.reproduce.t2diff.table import COLUMNS, FEWER, NOTES

SERVED: dict[str, Any] = {"restored": "as_served"}
PRINTED: dict[str, Any] = {"restored": "printed"}
MIXED: dict[str, Any] = {"restored": "none", "attention": "mixed"}
PARTS: dict[str, dict[str, Any]] = {
    "t2diff": {},
    "t2diff_item": {"drift": False},
    "t2diff_plain": {"normalise": False},
    "t2diff_mixed": {"attention": "mixed"},
    "t2diff_ligr": {"block": "ligr"},
    "t2diff_hstu": {"block": "hstu"},
    "t2diff_lambda_0.1": {"diffusion_weight": 0.1},
    "t2diff_lambda_10": {"diffusion_weight": 10.0},
    "as_served": SERVED,
    "as_served_item": {**SERVED, "drift": False},
    "as_served_plain": {**SERVED, "normalise": False},
    "as_served_mixed": {**SERVED, "attention": "mixed"},
    "as_served_linear": {**SERVED, "schedule": "linear"},
    "as_served_logarithmic": {**SERVED, "schedule": "logarithmic"},
    "as_served_t10": {**SERVED, "noise_steps": 10},
    "as_served_t200": {**SERVED, "noise_steps": 200},
    "as_served_steps_1": {**SERVED, "restore_steps": 1},
    "as_served_steps_10": {**SERVED, "restore_steps": 10},
    "as_served_lambda_10": {**SERVED, "diffusion_weight": 10.0},
    "printed": PRINTED,
    "printed_item": {**PRINTED, "drift": False},
    "printed_linear": {**PRINTED, "schedule": "linear"},
    "printed_logarithmic": {**PRINTED, "schedule": "logarithmic"},
    "printed_t10": {**PRINTED, "noise_steps": 10},
    "printed_t200": {**PRINTED, "noise_steps": 200},
    "paper": PAPER,
    "paper_item": {**PAPER, "drift": False},
    "paper_normalised": {**PAPER, "normalise": True},
    "paper_t10": {**PAPER, "noise_steps": 10, "restore_steps": 10},
    "paper_t200": {**PAPER, "noise_steps": 200, "restore_steps": 200},
}
"""Settings of T2Diff by row."""
SESSIONS = (3, 10, 50)
"""Events of a session beside the default of 20; on KuaiRand the last is the window."""
GAPS = {"30min": 1_800, "1day": 86_400}
"""Seconds that part sessions."""
DECIDE = ("t2diff", "t2diff_mixed", "as_served", "as_served_mixed", "printed", "paper")
"""Rows of T2Diff on a data set that is not `IN_PARTS`."""
IN_PARTS = ("kuairand-pure",)
"""Data sets that have every row; sessions need a clock."""
OF_PARTS = "sasrec", "bert4rec"
EQUAL: dict[str, dict[str, Any]] = {"sasrec": {}, "bert4rec": {}, "t2diff": {}, "as_served": SERVED, "paper": PAPER}
CLOZE_PASSES = 4
"""Epochs of cloze that ask for about as many targets as one of the others: of short windows at least one event is
hidden, of others a fifth, and in some the last one alone."""


def one(size: Size, settings: dict[str, Any], row: str = "t2diff") -> Run:
    """Return a row's only run: T2Diff with these settings, or the model of that row."""
    return trained(row, size, dropout=size.dropout, settings=settings)


def equal(name: str, settings: dict[str, Any], size: Size) -> Run:
    """Return the run that learns from a fixed number of targets and is evaluated after the last one."""
    run = one(size, settings, name if name in OF_PARTS else "t2diff")
    epochs = size.epochs * (CLOZE_PASSES if name == "bert4rec" else 1)
    return replace(run, training=replace(run.training, epochs=epochs, evaluate_every=epochs, patience=0))


def sessions(size: Size) -> dict[str, Run]:
    """Return mixed attention alone by the length of its session, and by gaps of time."""
    rows = {f"mixed_session_{events}": one(size, {**MIXED, "session": events}) for events in SESSIONS}
    return rows | {f"mixed_gap_{name}": one(size, {**MIXED, "session_gap": gap}) for name, gap in GAPS.items()}


def variants(data: str) -> dict[str, Sequence[Run]]:
    """Return every row of a data set, with one run each; closed forms come first."""
    size, whole = size_of(data), data in IN_PARTS
    rows = {"sasrec": one(size, {}, "sasrec")}
    rows |= {name: one(size, settings) for name, settings in PARTS.items() if whole or name in DECIDE}
    rows["mixed"] = one(size, MIXED)
    if whole:
        rows |= sessions(size)
        rows |= {f"{name}_equal": equal(name, settings, size) for name, settings in EQUAL.items()}
    return {**counted(size), **{name: [run] for name, run in rows.items()}}


TABLE = Table(
    "t2diff-ablations",
    "T2Diff's parts: what is restored and how, noise, λ, sessions, equal numbers of targets",
    ("kuairand-pure", "ml-1m"),
    variants,
    measure,
    "t2diff",
    COLUMNS,
    3,
    fewer=FEWER,
    notes={
        "popularity": NOTES["popularity"],
        "t2diff_lambda_0.1": "gradients stop on both sides of the U-Net, so λ scales its gradient alone, which AdamW "
        "hardly notices.",
        "printed": "SASRec's tower, normalised vectors, four passes when asked: the leak alone.",
        "bert4rec_equal": "four times the epochs of the others, which ask for a fourth of the places.",
    },
)
TABLES = (TABLE,)
