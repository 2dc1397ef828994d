"""Tables of FIT: pre-rankers on labelled pairs, the effect of FIT's parts, and of its number of queries and heads.

Source: Xiong et al., SIGIR 2025, tables 1 and 2, figures 4, 5, 7 and 8. Protocol of section 5.1; it leaves open which
events train, so there are two readings: every event (``fit``) and each user's last 50 alone (``fit-last``). In both
the temperature is learnt from a start that suits cosines; in ``fit-fixed`` scores are scaled as printed. In these three
every model chooses its rate and whether it reads user ids on validation data; ablations choose their rate; ``fit-wide``
and ``fit-queries`` choose nothing.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from typing import Any

from twotower.experiment.candidates import PAIRS
from twotower.experiment.run import Data, Evaluation, ModelSection, Run
from twotower.reproduce.fit_extras import costs_and_map
from twotower.reproduce.fit_measure import against_reference, measure
from twotower.reproduce.study import Table
from twotower.training.config import Objective, Training

Variants = Callable[[str], Mapping[str, Sequence[Run]]]

DATA = ("ml-1m", "amazon-reviews Beauty", "kuairand-pure")
COLUMNS = ("auc", "relaimpr", "log_loss", "gauc", "recall@100", "ndcg@100", "seconds_per_epoch")
RATES = (1e-3, 3e-3)
USER_IDS: tuple[dict[str, Any], ...] = ({}, {"user_id": True})
"""The grid of every model: learning rates, and whether the user's id is a feature."""

DOT = {"scorer": "dot", "user_heads": 1, "item_heads": 1}
FIXED = {"temperature": 1.0, "learn_temperature": False}
NOTES = {
    "rank_tower": "two of its paper's three objectives are absent, since a public log has neither samples of every "
    "stage of a cascade nor a ranking model to learn from: no verdict on the paper's RankTower."
}
"""What a row is not; written below each table that has it."""
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

RAW_HEADS = {"int_tower", "fit", "two_tower_din"}
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


def choices(model: str, settings: Mapping[str, Any], reading: str) -> list[Run]:
    """Return the same grid for every model."""
    return [pair_run(model, {**settings, **ids}, reading=reading, rate=rate) for ids in USER_IDS for rate in RATES]


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
    raw = {name: {"normalise_heads": False} if name in RAW_HEADS else {} for name in MODELS}
    return {
        name: choices(model, {**settings, **FIXED, **raw[name]}, "all") for name, (model, settings) in MODELS.items()
    }


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


def _table(name: str, title: str, variants: Variants, *, reference: str = "two_tower_din", **others: Any) -> Table:
    return Table(
        name, title, DATA, variants, measure, reference, COLUMNS, beside=against_reference, notes=NOTES, **others
    )


TABLES = (
    _table("fit", "FIT and its baselines, every event trains", headline_all, seeds=10, extras=costs_and_map),
    _table("fit-last", "FIT and its baselines, last 50 events", headline_last, seeds=10),
    _table("fit-fixed", "FIT and its baselines, scores as printed", as_printed),
    _table("fit-wide", "FIT with fields of 32, user ids and a last fit on all rows", wide),
    _table("fit-ablations", "FIT without its parts", ablations, reference="fit", extras=costs_and_map),
    _table(
        "fit-queries",
        "FIT by queries and heads",
        queries_and_heads,
        reference="queries_64",
        seeds=3,
        extras=costs_and_map,
    ),
)
