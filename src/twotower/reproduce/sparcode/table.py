"""SparCode beside its two-tower twins: dense, by lists, and lists that nominate for a twin to rank.

Source: Su et al., "Beyond two-tower matching", SIGIR 2023, table 2 and figure 6. As there: users 8:1:1, histories of
20, vectors of 64, Precision, NDCG and Recall at 50, each model with a mean-pooled ("dnn"), a GRU and a self-attention
encoder.

Ours, since the paper is silent or cannot be followed: the first 80 % of a held-out user's events are known (the last 20
are read, all are left out of answers), the rest is to be found; of repeated items the first event counts. Batches of
2,048, AdamW, a rate that falls to 0, the best epoch by validation recall. SparCode and the gate: a sampled softmax,
which costs less than the full one: against 2,048 evenly drawn items that all rows share, or 16,384 of the 43,000,
without the user's other positives. 10 epochs, the first 5 without codes: codes that start at tokens which have not
learnt yet stay bad (with 1 epoch of 6 they kept a third of the twin's recall on 43,000 items). Every row chooses on
validation data: SparCode's forms between the dot product and a cosine over a temperature at a rate of 6e-3, and the
cosine at 3e-3; twins between dot product and cosine, by the full softmax in 6 epochs or by SparCode's loss in 10, and
the cosine by the full softmax in 10 epochs at 3e-3; TDM between the two rates. Of 43,000 items SparCode also chooses
among 256, 1,024 and 4,096 codes, and with self-attention SparCode and its twin among more temperatures and a higher
rate. SparCode: gradients straight through the quantiser, softplus; "printed" has the stop-gradient, ReLU, and the
commitment as a sum. TDM has SparCode's loss for its leaves, against 256 items, and in "mlp" and "dot" the scorers of
table 4; the paper's YouTubeDNN is such a mean of the history before an MLP. One split for all seeds, so that tests can
be paired by user. Rows with a ``/`` are the same trainings answered by lists or down the tree.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from itertools import product
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
TUNED_FURTHER = "self_attention"
"""The encoder whose temperatures and rates go one step further either way where items are many."""
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
ONE_SEED = ("popularity", "item_cosine", "item_lists", "ease", "sparcode_printed", "all_to_all_attention")
"""Rows of one seed: closed forms, a form that is there to show a collapse, and the dearest."""
NEGATIVES, OF_MANY = 2048, 16_384
SPHERE, GATE_SPHERE = ({"cosine": True, "temperature": at} for at in (0.24, 0.06))
"""SparCode's cosines: four tokens add up to what one of the twins has over 0.06."""
CODEBOOKS = (1024, 4096)
"""Codes beside the model's 256, of catalogues that are `LARGE`."""
WARM_UP = 5.0
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
LONG = replace(TRAINED, epochs=10)
SLOWLY = replace(LONG, learning_rate=3e-3)
QUICKLY = replace(LONG, learning_rate=1.2e-2)
DATA = Data(split="by-user", split_options={"ratio": [8, 1, 1], "fold_in": 0.8})
JUDGED = Evaluation(ks=(20, 50))


def twin(encoder: str, score: dict[str, Any], training: Training = TRAINED) -> Run:
    """Return the run of a two-tower twin that the full softmax trains."""
    return Run(
        data=DATA,
        model=ModelSection("sparcode_twin", {"tokenizer": encoder, **score}),
        objective=Objective("full_softmax"),
        training=training,
        evaluation=JUDGED,
    )


def twins(data: str, encoder: str) -> list[Run]:
    """Return what a twin chooses from: scores; the loss and the epochs of SparCode; more epochs at a lower rate."""
    alike = [sampled(twin(encoder, score, LONG), data) for score in SCORES]
    runs = [*(twin(encoder, score) for score in SCORES), *alike, twin(encoder, SCORES[0], SLOWLY)]
    if data in LARGE and encoder == TUNED_FURTHER:
        cosines = ({"score": "cosine", "temperature": at} for at in (0.03, 0.12))
        wider = [*(twin(encoder, score, LONG) for score in cosines), twin(encoder, SCORES[0], QUICKLY)]
        runs += [sampled(run, data) for run in wider]
    return runs


def sampled(run: Run, data: str) -> Run:
    """Return the run with the loss and the negatives of SparCode on that data set."""
    number = OF_MANY if data in LARGE else NEGATIVES
    sampling = Sampling((NegativeSource("uniform", {"number": number}),))
    return replace(run, objective=Objective("sampled_softmax"), sampling=sampling)


def coded(settings: dict[str, Any], training: Training = LONG, negatives: int = NEGATIVES) -> Run:
    """Return the run of a form of SparCode: sampled softmax against ``negatives`` shared items."""
    return Run(
        data=DATA,
        model=ModelSection("sparcode", settings),
        objective=Objective("sampled_softmax"),
        sampling=Sampling((NegativeSource("uniform", {"number": negatives}),)),
        training=training,
        evaluation=JUDGED,
    )


def tree(settings: dict[str, Any], training: Training = LONG) -> Run:
    """Return the run of the tree-based deep model (TDM): sampled softmax for the leaves.

    The nodes above have the model's own loss.
    """
    run = coded({"dim": 64, "negatives": 64, **settings}, training, 256)
    return replace(run, model=ModelSection("tdm", run.model.settings))


def attention() -> Run:
    """Return the run of the transformer that reads history and item together, the paper's oracle."""
    run = coded({}, replace(TRAINED, batch_size=1024, learning_rate=3e-3), 128)
    return replace(run, model=ModelSection("all_to_all"))


def ease() -> list[Run]:
    """Return what EASE (embarrassingly shallow autoencoder) chooses from: how many events it reads, and decays."""
    grid = product((0, 20), (0.8, 0.9, 0.95, 1.0))
    return [counted("ease", {"history_length": length, "decay": decay}) for length, decay in grid]


def forms(data: str, settings: dict[str, Any], sphere: dict[str, Any] = SPHERE) -> list[Run]:
    """Return what a form of SparCode chooses from: the dot product, and cosines at two rates."""
    if settings.get("codes") != "none":
        settings = {**settings, "warm_up": WARM_UP}
    on_sphere = {**settings, **sphere}
    given = [(settings, LONG), (on_sphere, LONG), (on_sphere, SLOWLY)]
    if data in LARGE and "codes" not in settings:
        larger, largest = ({**on_sphere, "codebook": codes} for codes in CODEBOOKS)
        given += [(larger, LONG), (largest, LONG)]
        if settings["tokenizer"] == TUNED_FURTHER:
            given += [({**larger, "temperature": at}, LONG) for at in (0.06, 0.12, 0.48)]
            given += [({**largest, "temperature": 0.12}, LONG), (larger, QUICKLY)]
    return [sampled(coded(part, training), data) for part, training in given]


def counted(model: str, settings: dict[str, Any] | None = None) -> Run:
    """Return the run of a closed form."""
    section = ModelSection(model, settings or {})
    return Run(data=DATA, model=section, training=Training(metric="recall@50"), evaluation=JUDGED)


def item_lists(data: str) -> list[Run]:
    """Return what counted lists choose from: pairs on both sides by distance, or ahead at any; decays; shrinkages."""
    decays = (0.5, 0.6, 0.7) if data in LARGE else (0.7, 0.8, 0.9)
    return [
        counted("item_lists", {"ahead": ahead, "flat": ahead, "decay": decay, "shrink": shrink})
        for ahead, decay, shrink in product((False, True), decays, (10.0, 100.0, 1000.0))
    ]


def variants(data: str) -> dict[str, Sequence[Run]]:
    """Return every row that is trained; the dearest, networks for a pair or a node, of the smaller catalogue alone."""
    rows: dict[str, Sequence[Run]] = {name: twins(data, encoder) for name, encoder in ENCODERS.items()}
    rows |= {f"sparcode_{name}": forms(data, {"tokenizer": encoder}) for name, encoder in ENCODERS.items()}
    rows["gate_sasrec"] = forms(data, {"codes": "gate", "codebook": 1024}, GATE_SPHERE)
    rows["all_to_all"] = forms(data, {"codes": "none"})
    rows["sparcode_printed"] = [coded({**PRINTED, "warm_up": WARM_UP})]
    trees = {"tdm_dot": TREES["tdm_dot"]} if data in LARGE else TREES
    rows |= {name: [tree({"scorer": scorer}, at) for at in (LONG, SLOWLY)] for name, scorer in trees.items()}
    rows |= {name: [counted(name)] for name in ("popularity", "item_cosine")}
    rows["item_lists"] = item_lists(data)
    if data not in LARGE:
        rows["ease"] = ease()
        pairwise = {"codes": "none", "scorer": "inner_pdnn"}
        rows["all_to_all_pdnn"] = [coded(pairwise, replace(TRAINED, batch_size=1024), 128)]
        rows["all_to_all_attention"] = [attention()]
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
    fewer=dict.fromkeys(ONE_SEED, 1),
    views=views(),
    notes={
        "all_to_all": "SparCode without its quantiser, four tokens and a sum of dot products: the paper's oracle.",
        "all_to_all_pdnn": "the same with the scorer of equation 9, against 128 items in batches of 1,024; not tuned, "
        "6 epochs.",
        "all_to_all_attention": "two layers of attention over history and item together, for every pair: the oracle of "
        "section 4.1.2; 128 items, batches of 1,024, not tuned, 6 epochs at 3e-3; one seed.",
        "tdm": "every item scored by its tree's scorer (attention); /beam: answered down the tree, 100 nodes a level.",
        "sparcode_printed": "stop-gradient, ReLU and summed commitment as printed; one seed.",
    },
)
TABLES = (TABLE,)
