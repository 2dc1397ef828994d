"""Tables of FIT: pre-rankers on labelled pairs, the effect of FIT's parts, and of its number of queries and heads.

Source: Xiong et al., SIGIR 2025, tables 1 and 2, figures 4, 5, 7 and 8. Protocol of section 5.1; it leaves open which
events train, so there are two readings: every event (``fit``) and each user's last 50 alone (``fit-last``). In both
the temperature is learnt from a start that suits cosines; in ``fit-fixed`` scores are scaled as printed. In these three
every model chooses its rate and whether it reads user ids on validation data; ablations choose their rate; ``fit-wide``
and ``fit-queries`` choose nothing. ``fit-rates`` is ``fit`` with five rates to choose from, since 0.003 was the edge of
the first grid and nearly always chosen. Every table has a row of popularity: counts of what precedes the tests.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from typing import Any

from twotower.experiment.labelled_pairs import PAIRS
from twotower.experiment.run import Data, Evaluation, ModelSection, Run
from twotower.reproduce.fit_extras import POPULARITY, costs_and_map
from twotower.reproduce.fit_measure import against_reference, measure
from twotower.reproduce.study import Table
from twotower.training.config import Objective, Training

Variants = Callable[[str], Mapping[str, Sequence[Run]]]

DATA = ("ml-1m", "amazon-reviews Beauty", "kuairand-pure")
COLUMNS = ("auc", "relaimpr", "log_loss", "gauc", "recall@100", "ndcg@100", "seconds_per_epoch")
RATES = (1e-3, 3e-3)
MORE_RATES = (1e-3, 3e-3, 1e-2, 3e-2, 1e-1)
USER_IDS: tuple[dict[str, Any], ...] = ({}, {"user_id": True})
"""The grid of every model: learning rates, and whether the user's id is a feature."""
WITHOUT_IDS = ("dat",)
"""Models that choose no user ids on MovieLens-1M, with either of the first two rates."""

DOT = {"scorer": "dot", "user_heads": 1, "item_heads": 1}
FIXED = {"temperature": 1.0, "learn_temperature": False}
NOTES = {
    "int_tower_small_start": "IntTower as printed, but started as its public code is: heads of a small standard "
    "deviation and a learnt output bias.",
    "two_tower_relu": "the two-tower with a ReLU after its last layer too, as equation 1 prints it.",
    "rank_tower": "two of its paper's three objectives are absent, since a public log has neither samples of every "
    "stage of a cascade nor a ranking model to learn from: no verdict on the paper's RankTower.",
    POPULARITY: "counts of items in the events that precede the tests; no model.",
}
"""What a row is not; written below each table that has it."""
BAD_START = (
    "starts at logits of +107 to +110 (binary cross-entropy 54 to 55), without the output bias and the small start of "
    "the public code: not to be ranked."
)
COUNTS = (
    "counts of items in all events that precede the tests, those of validation and the users' first ones too; no "
    "model. Counts in the training rows alone have an AUC of {} (Beauty), {} (KuaiRand) and {} (ML-1M), ten draws of "
    "negatives."
)
ALL_COUNTS = COUNTS.format("0.657 ± 0.001", "0.860 ± 0.001", "0.813 ± 0.003")
LAST_COUNTS = COUNTS.format("0.659 ± 0.001", "0.860 ± 0.001", "0.822 ± 0.003")
COSINE = 0.2
"""Where the temperature of a cosine starts; of a sum of m cosines, at m times that."""

ONE_QUERY: dict[str, Any] = {"meta_queries": 1, "self_attention": False, "query_training": "hard", **DOT}
"""One query that all items share: FIT's history encoder in a two-tower model, whose user never hears of the item."""

MODELS: dict[str, tuple[str, dict[str, Any]]] = {
    "two_tower": (
        "two_tower",
        {"dim": 128, "field_dim": 16, "hidden": [300, 300], "batch_norm": True, "temperature": COSINE},
    ),
    # FIT without its two modules: a two-tower too, whose history brings all fields of its items and not ids alone.
    "two_tower_fields": ("fit", {"temperature": COSINE, "meta_queries": 0, **DOT}),
    "two_tower_din": ("fit", {**ONE_QUERY, "temperature": COSINE}),
    "dat": ("dat", {"temperature": COSINE}),
    "cold": ("cold", {"temperature": 1.0}),
    "int_tower": ("int_tower", {"temperature": 48 * COSINE}),  # 16 heads of each of three layers
    "rank_tower": ("rank_tower", {"temperature": 4 * COSINE}),
    "fit": ("fit", {"temperature": COSINE}),
}
"""Table 1: layers 300-300-128 and fields of 16 for all; the learnt temperature from where it suits the scores."""

PRINTED = {
    "int_tower_small_start": ("int_tower", {**MODELS["int_tower"][1], "head_std": 1e-4, "output_bias": True}),
    "two_tower_relu": ("two_tower", {**MODELS["two_tower"][1], "tower": "relu_mlp"}),
}
"""Rows of the table as printed alone: IntTower with a sane start, and the last ReLU."""

RAW_HEADS = {"int_tower", "int_tower_small_start", "fit", "two_tower_din"}
"""Models whose papers take inner products of heads that have no fixed length, and FIT's encoder in a two-tower."""

PARTS: dict[str, dict[str, Any]] = {
    "fit": {},
    "no_mqm": {"meta_queries": 0},
    "no_lss": DOT,
    "no_mqm_no_lss": {"meta_queries": 0, **DOT},
    "sum_max": {"scorer": "sum_max", "temperature": 2 * COSINE},
    "flat_fc": {"scorer": "flat_fc"},
    "soft_always": {"query_training": "soft"},
    "hard_always": {"query_training": "hard"},
    "no_self_attention": {"self_attention": False},
    "target_attention": {"interaction": "target_attention"},
    "dien": {"interaction": "dien"},
    "deepfm": {"interaction": "deepfm"},
    "two_tower_din": ONE_QUERY,
    "two_tower_dien": {**ONE_QUERY, "interaction": "dien"},
}
"""Figures 4 and 5, other interaction units, and what such a unit brings to a two-tower model."""

QUERIES = (4, 16, 64, 256, 512)
HEADS = (1, 2, 4, 8)
HEAD_DIM = 64


def pair_run(model: str, settings: Mapping[str, Any], *, reading: str, rate: float = 3e-3) -> Run:
    """Return the run on labelled pairs: batches of 8,192, thirty epochs.

    Two evaluations without a better AUC end it.

    Negatives are fresh in every epoch and nothing is dropped, as did best on validation data when settings were sought.
    """
    return Run(
        data=Data(split=PAIRS, split_options={"reading": reading, "negatives": "fresh"}),
        model=ModelSection(model, {**settings, "dropout": 0.0}),
        objective=Objective("bce"),
        training=Training(epochs=30, batch_size=8192, learning_rate=rate, metric="auc", evaluate_every=2, patience=2),
        evaluation=Evaluation(ks=(10, 100)),
    )


def popularity_run(reading: str = "all") -> Run:
    """Return the run of the popularity row: counts of the events that precede the tests, no training."""
    run = pair_run(POPULARITY, {}, reading=reading)
    return replace(run, model=ModelSection(POPULARITY))


def choices(model: str, settings: Mapping[str, Any], reading: str, *, rates: Sequence[float] = RATES) -> list[Run]:
    """Return the same grid for every model."""
    return [pair_run(model, {**settings, **ids}, reading=reading, rate=rate) for ids in USER_IDS for rate in rates]


def wide(data: str) -> dict[str, Sequence[Run]]:
    """Return FIT and the two-tower with their history encoder in the largest form that paid on MovieLens-1M.

    Nothing to tune.
    """
    rows: dict[str, Sequence[Run]] = {}
    for name in ("two_tower_din", "fit"):
        model, settings = MODELS[name]
        run = pair_run(model, {**settings, "field_dim": 32, "user_id": True}, reading="all")
        rows[name] = [replace(run, training=replace(run.training, epochs=40, refit=True))]
    return rows


def headline_all(data: str) -> dict[str, Sequence[Run]]:
    """Return the variants where every event trains."""
    return {name: choices(model, settings, "all") for name, (model, settings) in MODELS.items()}


def headline_last(data: str) -> dict[str, Sequence[Run]]:
    """Return the variants where each user's last 50 events are all that there is."""
    return {name: choices(model, settings, "last") for name, (model, settings) in MODELS.items()}


def as_printed(data: str) -> dict[str, Sequence[Run]]:
    """Return every model with its scores scaled as its paper has them, every event trains."""
    models = {**MODELS, **PRINTED}
    raw = {name: {"normalise_heads": False} if name in RAW_HEADS else {} for name in models}
    return {
        name: choices(model, {**settings, **FIXED, **raw[name]}, "all") for name, (model, settings) in models.items()
    }


def more_rates(data: str) -> dict[str, Sequence[Run]]:
    """Return the variants where every event trains, each with more rates to choose from.

    On MovieLens-1M the added rates are tried with the user ids alone that the first two rates choose there.
    """
    if data != "ml-1m":
        return {name: choices(model, settings, "all", rates=MORE_RATES) for name, (model, settings) in MODELS.items()}
    rows: dict[str, Sequence[Run]] = {}
    for name, (model, settings) in MODELS.items():
        ids = USER_IDS[name not in WITHOUT_IDS]
        added = [pair_run(model, {**settings, **ids}, reading="all", rate=rate) for rate in MORE_RATES[len(RATES) :]]
        rows[name] = choices(model, settings, "all") + added
    return rows


def ablations(data: str) -> dict[str, Sequence[Run]]:
    """Return FIT without its parts, trained otherwise, and with other interaction units."""
    runs = {name: {"temperature": COSINE, **settings} for name, settings in PARTS.items()}
    return {
        name: [pair_run("fit", settings, reading="all", rate=rate) for rate in RATES] for name, settings in runs.items()
    }


def queries_and_heads(data: str) -> dict[str, Sequence[Run]]:
    """Return FIT by its number of meta queries (two heads), and by its heads (64 queries).

    Heads are tried with either late interaction.
    """
    rows: dict[str, dict[str, Any]] = {f"queries_{count}": {"meta_queries": count} for count in QUERIES}
    for scorer in ("lss", "sum_max"):
        for heads in HEADS:
            sizes = {"user_heads": heads, "item_heads": heads, "dim": HEAD_DIM * heads}
            start = COSINE * (heads if scorer == "sum_max" else 1)
            rows[f"{scorer}_heads_{heads}"] = {"scorer": scorer, "temperature": start, **sizes}
    runs = {name: {"temperature": COSINE, **settings} for name, settings in rows.items()}
    return {name: [pair_run("fit", settings, reading="all")] for name, settings in runs.items()}


def with_popularity(variants: Variants, run: Run) -> Variants:
    """Return the rows of a table with a row of popularity after them."""
    return lambda data: {**variants(data), POPULARITY: [run]}


def fit_table(
    name: str, title: str, variants: Variants, *, reading: str = "all", popularity: Run | None = None, **others: Any
) -> Table:
    """Return a table on labelled pairs, with its row of popularity; ``popularity`` where that run is another."""
    settings = {
        "data": DATA,
        "measure": measure,
        "reference": "two_tower_din",
        "columns": COLUMNS,
        "beside": against_reference,
        "notes": NOTES,
        **others,
    }
    return Table(
        name=name, title=title, variants=with_popularity(variants, popularity or popularity_run(reading)), **settings
    )


TABLES = (
    fit_table(
        "fit",
        "FIT and its baselines, every event trains",
        headline_all,
        seeds=10,
        extras=costs_and_map,
        notes={**NOTES, POPULARITY: ALL_COUNTS},
    ),
    fit_table(
        "fit-last",
        "FIT and its baselines, last 50 events",
        headline_last,
        reading="last",
        seeds=10,
        notes={**NOTES, POPULARITY: LAST_COUNTS},
    ),
    fit_table(
        "fit-fixed",
        "FIT and its baselines, scores as printed",
        as_printed,
        notes={**NOTES, "int_tower": BAD_START, POPULARITY: ALL_COUNTS},
    ),
    fit_table("fit-rates", "FIT and its baselines, every event trains, more rates to choose from", more_rates),
    fit_table("fit-wide", "FIT with fields of 32, user ids and a last fit on all rows", wide),
    fit_table("fit-ablations", "FIT without its parts", ablations, reference="fit", extras=costs_and_map),
    fit_table(
        "fit-queries",
        "FIT by queries and heads",
        queries_and_heads,
        reference="queries_64",
        seeds=3,
        extras=costs_and_map,
    ),
)
