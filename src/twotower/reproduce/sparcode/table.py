"""SparCode beside its two-tower twins: dense, by lists, and lists that nominate for a twin to rank.

Source: Su et al., "Beyond two-tower matching", SIGIR 2023, table 2 and figure 6. As there: users 8:1:1, histories of
20, vectors of 64, Precision, NDCG and Recall at 50, each model with a mean-pooled ("dnn"), a GRU and a self-attention
encoder.

Ours, since the paper is silent or cannot be followed: the first 80 % of a held-out user's events are known (the last 20
are read, all are left out of answers), the rest is to be found; of repeated items the first event counts; twins are
trained by the full softmax and choose on validation data between the dot product and a cosine over 0.06; SparCode and
the gate have no temperature and no inner product, so a sampled softmax trains them, against 2,048 evenly drawn items
that all rows share. Batches of 2,048, 6 epochs, AdamW at 6e-3 that falls to 0, the best epoch by validation recall.
SparCode: gradients straight through the quantiser, softplus, one epoch without codes; "printed" has the stop-gradient,
ReLU, and the commitment as a sum. TDM has SparCode's loss for its leaves, against 256 items, and in "mlp" and "dot" the
scorers of table 4; the paper's YouTubeDNN is such a mean of the history before an MLP. One split for all seeds, so that
tests can be paired by user. Rows with a ``/`` are the same trainings answered by lists.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

from twotower.experiment.run import Data, Evaluation, ModelSection, Run
from twotower.reproduce.sparcode.measure import measure
from twotower.reproduce.study import Table
from twotower.training.config import Objective, Sampling, Training
from twotower.training.sources import NegativeSource

LARGE = ("sessions-diginetica",)
"""Data sets of many items, where fewer forms can be had in reasonable time."""
SCORES: tuple[dict[str, Any], ...] = (
    {"score": "cosine", "temperature": 0.06},
    {"score": "dot", "temperature": 1.0},
)
"""What twins choose from. Of cosines over 0.07, 0.1 and 0.15 the lowest was best on 43,000 items by far, and level or
best on 4,000."""
ENCODERS = {"dssm": "dnn", "gru4rec": "gru", "sasrec": "self_attention"}
"""Twins by the names of the paper, and the encoder that each shares with SparCode."""
COLUMNS = (
    "recall@50",
    "ndcg@50",
    "precision@50",
    "precision_min@50",
    "sparsity",
    "mean_list",
    "short",
    "seconds_per_epoch",
)
TREES = {"tdm": "attention", "tdm_mlp": "mlp", "tdm_dot": "dot"}
"""TDM by the scorer of its nodes; the last two are those of table 4."""
ONCE = ("popularity", "item_cosine", "item_lists", "ease", "sparcode_printed", "all_to_all_pdnn")
"""Rows of one seed: what has no chance in it, and what is dear or there to show a collapse."""
NEGATIVES = 2048
PRINTED = {"gradient": "stop_gradient", "activation": "relu", "commitment": 16.0}
"""Equation 9's stop-gradient, equation 10's ReLU, and λ = 0.25 on a sum over 64 numbers."""

TRAINED = Training(
    epochs=6,
    batch_size=2048,
    learning_rate=6e-3,
    warmup_steps=200,
    schedule="linear",
    metric="recall@50",
    evaluate_every=2,
)
DATA = Data(split="by-user", split_options={"ratio": [8, 1, 1], "fold_in": 0.8})
JUDGED = Evaluation(ks=(20, 50))


def twin(encoder: str, score: dict[str, Any]) -> Run:
    """Return the run of a two-tower twin: full softmax."""
    return Run(
        data=DATA,
        model=ModelSection("sparcode_twin", {"tokenizer": encoder, **score}),
        objective=Objective("full_softmax"),
        training=TRAINED,
        evaluation=JUDGED,
    )


def coded(settings: dict[str, Any], negatives: int = NEGATIVES, batch: int = TRAINED.batch_size) -> Run:
    """Return the run of a form of SparCode: sampled softmax against ``negatives`` shared items."""
    training = Training(**{**vars(TRAINED), "batch_size": batch})
    return Run(
        data=DATA,
        model=ModelSection("sparcode", settings),
        objective=Objective("sampled_softmax"),
        sampling=Sampling((NegativeSource("uniform", {"number": negatives}),)),
        training=training,
        evaluation=JUDGED,
    )


def tree(settings: dict[str, Any]) -> Run:
    """Return the run of the tree-based deep model (TDM): sampled softmax for the leaves.

    The nodes above have the model's own loss.
    """
    run = coded({"dim": 64, "negatives": 64, **settings}, 256)
    return replace(run, model=ModelSection("tdm", run.model.settings))


def counted(model: str) -> Run:
    """Return the run of a closed form."""
    return Run(data=DATA, model=ModelSection(model), training=Training(metric="recall@50"), evaluation=JUDGED)


def variants(data: str) -> dict[str, Sequence[Run]]:
    """Return every row that is trained; the dearest ones are of the smaller catalogue alone."""
    rows: dict[str, Sequence[Run]] = {
        name: [twin(encoder, score) for score in SCORES] for name, encoder in ENCODERS.items()
    }
    rows |= {f"sparcode_{name}": [coded({"tokenizer": encoder})] for name, encoder in ENCODERS.items()}
    rows["gate_sasrec"] = [coded({"codes": "gate", "codebook": 1024})]
    rows["all_to_all"] = [coded({"codes": "none"})]
    rows["sparcode_printed"] = [coded(PRINTED)]
    rows |= {name: [tree({"scorer": scorer})] for name, scorer in TREES.items()}
    rows |= {name: [counted(name)] for name in ("popularity", "item_cosine", "item_lists")}
    if data not in LARGE:
        rows["ease"] = [counted("ease")]
        rows["all_to_all_pdnn"] = [coded({"codes": "none", "scorer": "inner_pdnn"}, 128, 1024)]
    return rows


def views() -> dict[str, tuple[str, str]]:
    """Return rows that are trainings of others answered by lists: a name to the training and its metrics' prefix."""
    coders = [*(f"sparcode_{name}" for name in ENCODERS), "gate_sasrec"]
    listed = [*((name, "nominate") for name in ENCODERS), *((name, "lists") for name in coders)]
    by_lists = {
        f"{name}/{how} {sparsity} %": (name, f"{sparsity}/")
        for name, how in listed
        for sparsity in ("98", "99", "99.5")
    }
    return by_lists | {f"{name}/beam": (name, "beam/") for name in TREES}


TABLE = Table(
    "sparcode",
    "SparCode, its two-tower twins, and lists of either",
    ("ml-1m", "sessions-diginetica"),
    variants,
    measure,
    "sasrec",
    COLUMNS,
    3,
    fewer=dict.fromkeys(("popularity", "item_cosine", "item_lists", "ease", "sparcode_printed"), 1),
    views=views(),
    notes={
        "all_to_all": "SparCode without its quantiser, four tokens and a sum of dot products: the paper's oracle.",
        "all_to_all_pdnn": "the same with the scorer of equation 9, against 128 items in batches of 1,024.",
        "tdm": "every item scored by its tree's scorer (attention); /beam: answered down the tree, 100 nodes a level.",
        "sparcode_printed": "stop-gradient, ReLU and summed commitment as printed; one seed.",
    },
)
TABLES = (TABLE,)
