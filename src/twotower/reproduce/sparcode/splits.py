"""SparCode, a gate and lists that nominate beside their twin: five seeds, each with another draw of the users held out.

Source: Su et al., "Beyond two-tower matching", SIGIR 2023, table 2. The rows of the table ``sparcode`` that its verdict
rests on, with the settings that validation chose there on one split: nothing is chosen here. A test over users joins
the draws: a user's value is its mean over the seeds that ask it.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

from twotower.experiment.run import Data, Run
from twotower.reproduce.sparcode import quick
from twotower.reproduce.sparcode.measure import measure
from twotower.reproduce.sparcode.table import (
    COLUMNS,
    DATA,
    GATE_SPHERE,
    LARGE,
    LONG,
    SCORES,
    SPHERE,
    WARM_UP,
    coded,
    counted,
    sampled,
    twin,
)
from twotower.reproduce.study import Table

DRAWN = Data(split=DATA.split, split_options={**DATA.split_options, "held_out": "drawn", "seed": 0})
"""The split of the table ``sparcode``, drawn anew for every seed."""
LISTS: dict[str, Any] = {"ahead": False, "flat": False, "decay": 0.6, "shrink": 100.0}
"""Of counted lists on many items; on ML-1M those of `quick`."""
EASE: dict[str, Any] = {"history_length": 0, "decay": 0.9}


def variants(data: str) -> dict[str, Sequence[Run]]:
    """Return the rows, each with the one run that was chosen on that data set."""
    many = data in LARGE
    cosine, dot = SCORES
    form = {"tokenizer": "self_attention", "warm_up": WARM_UP, **SPHERE, **({"codebook": 4096} if many else {})}
    gate = {"codes": "gate", "codebook": 1024, "warm_up": WARM_UP, **GATE_SPHERE}
    rows = {
        "sasrec": twin("self_attention", cosine if many else dot, LONG),
        "sparcode_sasrec": coded(form),
        "gate_sasrec": coded(gate),
    }
    rows = {name: sampled(run, data) for name, run in rows.items()}
    rows |= {name: counted(name) for name in ("popularity", "item_cosine")}
    rows["item_lists"] = counted("item_lists", LISTS if many else quick.LISTS)
    if not many:
        rows["ease"] = counted("ease", EASE)
    return {name: [replace(run, data=DRAWN)] for name, run in rows.items()}


def views() -> dict[str, tuple[str, str]]:
    """Return the same trainings answered by lists."""
    listed = (("sasrec", "nominate"), ("sparcode_sasrec", "lists"), ("gate_sasrec", "lists"))
    return {f"{name}/{how} {part} %": (name, f"{part}/") for name, how in listed for part in ("98", "99", "99.5")}


TABLE = Table(
    "sparcode-splits",
    "SparCode, a gate and lists that nominate, on five draws of users",
    ("ml-1m", "sessions-diginetica"),
    variants,
    measure,
    "sasrec",
    COLUMNS,
    5,
    views=views(),
)
TABLES = (TABLE,)
