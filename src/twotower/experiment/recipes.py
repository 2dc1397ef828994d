"""Recipes: whole runs by name, each model's default, and settings chosen on validation data for a data set."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

from twotower.core.errors import unknown_name
from twotower.experiment.run import Data, ModelSection, Run
from twotower.models.registry import model_class
from twotower.training.config import Objective, Sampling, Training


def two_tower() -> Run:
    """Return the run of a two-tower: features and pooled history, cosine with a learned temperature, full softmax."""
    return Run(
        model=ModelSection("two_tower", {"field_dim": 32, "history_length": 20}),
        objective=Objective("full_softmax"),
        training=Training(epochs=12, batch_size=1024, learning_rate=3e-3, patience=3),
    )


def sasrec() -> Run:
    """Return the run of the causal transformer with full softmax, for sets of the size of MovieLens-100K."""
    return Run(
        model=ModelSection("sasrec"),
        objective=Objective("full_softmax"),
        training=Training(epochs=13, batch_size=16, learning_rate=2e-3, schedule="cosine"),
    )


def sasrec_ml_1m() -> Run:
    """Return the run of SASRec on MovieLens-1M: width 64, dropout 0.2, length 200, batch 256.

    The rest was chosen on validation data.
    """
    return Run(
        model=ModelSection("sasrec", {"history_length": 200, "attention_dropout": 0.2, "feed_forward": 4}),
        objective=Objective("full_softmax"),
        training=Training(
            epochs=200,
            batch_size=256,
            learning_rate=2e-3,
            schedule="cosine",
            weight_decay=0.1,
            evaluate_every=3,
            patience=15,
        ),
    )


def semantic() -> Run:
    """Return the run of the semantic two-tower: texts alone, binary cross-entropy on the dot product.

    Items by their texts, users by the texts of their history.
    """
    return Run(
        model=ModelSection("semantic"),
        objective=Objective("bce"),
        sampling=Sampling(("uniform",), number=8),
        training=Training(epochs=20, batch_size=256, learning_rate=2e-3, patience=3),
    )


RECIPES: dict[str, Callable[[], Run]] = {
    "two_tower": two_tower,
    "sasrec": sasrec,
    "sasrec_ml_1m": sasrec_ml_1m,
    "semantic": semantic,
}


PRE_RANKERS = ("fit", "dat", "cold", "int_tower", "rank_tower")


def pre_ranker(model: str) -> Run:
    """Return the run of a pre-ranker: labelled pairs, binary cross-entropy, the epoch with the best AUC.

    Settings of a pre-ranker as in its paper.
    """
    return Run(
        data=Data(split="pre-ranking", split_options={"reading": "all"}),
        model=ModelSection(model),
        objective=Objective("bce"),
        training=Training(epochs=6, batch_size=2048, learning_rate=1e-3, metric="auc", patience=3),
    )


def recipe(name: str) -> Run:
    """Return the run of a recipe's name.

    Raises:
        InputError: if no recipe has that name; names the closest.
    """
    if name not in RECIPES:
        raise unknown_name("recipe", name, RECIPES)
    return RECIPES[name]()


def default_run(model: str) -> Run:
    """Return the run of a model's name: its recipe where there is one, else the defaults of every section.

    A sequential model without a recipe takes SASRec's; its settings were chosen for that one.

    Raises:
        InputError: if no model has that name; names the closest.
    """
    if model in RECIPES:
        return RECIPES[model]()
    if model in PRE_RANKERS:
        return pre_ranker(model)
    cls = model_class(model)
    run = replace(sasrec() if cls.batches == "sequences" else Run(), model=ModelSection(model))
    if not cls.inner_product:
        run = replace(run, objective=Objective("sampled_softmax"))
    return run
