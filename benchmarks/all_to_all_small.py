"""All-to-all self-attention beside the two-tower twin, EASE, item lists and popularity on MovieLens-100K: NDCG@10.

A small table for one CPU core: leave-one-out, whole catalogue, seen items masked. Every trained row has vectors of 32,
two layers of attention over the last ten items, batches of 256 and the same epochs, of which the best by validation is
kept; nothing is tuned. Rows "sampled" learn against the same 32 evenly drawn items for all of a batch, as all-to-all
has to; "full" against every item.
``--rows`` and ``--cells`` let several processes share the rows. ``--quick``: one epoch.
"""

from __future__ import annotations

import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import common
import movielens
from twotower.core.files import read_json, write_json
from twotower.data.dataset import Dataset
from twotower.data.split import Split
from twotower.data.splitters import leave_one_out
from twotower.evaluation.protocol import Protocol
from twotower.evaluation.run import evaluate
from twotower.experiment.learn import learn
from twotower.experiment.recipes import all_to_all
from twotower.experiment.run import ModelSection, Run
from twotower.training.config import Objective, Sampling

K = 10
SIZES: dict[str, Any] = {"dim": 32, "layers": 2, "history_length": 10}
TWIN: dict[str, Any] = {**SIZES, "tokenizer": "self_attention"}
COSINE: dict[str, Any] = {"score": "cosine", "temperature": 0.1}
DOT: dict[str, Any] = {"score": "dot", "temperature": 1.0}
COUNTED = ("popularity", "item_lists", "ease")
TRAINED: dict[str, tuple[str, dict[str, Any], str]] = {
    "all_to_all, sampled": ("all_to_all", SIZES, "sampled"),
    "twin, cosine, sampled": ("sparcode_twin", {**TWIN, **COSINE}, "sampled"),
    "twin, dot product, sampled": ("sparcode_twin", {**TWIN, **DOT}, "sampled"),
    "twin, cosine, full": ("sparcode_twin", {**TWIN, **COSINE}, "full"),
}
"""Model, its settings, and its negatives."""


def run_of(row: str, seed: int, epochs: int) -> Run:
    """The run of a row."""
    if row in COUNTED:
        return Run(model=ModelSection(row))
    name, settings, negatives = TRAINED[row]
    run = all_to_all()
    run = replace(
        run,
        model=ModelSection(name, settings),
        training=replace(run.training, epochs=epochs, patience=epochs, seed=seed, device="cpu"),
    )
    return run if negatives == "sampled" else replace(run, objective=Objective("full_softmax"), sampling=Sampling())


def trained(run: Run, dataset: Dataset, split: Split) -> dict[str, Any]:
    """One training of one row."""
    with common.Clock() as clock:
        model, records = learn(run, dataset, split)
    parts = {"validation": split.validation, "test": split.test}
    judged = {part: evaluate(model, dataset, of, Protocol(ks=(K,))).metrics for part, of in parts.items()}
    metrics = {
        f"{metric}@{K}": {part: judged[part][f"{metric}@{K}"] for part in parts} for metric in ("ndcg", "recall")
    }
    curve = [record.metrics[f"ndcg@{K}"] for record in records if f"ndcg@{K}" in record.metrics]
    return {**metrics, "validation_by_epoch": curve, "epochs": len(records), "cpu_seconds": clock.cpu}


def main() -> int:
    """Print and keep the table."""
    made = common.parser(__doc__)
    made.add_argument("--rows", help="names of rows, separated by semicolons; without, all")
    made.add_argument("--cells", type=Path, help="folder where each row is kept, and taken from where it is there")
    made.add_argument("--data", type=Path, help="MovieLens-100K as prepared; without, from the shared copy")
    made.add_argument("--seeds", type=int, default=1)
    made.add_argument("--epochs", type=int, default=6)
    options = common.parse(made)
    dataset, real = movielens.load("ml-100k", options.data)
    if not real:
        made.error("there is no shared copy of MovieLens-100K; give it as prepared: --data FOLDER")
    split = leave_one_out(dataset.log)
    epochs = 1 if options.quick else options.epochs
    figures: dict[str, dict[str, Any]] = {}
    for row in options.rows.split(";") if options.rows else [*COUNTED, *TRAINED]:
        for seed in range(1 if row in COUNTED else options.seeds):
            kept = None if options.cells is None else options.cells / f"{row}-{seed}.json"
            if kept is not None and kept.is_file():
                one = read_json(kept)
            else:
                one = trained(run_of(row, seed, epochs), dataset, split)
                if kept is not None:
                    kept.parent.mkdir(parents=True, exist_ok=True)
                    write_json(kept, one)
            figures.setdefault(row, {})[str(seed)] = one
    if not options.json:
        for row, seeds in figures.items():
            for seed, one in seeds.items():
                both = one[f"ndcg@{K}"]
                print(
                    f"{row:28} {seed} {both['validation']:.4f} {both['test']:.4f} {one['cpu_seconds']:6.0f} s",
                    flush=True,
                )
    settings = {"data": "ml-100k", "epochs": epochs, "seeds": options.seeds, **SIZES}
    common.finish("all_to_all_small", options, settings=settings, figures={"rows": figures})
    return 0


if __name__ == "__main__":
    sys.exit(main())
