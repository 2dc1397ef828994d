"""T2Diff's forms beside SASRec on MovieLens-100K: NDCG@10, and how like the truth the restored item is.

A small table for one CPU core, not the paper's: leave-one-out, whole catalogue, seen items masked, every setting at
its default (`twotower train --model`). The cosine of restored and true next vectors is taken in training, over all
places of the training windows by the draws of training, and when asked, at the place before the test item.
``--quick``: two epochs, one seed.
"""

from __future__ import annotations

import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import common
import movielens
from twotower.data.dataset import Dataset
from twotower.data.split import Split
from twotower.data.splitters import leave_one_out
from twotower.evaluation.protocol import Protocol
from twotower.evaluation.run import evaluate
from twotower.experiment.learn import learn
from twotower.experiment.recipes import default_run
from twotower.experiment.run import ModelSection
from twotower.models.t2diff import T2Diff
from twotower.reproduce.t2diff.cosines import restored_cosines

FORMS: dict[str, tuple[str, dict[str, Any]]] = {
    "popularity": ("popularity", {}),
    "sasrec": ("sasrec", {}),
    "t2diff predicted": ("t2diff", {}),
    "t2diff as_served": ("t2diff", {"restored": "as_served"}),
    "t2diff printed": ("t2diff", {"restored": "printed"}),
    "t2diff printed, mixed attention, not normalised": (
        "t2diff",
        {"restored": "printed", "attention": "mixed", "normalise": False},
    ),
}

DEAR = ("t2diff printed, mixed attention, not normalised",)
"""The paper's own form trains five times as long as the others here: only with ``--dear``, and the first seed alone."""


def cosines(model: T2Diff, dataset: Dataset, split: Split) -> dict[str, float]:
    """Restored and true: in training, by the draws of training, and when asked for the test item."""
    found = restored_cosines(model, dataset, split.train, split.test)
    return {"training": found["cosine_trained"], "asked": found["cosine_asked"]}


def judged(form: str, seed: int, epochs: int | None, dataset: Dataset, split: Split) -> dict[str, Any]:
    """One training of one form."""
    name, settings = FORMS[form]
    run = default_run(name)
    run = replace(
        run,
        model=ModelSection(name, run.model.settings | settings),
        training=replace(run.training, seed=seed, epochs=epochs or run.training.epochs),
    )
    with common.Clock() as clock:
        model, records = learn(run, dataset, split)
    protocol = Protocol(ks=(10,))
    both = {
        part: evaluate(model, dataset, targets, protocol).metrics["ndcg@10"]
        for part, targets in (("validation", split.validation), ("test", split.test))
    }
    cosine = cosines(model, dataset, split) if isinstance(model, T2Diff) else {}
    weights = sum(weight.numel() for weight in model.parameters())
    return {
        "seed": seed,
        "ndcg@10": both,
        "cosine": cosine,
        "epochs": len(records),
        "cpu_seconds": clock.cpu,
        "parameters": weights,
    }


def main() -> int:
    """Print and keep the table."""
    made = common.parser(__doc__)
    made.add_argument("--seeds", type=int, default=2, help="seeds of each form (default 2)")
    made.add_argument("--epochs", type=int, help="instead of the recipe's")
    made.add_argument("--dear", action="store_true", help="the paper's own form too, for the first seed")
    made.add_argument("--data", type=Path, help="MovieLens-100K as prepared; without, from the shared copy")
    options = common.parse(made)
    dataset, real = movielens.load("ml-100k", options.data)
    if not real:
        made.error("there is no shared copy of MovieLens-100K; give it as prepared: --data FOLDER")
    split = leave_one_out(dataset.log)
    epochs, seeds = (2, 1) if options.quick else (options.epochs, options.seeds)
    forms: dict[str, list[dict[str, Any]]] = {form: [] for form in FORMS}
    for seed in range(seeds):
        for form, found in forms.items():
            if form in DEAR and (seed or not options.dear):
                continue
            found.append(judged(form, seed, epochs, dataset, split))
            print(form, found[-1], file=sys.stderr, flush=True)
    common.finish(
        "t2diff_small",
        options,
        settings={"data": "ml-100k", "seeds": seeds, "epochs": epochs or "the recipe's 13"},
        figures={"forms": forms},
    )
    return 0


if __name__ == "__main__":
    sys.exit(main())
