"""TDM's forms beside popularity, EASE and a two-tower on MovieLens-100K: NDCG@10 over all items, and down the tree.

A small table for one CPU core: leave-one-out, whole catalogue, seen items masked, every setting at its default
(`twotower train --model`) but those named; the epoch is chosen on validation. For trees also the share of the true best
ten that a beam finds, NDCG@10 of what it finds, and the share of nodes and items that it scores.
``--rows`` and ``--cells`` let several processes share the rows. ``--quick``: two epochs.
"""

from __future__ import annotations

import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch

import common
import movielens
from twotower.core.files import read_json, write_json
from twotower.data.dataset import Dataset
from twotower.data.split import Split, Targets
from twotower.data.splitters import leave_one_out
from twotower.evaluation.protocol import Protocol
from twotower.evaluation.run import evaluate
from twotower.experiment.learn import learn
from twotower.experiment.recipes import default_run
from twotower.experiment.run import ModelSection
from twotower.index.brute_force import BruteForceIndex
from twotower.index.tree_index import TreeIndex
from twotower.models.encode import encode_known_items, inference, users_with_history
from twotower.models.tdm import TDM

ROWS: dict[str, tuple[str, dict[str, Any]]] = {
    "popularity": ("popularity", {}),
    "ease": ("ease", {}),
    "two_tower": ("two_tower", {}),
    "tdm attention": ("tdm", {"scorer": "attention"}),
    "tdm mlp": ("tdm", {"scorer": "mlp"}),
    "tdm dot": ("tdm", {"scorer": "dot"}),
    "tdm mlp, first tree kept": ("tdm", {"scorer": "mlp", "rounds": 0}),
    "tdm mlp, first tree by popularity and kept": (
        "tdm",
        {"scorer": "mlp", "rounds": 0, "first_tree": "popularity"},
    ),
}
BEAMS = (10, 20, 50, 100)
K = 10


class Counted:
    """A model's tree whose scored pairs are counted."""

    def __init__(self, model: TDM) -> None:
        self.model, self.pairs = model, 0
        self.branches, self.levels = model.branches, model.levels
        self.nodes_above, self.node_states = model.nodes_above, model.node_states
        self.item_store, self.user_kind, self.inner_product = model.item_store, model.user_kind, False
        self.score = model.score

    def score_rows(self, users: Any, items: torch.Tensor) -> torch.Tensor:
        self.pairs += items.shape[0] * items.shape[1]
        return self.model.score_rows(users, items)


def down_the_tree(model: TDM, dataset: Dataset, targets: Targets) -> dict[str, dict[str, float]]:
    """What a beam finds of the best, and of the held-out items."""
    users, items = targets.users(), encode_known_items(model, dataset)
    seen = targets.history.seen(users)
    truth = targets.truth.items[targets.truth.offsets[users]]
    gains = 1.0 / torch.arange(2, K + 2).float().log2()
    found = {}
    with inference(model):
        states = model.encode_users(
            users_with_history(dataset, targets.history.positives(), users, model.history_length)
        )
        scan = BruteForceIndex(model)
        scan.build(items.states, items.ids)
        best = scan.search(states, K, seen).ids
        for beam in BEAMS:
            counted = Counted(model)
            index = TreeIndex(counted, beam=beam)
            index.build(items.states, items.ids)
            ids = index.search(states, K, seen).ids
            found[str(beam)] = {
                "found": (ids[:, :, None] == best[:, None]).any(2).float().mean().item(),
                "ndcg@10": ((ids == truth[:, None]) * gains).sum(1).mean().item(),
                "scored": counted.pairs / len(users) / len(items.ids),
            }
    return found


def trained(row: str, epochs: int | None, dataset: Dataset, split: Split) -> dict[str, Any]:
    """One training of one row."""
    name, settings = ROWS[row]
    run = default_run(name)
    run = replace(
        run,
        model=ModelSection(name, run.model.settings | settings),
        training=replace(run.training, epochs=epochs or run.training.epochs, device="cpu"),
    )
    with common.Clock() as clock:
        model, records = learn(run, dataset, split)
    parts = {"validation": split.validation, "test": split.test}
    both = {part: evaluate(model, dataset, of, Protocol(ks=(K,))).metrics["ndcg@10"] for part, of in parts.items()}
    tree = {part: down_the_tree(model, dataset, of) for part, of in parts.items()} if isinstance(model, TDM) else {}
    return {"ndcg@10": both, "tree": tree, "epochs": len(records), "cpu_seconds": clock.cpu}


def main() -> int:
    """Print and keep the table."""
    made = common.parser(__doc__)
    made.add_argument("--rows", help="names of rows, separated by semicolons; without, all")
    made.add_argument("--cells", type=Path, help="folder where each row is kept, and taken from where it is there")
    made.add_argument("--data", type=Path, help="MovieLens-100K as prepared; without, from the shared copy")
    options = common.parse(made)
    dataset, real = movielens.load("ml-100k", options.data)
    if not real:
        made.error("there is no shared copy of MovieLens-100K; give it as prepared: --data FOLDER")
    split = leave_one_out(dataset.log)
    figures: dict[str, dict[str, Any]] = {}
    for row in options.rows.split(";") if options.rows else ROWS:
        kept = None if options.cells is None else options.cells / f"{row}.json"
        if kept is not None and kept.is_file():
            figures[row] = read_json(kept)
            continue
        figures[row] = trained(row, 2 if options.quick else None, dataset, split)
        if kept is not None:
            kept.parent.mkdir(parents=True, exist_ok=True)
            write_json(kept, figures[row])
    if not options.json:
        for row, one in figures.items():
            both = one["ndcg@10"]
            print(f"{row:44} {both['validation']:.4f} {both['test']:.4f} {one['cpu_seconds']:6.0f} s")
            for beam, down in one["tree"].get("test", {}).items():
                print(
                    f"    beam {beam:>4} finds {down['found']:.3f}: {down['ndcg@10']:.4f}, scores {down['scored']:.2f}"
                )
    common.finish("tdm_small", options, settings={"data": "ml-100k", "beams": BEAMS}, figures={"rows": figures})
    return 0


if __name__ == "__main__":
    sys.exit(main())
