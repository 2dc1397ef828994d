"""Try settings of two_tower and sasrec on the logs of default_sets.py, many trainings side by side, for default runs.

Each finished training is a line of JSON: set, model, name of the setting, seed, validation and test NDCG@10, seconds,
epochs. Settings are chosen on validation alone; the test figures are there for the table once the choice is made. The
script ends by itself when its seconds are used up, and goes on where it stopped when it is called again.

    python benchmarks/tune_defaults.py SETS --out lines.jsonl --seconds 520 --jobs 14 --round 1
"""

from __future__ import annotations

import argparse
import json
import random
import time
from concurrent.futures import FIRST_COMPLETED, ProcessPoolExecutor, wait
from multiprocessing import get_context
from pathlib import Path
from typing import Any

CLOCKLESS = ("lastfm", "citeulike")


def settings_of(model: str, number: int) -> dict[str, dict[str, Any]]:
    """Drawn settings by name, the present default first; the same for every set."""
    draw = random.Random(f"{model} 1")
    found: dict[str, dict[str, Any]] = {"default": {}}
    while len(found) < number:
        if model == "two_tower":
            linear, dim = draw.random() < 0.7, draw.choice([64, 128, 256])
            sampled = draw.random() < 0.25
            one = {
                "model.hidden": [] if linear else [128],
                "model.dim": dim,
                "model.field_dim": dim if linear else 64,
                "model.pooling": draw.choice(["mean", "recency", "both", "both"]),
                "model.history_dropout": draw.choice([0.0, 0.2, 0.5]),
                "model.history_table": draw.random() < 0.6,
                "model.history_length": draw.choice([20, 50, 200]),
                "model.temperature": draw.choice([0.05, 0.07, 0.1]),
                "model.learn_temperature": draw.random() < 0.5,
                "model.dropout": draw.choice([0.0, 0.2]) if not linear else 0.0,
                "training.weight_decay": draw.choice([0.0, 0.01, 0.1, 1.0]),
                "training.learning_rate": draw.choice([1e-3, 3e-3, 1e-2]),
                "training.batch_size": draw.choice([256, 1024]),
                "training.epochs": 40,
                "training.patience": 4,
                "objective.loss": "sampled_softmax" if sampled else "full_softmax",
                "sampling.sources": ["in_batch"],
            }
        else:
            one = {
                "model.dim": draw.choice([64, 128]),
                "model.layers": draw.choice([1, 2]),
                "model.dropout": draw.choice([0.2, 0.5]),
                "model.attention_dropout": draw.choice([0.0, 0.2]),
                "model.history_length": draw.choice([50, 100]),
                "training.weight_decay": draw.choice([0.0, 0.1]),
                "training.learning_rate": draw.choice([1e-3, 2e-3]),
                "training.batch_size": draw.choice([32, 128]),
                "training.schedule": "constant",
                "training.epochs": 40,
                "training.patience": 4,
            }
        found[f"drawn-{len(found)}"] = one
    return found


def measure(
    folder: str, name: str, model: str, setting: str, keys: dict[str, Any], seed: int, cpu: bool
) -> dict[str, Any]:
    """Train one setting on one set."""
    import torch

    torch.set_num_threads(1)
    from twotower.data.dataset import Dataset
    from twotower.experiment.recipes import default_run
    from twotower.experiment.run import Run
    from twotower.experiment.train import train

    started = time.perf_counter()
    values = default_run(model).to_dict()
    closed = model in ("popularity", "item_cosine", "item_lists", "ease")
    device = "cpu" if cpu or closed else "cuda"
    more = {"training.seed": seed, "training.device": device, "evaluation.ks": [10, 50]}
    for key, value in (keys | more).items():
        section, _, key = key.partition(".")
        values[section][key] = value
    line = {"set": name, "model": model, "setting": setting, "seed": seed}
    try:
        found = train(Run.from_dict(values), dataset=Dataset.load(Path(folder), verify=False))
    except Exception as error:  # one setting that fails is a line, not the end of all
        return line | {"error": f"{type(error).__name__}: {error}"[:300]}
    judged = [record["ndcg@10"] for record in found.records if "ndcg@10" in record]
    return line | {
        "validation": max(judged, default=None),
        "test": found.test.metrics["ndcg@10"],
        "recall": found.test.metrics["recall@10"],
        "epochs": len(found.records),
        "best": judged.index(max(judged)) + 1 if judged else 0,
        "seconds": round(time.perf_counter() - started, 1),
    }


def main() -> None:
    """Work through what is not done yet."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("sets", type=Path)
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--seconds", type=float, default=520)
    parser.add_argument("--jobs", type=int, default=14)
    parser.add_argument("--model", default="two_tower")
    parser.add_argument("--settings", type=int, default=30)
    parser.add_argument("--only", default="", help="names of settings, with commas")
    parser.add_argument("--file", type=Path, help="settings by model and name as JSON, in place of drawn ones")
    parser.add_argument("--seeds", type=int, default=1)
    parser.add_argument("--cpu", action="store_true")
    given = parser.parse_args()
    until = time.monotonic() + given.seconds
    lines = [json.loads(line) for line in given.out.read_text().splitlines()] if given.out.is_file() else []
    done = {(line["set"], line["model"], line["setting"], line["seed"]) for line in lines}
    names = sorted(folder.name for folder in given.sets.iterdir() if (folder / "manifest.json").is_file())
    models = given.model.split(",")
    chosen = {model: settings_of(model, given.settings) for model in models}
    if given.file:
        chosen = json.loads(given.file.read_text())
    if given.only:
        chosen = {model: {name: keys[name] for name in given.only.split(",") if name in keys} for model, keys in chosen.items()}
    waiting = [
        (str(given.sets / name), name, model, setting, keys, seed, given.cpu)
        for seed in range(given.seeds)
        for model, settings in chosen.items()
        for setting, keys in settings.items()
        for name in names
        if (name, model, setting, seed) not in done
    ]
    print(f"{len(done)} done, {len(waiting)} to do", flush=True)
    with ProcessPoolExecutor(given.jobs, mp_context=get_context("spawn")) as pool, given.out.open("a") as out:
        running = set()
        while waiting or running:
            while waiting and len(running) < given.jobs and time.monotonic() < until - 40:
                running.add(pool.submit(measure, *waiting.pop(0)))
            if not running:
                break
            ended, running = wait(running, timeout=max(0.1, until - time.monotonic()), return_when=FIRST_COMPLETED)
            for one in ended:
                out.write(json.dumps(one.result()) + "\n")
                out.flush()
            if time.monotonic() > until:
                break
        for process in list(pool._processes.values()):  # what runs over is not waited for
            process.kill()
    print(f"{len(given.out.read_text().splitlines())} lines", flush=True)


if __name__ == "__main__":
    main()
