"""Sequence towers with objectives of their own beside SASRec, two_tower, EASE and popularity on MovieLens-100K.

A small table for one CPU core, not a paper's: leave-one-out, whole catalogue, seen items masked. All sequence towers
have width 64, windows of 50, batches of 32, the full softmax and their own defaults else; the epoch is chosen by
validation NDCG@10. Cloze learns from a fifth of the places, so BERT4Rec may take two and a half times the epochs. The
others have their default runs; closed forms are fitted once. Finished cells are kept, one line each, beside the result,
and a stopped run goes on with what is missing (``--kept``: the table of what is there). ``--quick``: two epochs, one
seed.
"""

from __future__ import annotations

import json
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
from twotower.experiment.run import ModelSection, Run
from twotower.models.base import ClosedForm
from twotower.models.registry import model_class

FORMS: dict[str, tuple[str, dict[str, Any]]] = {
    "popularity": ("popularity", {}),
    "ease": ("ease", {}),
    "sasrec": ("sasrec", {}),
    "stosa": ("stosa", {}),
    "diffurec": ("diffurec", {}),
    "contrast_vae": ("contrast_vae", {}),
    "dat_plus": ("dat_plus", {}),
    "dat_plus causal": ("dat_plus", {"encoder": "causal"}),
    "bert4rec": ("bert4rec", {}),
    "two_tower": ("two_tower", {}),
}
SHARED = {"dim": 64, "history_length": 50, "dropout": 0.2}
EPOCHS = {"bert4rec": 50}
MOST = 20
"""Epochs of all others."""


def run_of(form: str, seed: int, epochs: int | None) -> Run:
    """Return what is trained."""
    name, settings = FORMS[form]
    run = default_run(name)
    training = replace(run.training, seed=seed)
    if model_class(name).batches == "sequences":
        most = EPOCHS.get(form.split()[0], MOST)
        training = replace(training, epochs=most, batch_size=32, evaluate_every=1 if most == MOST else 2, patience=4)
        settings = {key: value for key, value in run.model.settings.items() if key in ("score", "temperature")} | (
            SHARED | settings
        )
    else:
        settings = run.model.settings | settings
    if epochs:
        training = replace(training, epochs=epochs)
    return replace(run, model=ModelSection(name, settings), training=training)


def judged(form: str, seed: int, epochs: int | None, dataset: Dataset, split: Split) -> dict[str, Any]:
    """Train one form once and test the epoch that validation chose."""
    run = run_of(form, seed, epochs)
    with common.Clock() as clock:
        model, records = learn(run, dataset, split)
    protocol = Protocol(ks=(10,))
    both = {
        part: evaluate(model, dataset, targets, protocol).metrics["ndcg@10"]
        for part, targets in (("validation", split.validation), ("test", split.test))
    }
    weights = sum(weight.numel() for weight in model.parameters())
    cell = {"ndcg@10": both, "epochs": len(records), "cpu_seconds": round(clock.cpu, 1), "parameters": weights}
    return {"form": form, "seed": seed, "most_epochs": epochs, **cell}


def main() -> int:
    """Print and keep the table."""
    made = common.parser(__doc__)
    made.add_argument("--seeds", type=int, default=3, help="seeds of each form (default 3)")
    made.add_argument("--forms", nargs="+", choices=list(FORMS), default=list(FORMS), help="default: all")
    made.add_argument("--kept", action="store_true", help="train nothing: the table of what is finished")
    made.add_argument("--data", type=Path, help="MovieLens-100K as prepared; without, from the shared copy")
    options = common.parse(made)
    dataset, real = movielens.load("ml-100k", options.data)
    if not real:
        made.error("there is no shared copy of MovieLens-100K; give it as prepared: --data FOLDER")
    split = leave_one_out(dataset.log)
    epochs, seeds = (2, 1) if options.quick else (None, options.seeds)
    lines = (options.out or common.RESULTS / "towers_small.json").with_suffix(".jsonl")
    kept = [json.loads(line) for line in lines.read_text().splitlines()] if lines.is_file() else []
    found = {(cell["form"], cell["seed"]): cell for cell in kept if cell["most_epochs"] == epochs}
    for seed in range(seeds):
        for form in options.forms:
            once = issubclass(model_class(FORMS[form][0]), ClosedForm)  # draws nothing
            if (form, seed) not in found and not options.kept and not (once and seed):
                found[form, seed] = cell = judged(form, seed, epochs, dataset, split)
                if not options.quick:
                    with lines.open("a") as kept_lines:
                        kept_lines.write(json.dumps(cell) + "\n")
                print(cell, file=sys.stderr, flush=True)
    common.finish(
        "towers_small",
        options,
        settings={"data": "ml-100k", "seeds": seeds, "shared": SHARED, "epochs": MOST, "epochs_of": EPOCHS},
        figures={"cells": [found[key] for key in sorted(found) if key[0] in options.forms]},
    )
    return 0


if __name__ == "__main__":
    sys.exit(main())
