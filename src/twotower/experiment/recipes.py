"""Recipes: whole runs by name, each model's default, and settings chosen on validation data for a data set."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

from twotower.core.errors import unknown_name
from twotower.experiment.run import Data, IndexSection, ModelSection, Run
from twotower.models.registry import model_class
from twotower.models.sequential import Sequential
from twotower.training.config import Objective, Sampling, Training
from twotower.training.sources import NegativeSource

ENCODER = {"history_length": 200, "score": "cosine", "temperature": 0.1}
"""What every sequence encoder takes from SASRec's recipe."""


def two_tower() -> Run:
    """Return linear towers over features and a history pooled twice: cosine, fixed temperature, in-batch softmax.

    Chosen on the validation data of twelve logs: docs/experiments.md.
    """
    settings = {
        "dim": 128,
        "field_dim": 128,
        "hidden": [],
        "temperature": 0.12,
        "learn_temperature": False,
        "pooling": "both",
        "history_dropout": 0.3,
    }
    return Run(
        model=ModelSection("two_tower", settings),
        objective=Objective("sampled_softmax"),
        sampling=Sampling((NegativeSource("in_batch"),)),
        training=Training(epochs=30, batch_size=1024, learning_rate=1e-2, patience=3, patience_loss=0.0),
    )


def sasrec() -> Run:
    """Return the causal transformer, cosine at a fixed temperature, full softmax.

    Chosen on the validation data of twelve logs: docs/experiments.md.
    """
    return Run(
        model=ModelSection("sasrec", {"dim": 128, "dropout": 0.5, **ENCODER}),
        objective=Objective("full_softmax"),
        training=Training(epochs=60, batch_size=64, learning_rate=2e-3, patience=4, patience_loss=0.0),
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
        sampling=Sampling((NegativeSource("uniform", {"number": 8}),)),
        training=Training(epochs=20, batch_size=256, learning_rate=2e-3, patience=3),
    )


def tdm() -> Run:
    """Return the run of the tree-based deep model (TDM): a sampled softmax over the leaves.

    Its bundle is answered down the tree.
    """
    return Run(
        model=ModelSection("tdm"),
        objective=Objective("sampled_softmax"),
        sampling=Sampling((NegativeSource("uniform", {"number": 64}),)),
        training=Training(epochs=12, batch_size=512, learning_rate=5e-3, evaluate_every=2, patience=2),
        index=IndexSection("tree"),
    )


def all_to_all() -> Run:
    """Return the run of all-to-all self-attention: a sampled softmax against few items that all rows share.

    Every pair of a row and an item is a pass of the network.
    """
    return Run(
        model=ModelSection("all_to_all", {"dim": 32}),
        objective=Objective("sampled_softmax"),
        sampling=Sampling((NegativeSource("uniform", {"number": 32}),)),
        training=Training(epochs=8, batch_size=256, learning_rate=3e-3, patience=2),
    )


def item_cosine() -> Run:
    """Return the item-to-item cosine, shrunk by ten users so that cosines that rest on one or two do not lead.

    Chosen on the validation data of twelve logs: docs/experiments.md.
    """
    return Run(model=ModelSection("item_cosine", {"shrink": 10.0}))


def item_lists() -> Run:
    """Return the item-to-item lists, shrunk by a hundred events, chosen as that of `item_cosine`."""
    return Run(model=ModelSection("item_lists", {"shrink": 100.0}))


RECIPES: dict[str, Callable[[], Run]] = {
    "two_tower": two_tower,
    "sasrec": sasrec,
    "sasrec_ml_1m": sasrec_ml_1m,
    "semantic": semantic,
    "tdm": tdm,
    "all_to_all": all_to_all,
    "item_cosine": item_cosine,
    "item_lists": item_lists,
}


def pre_ranking(model: str) -> Run:
    """Return the run of a pre-ranker: labelled pairs, binary cross-entropy, the epoch with the best AUC.

    Settings are as in its paper.
    """
    return Run(
        data=Data(split="pre-ranking", split_options={"reading": "all"}),
        model=ModelSection(model),
        objective=Objective("bce"),
        training=Training(epochs=6, batch_size=2048, learning_rate=1e-3, metric="auc", patience=3),
    )


def sequential(model: str) -> Run:
    """Return SASRec's training, and for a sequence encoder its window and score; they were chosen for SASRec.

    An encoder that has no cosine keeps its own score and temperature.
    """
    cls = model_class(model)
    settings = dict(ENCODER) if issubclass(cls, Sequential) else {}
    if issubclass(cls, Sequential) and settings["score"] not in cls.scores:
        settings = {key: value for key, value in settings.items() if key not in ("score", "temperature")}
    return replace(sasrec(), model=ModelSection(model, settings))


def own_loss(model: str) -> Run:
    """Return the run of a model whose own loss trains it: the objective draws next to nothing, as it moves nothing."""
    return Run(
        model=ModelSection(model),
        objective=Objective("sampled_softmax"),
        sampling=Sampling((NegativeSource("uniform", {"number": 1}),)),
        training=Training(epochs=20, batch_size=512, learning_rate=2e-3, patience=3),
    )


SHARED: dict[str, Callable[[str], Run]] = {
    "pre_ranking": pre_ranking,
    "sequential": sequential,
    "own_loss": own_loss,
}
"""What several models start from, by `Model.recipe`."""


def recipe(name: str) -> Run:
    """Return the run of a recipe's name.

    Raises:
        InputError: if no recipe has that name; names the closest.
    """
    if name not in RECIPES:
        raise unknown_name("recipe", name, RECIPES)
    return RECIPES[name]()


def default_run(model: str) -> Run:
    """Return the run of a model's name: its recipe where there is one, else that of its class, else the defaults.

    The class names it by `Model.recipe`; one that trains on sequences and names none takes "sequential".

    Raises:
        InputError: if no model has that name, or its class names no recipe; names the closest.
    """
    if model in RECIPES:
        return RECIPES[model]()
    cls = model_class(model)
    shared = cls.recipe or ("sequential" if cls.batches == "sequences" else None)
    if shared is not None and shared not in SHARED:
        raise unknown_name(f"recipe of model '{model}'", shared, SHARED)
    run = Run(model=ModelSection(model)) if shared is None else SHARED[shared](model)
    if not cls.inner_product and run.objective.loss == "full_softmax":
        run = replace(run, objective=Objective("sampled_softmax"))
    return run
