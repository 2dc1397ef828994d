"""Our best sequential recipe beside plain SASRec and counted rows, on the forms of data that others report.

Forms, made by ``benchmarks/leaderboard_sets.py``: MovieLens-1M with the 3,706 rated films (``ml-1m-3706``), and with
the 3,416 that five users rated (``ml-1m-3416``); Amazon Beauty, 5-core, as S3-Rec's authors publish it
(``amazon-beauty-5core``); Diginetica as SR-GNN's authors cut it (``sessions-diginetica``). Of people, each one's last
event is the test and the one before it validation, the whole catalogue is ranked, and what was seen is left out. Of
sessions, every click of a test session but its first is asked for with what precedes it, seen items stay in, and the
last tenth of the training sessions is validation. A Steam set is not to be had here.

Every trained row: full softmax unless said, batches in random order, a rate that falls to 0 along a cosine, decay 0.1,
the best epoch by validation NDCG@10. ``sasrec`` is on films the recipe `sasrec_ml_1m`, which was tuned there, and on
Beauty chooses between a dot product at width 64 and a cosine at 128. ``best`` chooses among LiGR blocks of several
widths, scores and dropouts, with and without a bias by the distance in places, on short histories also with sampled
negatives and beside a wide SASRec, and, of people, LRURec; each by validation data of seed 0 alone. Rows
``/with_lists`` are the same trainings mixed with ``item_lists``: the sum of both scores, each divided by its deviation
over the catalogue, with the weight that is best on the training's own validation data.

**Ties.** Within one second a file may have any order. Of the users of MovieLens-1M whose clock is whole 42 % have a
last event in the second of the one before; ``last_tied`` is that share among all users, where times are known. Rows
``_ties`` train what the row of their name chose, with ties in an order that each seed draws anew, in histories and in
what is asked.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any, NamedTuple

from twotower.experiment.run import Data, Evaluation, ModelSection, Run
from twotower.reproduce.leaderboard.anchors import ANCHORS
from twotower.reproduce.leaderboard.measure import WITH_LISTS, measure
from twotower.reproduce.study import Table, Twin
from twotower.training.config import Objective, Sampling, Training
from twotower.training.sources import NegativeSource

KS = (10, 20)
COLUMNS = ("hit_rate@10", "ndcg@10", "hit_rate@20", "mrr@20", "last_tied")
FILMS = ("ml-1m-3706", "ml-1m-3416")
"""Long histories, with a clock for all users or for some."""
SESSIONS = ("sessions-diginetica",)
COUNTED = ("popularity", "item_lists", "ease")
CLICKS = {"held_out": "last", "fold_in": 0.999, "ratio": [168_003, 18_667, 60_858]}
"""Training and validation sessions, and test clicks, in the order of the file; all but the last click is known."""


class Size(NamedTuple):
    """Configure what depends on the kind of log."""

    length: int
    epochs: int
    batch: int
    rate: float
    evaluate_every: int


SIZES = {
    "films": Size(200, 160, 256, 2e-3, 4),
    "short": Size(50, 40, 512, 2e-3, 2),
    "sessions": Size(20, 10, 512, 2e-3, 1),
}


class Encoder(NamedTuple):
    """Configure one encoder that a row may choose."""

    name: str
    settings: dict[str, Any]
    negatives: int = 0
    """Items drawn evenly that stand for the catalogue; 0: the full softmax."""


WIDE = {"attention_dropout": 0.2, "feed_forward": 4}
ON_SPHERE = {"score": "cosine", "temperature": 0.1}
PLACES = {"relative": True}
"""A bias of attention by the distance in places: where no times are read, it has no other part."""
RECIPE = Encoder("sasrec", {"dim": 64, "dropout": 0.2, **WIDE})
"""That of `sasrec_ml_1m`, which validation chose among forty variants."""
PLAIN: dict[str, tuple[Encoder, ...]] = {
    "films": (RECIPE,),
    "short": (
        Encoder("sasrec", {"dim": 64, "dropout": 0.5, **WIDE}),
        Encoder("sasrec", {"dim": 128, "dropout": 0.5, **ON_SPHERE}),
    ),
    "sessions": (Encoder("sasrec", {"dim": 128, "dropout": 0.5, **ON_SPHERE}),),
}
BEST: dict[str, tuple[Encoder, ...]] = {
    "films": (
        Encoder("ligr", {"dim": 64, "dropout": 0.2}),
        Encoder("ligr", {"dim": 64, "dropout": 0.2, **PLACES, **ON_SPHERE}),
        Encoder("ligr", {"dim": 128, "dropout": 0.3, **PLACES}),
        Encoder("ligr", {"dim": 128, "dropout": 0.3, **ON_SPHERE}),
        Encoder("lrurec", {"dim": 64, "dropout": 0.2}),
    ),
    "short": (
        Encoder("ligr", {"dim": 128, "dropout": 0.5, **ON_SPHERE}),
        Encoder("ligr", {"dim": 256, "dropout": 0.5, **ON_SPHERE}),
        Encoder("ligr", {"dim": 256, "dropout": 0.5, **PLACES, **ON_SPHERE}),
        Encoder("ligr", {"dim": 256, "dropout": 0.5}),
        Encoder("ligr", {"dim": 256, "dropout": 0.5, **ON_SPHERE}, 3000),
        Encoder("sasrec", {"dim": 256, "dropout": 0.5, **ON_SPHERE}),
        Encoder("lrurec", {"dim": 128, "dropout": 0.5, **ON_SPHERE}),
    ),
    "sessions": (
        Encoder("ligr", {"dim": 128, "dropout": 0.3, **PLACES, **ON_SPHERE}),
        Encoder("ligr", {"dim": 128, "dropout": 0.5, **PLACES, **ON_SPHERE}),
        Encoder("ligr", {"dim": 256, "dropout": 0.5, **PLACES, **ON_SPHERE}),
    ),
}


def kind_of(data: str) -> str:
    """Return the kind of a data set; an unknown one is taken for a log of people with short histories."""
    return "films" if data in FILMS else "sessions" if data in SESSIONS else "short"


def asked_of(data: str) -> tuple[Data, Evaluation]:
    """Return how a data set is split, and how answers are evaluated."""
    if data in SESSIONS:
        return Data(split="by-user", split_options=dict(CLICKS)), Evaluation(ks=KS, mask_seen=False)
    return Data(split="leave-one-out"), Evaluation(ks=KS)


def trained(data: str, encoder: Encoder) -> Run:
    """Return the run of one encoder on a data set."""
    size, (cut, judged) = SIZES[kind_of(data)], asked_of(data)
    sampled = NegativeSource("uniform", {"number": encoder.negatives})
    return Run(
        data=cut,
        model=ModelSection(encoder.name, {"history_length": size.length, **encoder.settings}),
        objective=Objective("sampled_softmax" if encoder.negatives else "full_softmax"),
        sampling=Sampling((sampled,)) if encoder.negatives else Sampling(),
        training=Training(
            epochs=size.epochs,
            batch_size=size.batch,
            learning_rate=size.rate,
            schedule="cosine",
            weight_decay=0.1,
            evaluate_every=size.evaluate_every,
            patience=15,
        ),
        evaluation=judged,
    )


def counted(data: str, model: str, settings: dict[str, Any]) -> Run:
    """Return the run of a closed form."""
    cut, judged = asked_of(data)
    return Run(data=cut, model=ModelSection(model, settings), evaluation=judged)


def variants(data: str) -> dict[str, Sequence[Run]]:
    """Return every row with the runs that it chooses from; a linear autoencoder is none where items are many."""
    kind = kind_of(data)
    rows: dict[str, Sequence[Run]] = {
        "popularity": [counted(data, "popularity", {})],
        "item_lists": [counted(data, "item_lists", {"shrink": shrink}) for shrink in (10.0, 100.0)],
    }
    if data not in SESSIONS:
        rows["ease"] = [counted(data, "ease", {})]
    rows["sasrec"] = [trained(data, encoder) for encoder in PLAIN[kind]]
    rows["best"] = [trained(data, encoder) for encoder in BEST[kind]]
    return rows


def ties_drawn(run: Run) -> Run:
    """Return the run with ties in an order that its seed draws."""
    return replace(run, data=replace(run.data, split_options={"ties": "drawn", "seed": 0}))


def twins(data: str) -> dict[str, Twin]:
    """Return the rows with ties in a drawn order, of data sets that have times."""
    if data not in FILMS:
        return {}
    return {f"{name}_ties": Twin(name, ties_drawn) for name in ("item_lists", "sasrec", "best")}


NOTES: Mapping[str, str] = {
    "best": f"the choice by validation is in the JSON beside this page. Published, HR@10 / NDCG@10: {ANCHORS}",
    "best_ties": "as best, with events of one second in an order that each seed draws; last_tied is the share of users "
    "whose last event this concerns. In the file's order are all users whose clock is not known.",
    "best/with_lists": "the same trainings mixed with item_lists, the weight of which validation chooses.",
    "ease": "its penalty is chosen on validation data.",
}

TABLE = Table(
    "leaderboard",
    "The board: our best sequential recipe, plain SASRec and counted rows, with ties as filed and drawn",
    (*FILMS, "amazon-beauty-5core", *SESSIONS),
    variants,
    measure,
    "sasrec",
    COLUMNS,
    5,
    fewer={**dict.fromkeys(COUNTED, 1), "sasrec_ties": 3, "best_ties": 3},
    twins=twins,
    views={f"{name}/with_lists": (name, WITH_LISTS) for name in ("sasrec", "best", "best_ties")},
    notes=NOTES,
)
TABLES = (TABLE,)
