"""Measure how well `two_tower` finds items without any training event, by their features, on two real logs.

A fifth of the items is held out with all its events: one half chooses settings, the other is reported ("cold"
validation and test). The rest of the log is split by leave-one-out, which chooses the epoch and gives the "warm"
figures. All rankings are over the whole catalogue, what a user has seen left out; chance is 10 / catalogue.

    python benchmarks/cold_items.py --sets COLD --out lines.jsonl --settings default,id_dropout=0.3 --jobs 2
    python benchmarks/cold_items.py --judge benchmarks/results/cold_items.jsonl
"""

from __future__ import annotations

import argparse
import time
from dataclasses import replace
from pathlib import Path
from typing import Any

import duckdb
import torch

import common
import tune_defaults
import twotower
from twotower.core.records import FIRST_KNOWN
from twotower.data.dataset import Dataset
from twotower.data.log import Log
from twotower.data.split import Split, Targets
from twotower.data.splitters import split_log
from twotower.evaluation.protocol import Protocol
from twotower.evaluation.run import evaluate
from twotower.experiment.learn import learn
from twotower.experiment.recipes import default_run
from twotower.experiment.train import spelled_out

SEED = 5
LOGS = {
    "ml-100k": (
        "SELECT user_id AS user, item_id AS item, timestamp AS time FROM '{data}/ml-100k/ratings.parquet'",
        "SELECT item_id AS item, genres, try_cast(right(release_date, 4) AS DOUBLE) AS year "
        "FROM '{data}/ml-100k/items.parquet'",
    ),
    "amazon-hin": (
        "SELECT user_id AS user, item_id AS item, timestamp AS time FROM '{data}/amazon-hin/ratings.parquet'",
        "SELECT item_id AS item, 'brand ' || brand_id AS brand, list_transform(category_ids, lambda x: 'c' || x) AS "
        "categories, list_transform(also_viewed_ids, lambda x: 'v' || x) AS also_viewed "
        "FROM '{data}/amazon-hin/items.parquet'",
    ),
    "citeulike": (
        "SELECT user_id AS user, item_id AS item FROM '{data}/citeulike-a/interactions.parquet' "
        "WHERE hash(user_id::VARCHAR) % 5 = 0",
        "SELECT item_id AS item, tags FROM '{data}/citeulike-a/items.parquet'",
    ),
}
KINDS = {"genres": "multi_categorical", "categories": "multi_categorical", "also_viewed": "multi_categorical"}
KINDS |= {"tags": "multi_categorical", "brand": "categorical", "year": "numeric"}


def prepare(name: str, folder: Path) -> None:
    """Prepare a log with the features of its items."""

    events, items = (duckdb.sql(query.format(data=common.SHARED_DATA)).to_arrow_table() for query in LOGS[name])
    more: dict[str, Any] = {"time": "time", "unit": "s"} if "time" in events.column_names else {}
    kinds = {column: KINDS[column] for column in items.column_names if column != "item"}
    twotower.Dataset.from_frames(
        events, items=items, user="user", item="item", name=name, to=folder, features=kinds, min_user_events=5, **more
    )


def held_out(dataset: Dataset) -> tuple[torch.Tensor, torch.Tensor]:
    """Two masks of items, a tenth of those with events each."""
    counts = dataset.log.items.bincount(minlength=dataset.schema.num_items)
    there = torch.nonzero(counts > 0).flatten()
    there = there[there >= FIRST_KNOWN]
    drawn = there[torch.randperm(len(there), generator=torch.Generator().manual_seed(SEED))]
    tenth = len(there) // 10
    masks = torch.zeros(2, dataset.schema.num_items, dtype=torch.bool)
    masks[0, drawn[:tenth]] = True
    masks[1, drawn[tenth : 2 * tenth]] = True
    return masks[0], masks[1]


def measure(folder: Path, setting: str, seed: int, device: str) -> dict[str, Any]:
    """Train one setting on one log; warm and cold figures."""
    started = time.perf_counter()
    torch.set_num_threads(1)
    dataset = Dataset.load(folder, verify=False)
    cold = [mask.to(device) for mask in held_out(dataset)]
    dataset = dataset.to(torch.device(device))
    log = dataset.log
    kept = log.select(~(cold[0] | cold[1])[log.items])
    split: Split = split_log(kept, "leave-one-out")
    changes = [] if setting == "default" else [f"model.{one}" for one in setting.split("+")]
    run = default_run("two_tower").with_settings([*changes, f"training.seed={seed}"])
    trained, records = learn(spelled_out(run), replace(dataset, log=kept), split)
    trained.eval()

    def judged(truth: Log, history: Log, part: str) -> Any:
        return evaluate(trained, dataset, Targets(history, truth), Protocol(ks=(10,), split=part))

    line: dict[str, Any] = {
        "set": folder.name,
        "setting": setting,
        "seed": seed,
        "epochs": len(records),
        "warm_validation": evaluate(trained, dataset, split.validation, Protocol(ks=(10,), split="validation")).metrics[
            "ndcg@10"
        ],
        "warm_test": evaluate(trained, dataset, split.test, Protocol(ks=(10,), split="test")).metrics["ndcg@10"],
        "chance": 10 / (dataset.schema.num_items - FIRST_KNOWN),
    }
    for name, mask in zip(("cold_validation", "cold_test"), cold, strict=True):
        found = judged(log.select(mask[log.items]), kept, "test")
        line[name] = found.metrics["recall@10"]
        line[f"{name}_users"] = len(found.users)
        line[f"{name}_interval"] = [round(end, 5) for end in found.intervals()["recall@10"]]
    return line | {"seconds": round(time.perf_counter() - started, 1)}


def judge(lines: list[dict[str, Any]]) -> None:
    """Print means over seeds."""
    print(f"{'log':12s} {'setting':44s} seeds  warm ndcg@10  cold recall@10 / chance: validation, test")
    for key in sorted({(line["set"], line["setting"]) for line in lines}):
        found = [line for line in lines if (line["set"], line["setting"]) == key]
        numbers = [name for name, value in found[0].items() if isinstance(value, float)]
        mean = {name: sum(one[name] for one in found) / len(found) for name in numbers}
        chance = found[0]["chance"]
        print(
            f"{key[0]:12s} {key[1]:44s} {len(found):5d}  {mean['warm_validation']:.4f} {mean['warm_test']:.4f}  "
            f"{mean['cold_validation']:.4f} ({mean['cold_validation'] / chance:.1f})  "
            f"{mean['cold_test']:.4f} ({mean['cold_test'] / chance:.1f})"
        )


def main() -> None:
    """Train each setting on each log, a line each."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--sets", type=Path, help="folder of the prepared logs; made where they are not there")
    parser.add_argument("--names", default=",".join(LOGS))
    parser.add_argument("--settings", default="default", help="settings with commas; two of one setting with a plus")
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
    done = {(line["set"], line["setting"], line["seed"]) for line in tune_defaults.read(given.out)}
    for name in given.names.split(","):
        if not (given.sets / name / "manifest.json").is_file():
            prepare(name, given.sets / name)
    waiting: list[tuple[Any, ...]] = [
        (given.sets / name, setting, seed, given.device)
        for seed in range(given.seeds)
        for setting in given.settings.split(",")
        for name in given.names.split(",")
        if (name, setting, seed) not in done
    ]
    tune_defaults.work(waiting, given.out, jobs=given.jobs, seconds=given.seconds, task=measure)


if __name__ == "__main__":
    main()
