"""Try first item vectors of `two_tower` from item co-occurrence on logs where EASE is ahead: do they gain?

The rows of the item table begin as the best 128 eigenvectors of the items' cosine co-occurrence, times the root of the
eigenvalue, and the linear towers as the identity, so that before the first step a score is about that of item_cosine.

    python benchmarks/default_sets.py SETS
    python benchmarks/init_items.py --sets SETS --out lines.jsonl --jobs 2
    python benchmarks/init_items.py --judge benchmarks/results/init_items.jsonl
"""

from __future__ import annotations

import argparse
import time
from pathlib import Path
from typing import Any

import torch
from torch import nn

import tune_defaults

LOGS = ("citeulike", "lastfm", "instruments-5core", "instruments-2018", "ml-100k")
STARTS = ("drawn", "identity", "cooccurrence", "cooccurrence, rate 0.003", "cooccurrence, rate 0.001")


def cooccurrence_vectors(log: Any, num_items: int, dim: int, device: torch.device) -> torch.Tensor:
    """Eigenvectors of the cosine co-occurrence without its diagonal, scaled by the root of the eigenvalue."""
    from twotower.models.baselines.cooccurrence import incidence

    seen = incidence(log, num_items)
    counts = torch.from_numpy((seen.T @ seen).toarray()).float().to(device)
    roots = counts.diagonal().clamp(min=1.0).sqrt()
    counts /= roots[:, None] * roots
    counts.fill_diagonal_(0.0)
    torch.manual_seed(0)
    basis, _ = torch.linalg.qr(torch.randn(num_items, 2 * dim, device=device))
    for _ in range(8):  # subspace iteration
        basis, _ = torch.linalg.qr(counts @ basis)
    values, turns = torch.linalg.eigh(basis.T @ counts @ basis)
    return (basis @ turns.flip(1)[:, :dim]) * values.flip(0)[:dim].clamp(min=0.0).sqrt()


def started(model: Any, log: Any, start: str) -> Any:
    """The model with its first weights."""
    if start == "drawn":
        return model
    with torch.no_grad():
        layers = [
            [one for one in side.modules() if isinstance(one, nn.Linear)] for side in (model.item_mlp, model.user_mlp)
        ]
        (item,), (user,) = layers
        eye = torch.eye(len(item.weight), device=item.weight.device)
        item.weight.copy_(eye)
        user.weight.copy_(torch.cat([eye / 2, eye / 2], dim=1))
        item.bias.zero_()
        user.bias.zero_()
        if start.startswith("cooccurrence"):
            vectors = cooccurrence_vectors(log, *model.item_table.weight.shape, device=item.weight.device)
            rms = vectors[vectors.abs().sum(1) > 0].square().mean().sqrt()
            vectors = vectors / rms * model.item_table.weight.shape[1] ** -0.5
            known = vectors.abs().sum(1) > 0
            model.item_table.weight[known] = vectors[known]
    return model


def measure(folder: Path, start: str, seed: int, device: str) -> dict[str, Any]:
    """Train from one start on one log."""
    torch.set_num_threads(1)
    from twotower.data.dataset import Dataset
    from twotower.experiment import learn as learning
    from twotower.experiment.recipes import default_run
    from twotower.experiment.train import train

    began = time.perf_counter()
    rate = start.partition("rate ")[2]
    changes = [
        f"training.seed={seed}",
        f"training.device={device}",
        *([f"training.learning_rate={rate}"] if rate else []),
    ]
    run = default_run("two_tower").with_settings(changes)
    dataset = Dataset.load(folder, verify=False)
    from twotower.experiment.catalogue import split_of

    log, new_model = split_of(run, dataset).train, learning.new_model
    learning.new_model = lambda run, dataset: started(new_model(run, dataset), log, start)
    try:
        found = train(run, dataset=dataset)
    finally:
        learning.new_model = new_model
    judged = [record.metrics["ndcg@10"] for record in found.records]
    return {
        "set": folder.name,
        "start": start,
        "seed": seed,
        "validation": max(judged),
        "first_epoch": judged[0],
        "test": found.test.metrics["ndcg@10"],
        "epochs": len(judged),
        "seconds": round(time.perf_counter() - began, 1),
    }


def judge(lines: list[dict[str, Any]]) -> None:
    """Print means over seeds."""
    for key in sorted({(line["set"], line["start"]) for line in lines}):
        found = [line for line in lines if (line["set"], line["start"]) == key]
        mean = {name: sum(one[name] for one in found) / len(found) for name in ("validation", "test", "epochs")}
        print(
            f"{key[0]:18s} {key[1]:26s} {len(found)} seeds  validation {mean['validation']:.4f}  "
            f"test {mean['test']:.4f}  epochs {mean['epochs']:.0f}"
        )


def main() -> None:
    """Train what is not done yet, or judge what is."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--sets", type=Path)
    parser.add_argument("--names", default=",".join(LOGS))
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--out", type=Path)
    parser.add_argument("--seconds", type=float, default=200)
    parser.add_argument("--jobs", type=int, default=1)
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--judge", type=Path, help="print the means of finished lines")
    given = parser.parse_args()
    if given.judge:
        judge(tune_defaults.read(given.judge))
        return
    done = {(line["set"], line["start"], line["seed"]) for line in tune_defaults.read(given.out)}
    waiting: list[tuple[Any, ...]] = [
        (given.sets / name, start, seed, given.device)
        for seed in range(given.seeds)
        for start in STARTS
        for name in given.names.split(",")
        if (name, start, seed) not in done
    ]
    tune_defaults.work(waiting, given.out, jobs=given.jobs, seconds=given.seconds, task=measure)


if __name__ == "__main__":
    main()
