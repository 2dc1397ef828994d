"""Try settings of two_tower and sasrec on the logs of default_sets.py, many trainings side by side, for default runs.

SETTINGS is a JSON list of [model, name, {"section.key": value}]. Each finished training is a line of JSON: set, model,
name of the setting, seed, validation and test NDCG@10, seconds, epochs. Settings are chosen on validation alone, and
`--judge` says how the choice does on each set when that set had no say in it. The script ends by itself when its
seconds are used up, and goes on where it stopped when it is called again.

    python benchmarks/default_sets.py SETS
    python benchmarks/tune_defaults.py SETS --settings SETTINGS.json --out lines.jsonl --seconds 520 --jobs 18
    python benchmarks/tune_defaults.py --judge benchmarks/results/tune_defaults.jsonl
"""

from __future__ import annotations

import argparse
import json
import math
import time
from collections.abc import Callable
from concurrent.futures import FIRST_COMPLETED, Future, ProcessPoolExecutor, wait
from multiprocessing import get_context
from pathlib import Path
from typing import Any

Line = dict[str, Any]
CLOSED = ("popularity", "item_cosine", "item_lists", "ease")


def measure(folder: Path, model: str, setting: str, keys: dict[str, Any], seed: int, device: str) -> Line:
    """Train one setting on one set."""
    import torch

    torch.set_num_threads(1)
    from twotower.data.dataset import Dataset
    from twotower.evaluation.protocol import Protocol
    from twotower.evaluation.run import evaluate
    from twotower.experiment.recipes import default_run
    from twotower.experiment.run import Run
    from twotower.experiment.train import train

    started = time.perf_counter()
    values = default_run(model).to_dict()
    where = "cpu" if model in CLOSED else device
    for key, value in (keys | {"training.seed": seed, "training.device": where, "evaluation.ks": [10, 50]}).items():
        section, _, key = key.partition(".")
        values[section][key] = value
    line = {"set": folder.name, "model": model, "setting": setting, "seed": seed}
    try:
        found = train(Run.from_dict(values), dataset=Dataset.load(folder, verify=False))
    except Exception as error:  # one setting that fails is a line, not the end of all
        return line | {"error": f"{type(error).__name__}: {error}"[:300]}
    judged = [record.metrics["ndcg@10"] for record in found.records if "ndcg@10" in record.metrics]
    if not found.records:  # a closed form
        protocol = Protocol(ks=(10,), split="validation")
        judged = [evaluate(found.model, found.dataset, found.split.validation, protocol).metrics["ndcg@10"]]
    return line | {
        "validation": max(judged, default=None),
        "test": found.test.metrics["ndcg@10"],
        "recall": found.test.metrics["recall@10"],
        "epochs": len(found.records),
        "best": judged.index(max(judged)) + 1 if judged else 0,
        "seconds": round(time.perf_counter() - started, 1),
    }


def read(path: Path) -> list[Line]:
    """What is done so far."""
    return [json.loads(line) for line in path.read_text().splitlines()] if path.is_file() else []


def work(
    waiting: list[tuple[Any, ...]],
    out: Path,
    *,
    jobs: int,
    seconds: float,
    task: Callable[..., Line] = measure,
) -> None:
    """Do what is waiting, until the seconds are used up; what then runs is not waited for."""
    until = time.monotonic() + seconds
    with ProcessPoolExecutor(jobs, mp_context=get_context("spawn")) as pool, out.open("a") as lines:
        running: set[Future[Line]] = set()
        while waiting or running:
            while waiting and len(running) < jobs and time.monotonic() < until - 40:
                running.add(pool.submit(task, *waiting.pop(0)))
            if not running:
                break
            ended, running = wait(running, timeout=max(0.1, until - time.monotonic()), return_when=FIRST_COMPLETED)
            for one in ended:
                lines.write(json.dumps(one.result()) + "\n")
                lines.flush()
            if time.monotonic() > until:
                break
        for process in list((pool._processes or {}).values()):
            process.kill()


def judge(lines: list[Line], model: str) -> list[tuple[str, str, float, float]]:
    """For each set: the setting that the other sets choose by validation, its test figure, and the best one's there."""
    sets = sorted({line["set"] for line in lines})
    found = {
        (line["setting"], line["set"]): line for line in lines if line["model"] == model and line.get("validation")
    }
    whole = [name for name in {name for name, _ in found} if all((name, one) in found for one in sets)]
    rows = []
    for left_out in sets:

        def by_others(name: str, out: str = left_out) -> float:
            return sum(math.log(found[name, one]["validation"]) for one in sets if one != out)

        chosen = max(sorted(whole), key=by_others)
        best = max(found[name, left_out]["test"] for name in whole)
        rows.append((left_out, chosen, found[chosen, left_out]["test"], best))
    return rows


def main() -> None:
    """Work through what is not done yet, or judge what is."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("sets", type=Path, nargs="?")
    parser.add_argument("--settings", type=Path)
    parser.add_argument("--out", type=Path)
    parser.add_argument("--seconds", type=float, default=520)
    parser.add_argument("--jobs", type=int, default=2)
    parser.add_argument("--seeds", type=int, default=1)
    parser.add_argument("--device", default="cuda")
    parser.add_argument("--judge", type=Path, help="say how the choice by the other sets does on each set")
    given = parser.parse_args()
    if given.judge:
        for name, chosen, test, best in judge(read(given.judge), "two_tower"):
            print(f"{name:20s} {chosen:12s} test {test:.4f}, the best setting's {best:.4f}")
        return
    done = {(line["set"], line["model"], line["setting"], line["seed"]) for line in read(given.out)}
    folders = sorted(folder for folder in given.sets.iterdir() if (folder / "manifest.json").is_file())
    waiting = [
        (folder, model, name, keys, seed, given.device)
        for seed in range(given.seeds)
        for model, name, keys in json.loads(given.settings.read_text())
        for folder in folders
        if (folder.name, model, name, seed) not in done
    ]
    print(f"{len(done)} done, {len(waiting)} to do", flush=True)
    work(waiting, given.out, jobs=given.jobs, seconds=given.seconds)
    print(f"{len(read(given.out))} lines", flush=True)


if __name__ == "__main__":
    main()
