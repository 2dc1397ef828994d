"""What tables of fewer rows than ids cost: NDCG@10 of a small two-tower with hashed and compositional tables.

Whole catalogue, leave-one-out, seen items masked; the recipe of two_tower made small (`SMALL`), at most 10 epochs,
chosen on validation. Rows: popularity, EASE (whole and sparse), a dense table, and hashed tables (two hashes, one) and
quotient-remainder tables whose items share a half, a quarter and a tenth of the rows. Finished cells are kept, one line
each, beside the result, and a stopped run goes on with what is missing (``--kept``: the table of what is there).
``--quick``: one epoch, one seed, three rows.
"""

from __future__ import annotations

import json
import statistics
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import common
from twotower.data.dataset import Dataset
from twotower.data.split import Split
from twotower.data.splitters import leave_one_out
from twotower.evaluation.protocol import Protocol
from twotower.evaluation.run import evaluate
from twotower.experiment.learn import learn
from twotower.experiment.recipes import default_run
from twotower.experiment.run import ModelSection, Run

SMALL = {"dim": 32, "field_dim": 32, "history_length": 20, "pooling": "mean"}
MOST, BATCH = 10, 512
SHARES = (2, 4, 10)
KINDS: dict[str, dict[str, Any]] = {
    "hashed, 2": {"table": "hashed", "table_hashes": 2},
    "quotient_remainder": {"table": "quotient_remainder"},
    "hashed, 1": {"table": "hashed", "table_hashes": 1},
}
CLOSED = ("popularity", "ease", "sparse_ease")
FORMS = [*CLOSED, "dense", *(f"{kind} 1/{share}" for share in SHARES for kind in KINDS)]


def run_of(form: str, seed: int, items: int, epochs: int | None) -> Run:
    """Return what is trained."""
    if form in CLOSED:
        return default_run(form)
    run = default_run("two_tower")
    own: dict[str, Any] = {}
    if form != "dense":
        kind, share = form.rsplit(" 1/", 1)
        own = KINDS[kind] | {"table_buckets": items // int(share)}
    settings = run.model.settings | SMALL | own
    training = replace(run.training, epochs=epochs or MOST, batch_size=BATCH, patience=2, seed=seed, device="cpu")
    return replace(run, model=ModelSection("two_tower", settings), training=training)


def judged(name: str, form: str, seed: int, epochs: int | None, dataset: Dataset, split: Split) -> dict[str, Any]:
    """Train one form once and test the epoch that validation chose."""
    run = run_of(form, seed, dataset.schema.num_items, epochs)
    with common.Clock() as clock:
        model, records = learn(run, dataset, split)
    both = {
        part: evaluate(model, dataset, targets, Protocol(ks=(10,))).metrics["ndcg@10"]
        for part, targets in (("validation", split.validation), ("test", split.test))
    }
    table = getattr(model, "item_table", None)
    kept = 0 if table is None else sum(part.numel() for part in table.parameters())
    return {
        "data": name,
        "form": form,
        "seed": seed,
        "most_epochs": epochs,
        "ndcg@10": both,
        "epochs": len(records),
        "numbers_of_the_table": kept,
        "cpu_seconds": round(clock.cpu, 1),
    }


def main() -> int:
    """Print and keep the table."""
    made = common.parser(__doc__)
    made.add_argument("--seeds", type=int, default=3, help="seeds of each form (default 3)")
    made.add_argument("--forms", nargs="+", choices=FORMS, default=FORMS, help="default: all")
    made.add_argument("--kept", action="store_true", help="train nothing: the table of what is finished")
    made.add_argument("--data", type=Path, nargs="+", required=True, help="folders of prepared data sets")
    options = common.parse(made)
    epochs, seeds = (1, 1) if options.quick else (None, options.seeds)
    forms = ["popularity", "dense", "hashed, 2 1/4"] if options.quick else options.forms
    lines = (options.out or common.RESULTS / "tables.json").with_suffix(".jsonl")
    kept = [json.loads(line) for line in lines.read_text().splitlines()] if lines.is_file() else []
    found = {(one["data"], one["form"], one["seed"]): one for one in kept if one["most_epochs"] == epochs}
    sets = {folder.name: Dataset.load(folder) for folder in options.data}
    splits = {name: leave_one_out(dataset.log) for name, dataset in sets.items()}
    for seed in range(seeds):
        for name, dataset in sets.items():
            for form in forms:
                once = form in CLOSED  # they draw nothing
                if (name, form, seed) in found or options.kept or (once and seed):
                    continue
                found[name, form, seed] = cell = judged(name, form, seed, epochs, dataset, splits[name])
                if not options.quick:
                    with lines.open("a") as kept_lines:
                        kept_lines.write(json.dumps(cell) + "\n")
                print(cell, file=sys.stderr, flush=True)
    if not options.json:
        for name in sets:
            for form in forms:
                cells = [cell for (data, of, _), cell in found.items() if (data, of) == (name, form)]
                if cells:
                    tests = [cell["ndcg@10"]["test"] for cell in cells]
                    spread = statistics.stdev(tests) if len(tests) > 1 else 0.0
                    size = cells[0]["numbers_of_the_table"]
                    print(f"{name:12} {form:26} {statistics.mean(tests):.4f} ± {spread:.4f} ({len(tests)}) {size:>9,}")
    common.finish(
        "tables",
        options,
        settings={"data": sorted(sets), "seeds": seeds, "epochs": MOST, "batch": BATCH, "model": SMALL},
        figures={"cells": [found[key] for key in sorted(found) if key[0] in sets]},
    )
    return 0


if __name__ == "__main__":
    sys.exit(main())
