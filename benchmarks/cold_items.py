"""Measure how well `two_tower` finds items without any training event, by their features, on three real logs.

A fifth of the items is held out with all its events: one half chooses settings, the other is reported ("cold"
validation and test). The rest of the log is split by leave-one-out, which chooses the epoch and gives the "warm"
figures. All rankings are over the whole catalogue, what a user has seen left out; chance is 10 / catalogue. After the
training the new items take the ids of so many nearest trained items by features, weighed by events to some power; 0: of
the unknown item, as before.

    python benchmarks/cold_items.py --sets COLD --out lines.jsonl --settings default,id_dropout=0.3 --jobs 2
    python benchmarks/cold_items.py --judge benchmarks/results/cold_items.jsonl
"""

from __future__ import annotations

import argparse
import math
import time
from dataclasses import replace
from pathlib import Path
from typing import Any

import duckdb
import torch

import common
import tune_defaults
import twotower
from ladder import interval
from twotower.core.records import FIRST_KNOWN
from twotower.data.dataset import Dataset
from twotower.data.split import Split, Targets
from twotower.data.splitters import split_log
from twotower.evaluation.protocol import Protocol
from twotower.evaluation.run import evaluate
from twotower.experiment.build import item_events
from twotower.experiment.defaults import spelled_out
from twotower.experiment.learn import learn, settle
from twotower.experiment.recipes import default_run
from twotower.towers import embedding
from twotower.towers.embedding import NEAREST, POWER

SEED = 5
AIM = 5.0
"""Recall@10 of new items, in times of chance."""
WARM, COLD = 0, 2
"""Places of validation among the figures of a way."""
Way = tuple[str, int, float]
WAYS = [(0, 0.0), *((nearest, power) for nearest in (3, 5, 10, 20, 50) for power in (0.0, 0.25, 0.5, 1.0))]
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


def measure(folder: Path, setting: str, seed: int, epochs: int, device: str) -> dict[str, Any]:
    """Train one setting on one log; warm and cold figures of every way to settle the new items."""
    started = time.perf_counter()
    torch.set_num_threads(1)
    dataset = Dataset.load(folder, verify=False)
    cold = [mask.to(device) for mask in held_out(dataset)]
    dataset = dataset.to(torch.device(device))
    log = dataset.log
    kept = log.select(~(cold[0] | cold[1])[log.items])
    split: Split = split_log(kept, "leave-one-out")
    changes = [] if setting == "default" else [f"model.{one}" for one in setting.split("+")]
    run = default_run("two_tower").with_settings([*changes, f"training.seed={seed}", f"training.epochs={epochs}"])
    model, _ = learn(spelled_out(run), replace(dataset, log=kept), split)
    model.eval()
    events = item_events(dataset, split.train)
    chance = 10 / (dataset.schema.num_items - FIRST_KNOWN)

    def figure(targets: Targets, part: str, metric: str) -> float:
        return float(evaluate(model, dataset, targets, Protocol(ks=(10,), split=part)).metrics[metric])

    ways = []
    for nearest, power in WAYS:
        if nearest:
            embedding.NEAREST, embedding.POWER = nearest, power
            settle(model, dataset, events)
        else:
            new = events == 0
            new[:FIRST_KNOWN] = False
            with torch.no_grad():
                model.item_table.weight[new] = model.item_table.weight[1].clone()
        found = [figure(Targets(kept, log.select(mask[log.items])), "test", "recall@10") / chance for mask in cold]
        warm = [figure(getattr(split, part), part, "ndcg@10") for part in ("validation", "test")]
        ways.append([nearest, power, *(round(one, 5) for one in (*warm, *found))])
    line: dict[str, Any] = {"set": folder.name, "setting": setting, "seed": seed, "epochs": epochs, "ways": ways}
    return line | {"seconds": round(time.perf_counter() - started, 1)}


def means(lines: list[dict[str, Any]]) -> dict[Way, dict[str, list[tuple[float, float]]]]:
    """By way and log: mean over seeds and half of the 95 % interval, of warm and cold figures as `measure` has them."""
    found: dict[Way, dict[str, list[list[float]]]] = {}
    for line in lines:
        for nearest, power, *figures in line["ways"]:
            way = (line["setting"], int(nearest), float(power))
            found.setdefault(way, {}).setdefault(line["set"], []).append(figures)
    return {
        way: {log: [spread(list(one)) for one in zip(*seeds, strict=True)] for log, seeds in by_log.items()}
        for way, by_log in found.items()
    }


def spread(values: list[float]) -> tuple[float, float]:
    """Mean, and half of the 95 % interval where there are seeds enough for one, else 0."""
    mean, bounds = interval(values)
    return mean, mean - bounds[0] if bounds else 0.0


def chosen(table: dict[Way, dict[str, list[tuple[float, float]]]]) -> Way | None:
    """The way with the highest geometric mean of warm validation among those that are surely good enough for new items.

    That is: on every log the lower end of the interval of cold validation is at least `AIM`. The test has no say.
    """
    enough = [
        way
        for way, by_log in table.items()
        if all(figures[COLD][0] - figures[COLD][1] >= AIM for figures in by_log.values())
    ]
    return max(enough, key=lambda way: math.prod(one[WARM][0] for one in table[way].values()), default=None)


def judge(lines: list[dict[str, Any]]) -> None:
    """Print the way that validation chooses beside those it is compared with, means over seeds and 95 % intervals."""
    table = means(lines)
    best = chosen(table)
    settings = sorted({way[0] for way in table})
    rows = dict.fromkeys([*((one, 0, 0.0) for one in settings), *((one, NEAREST, POWER) for one in settings)])
    print("warm NDCG@10 validation, test; cold recall@10 over chance validation, test")
    for way in [*rows, *([best] if best and best not in rows else [])]:
        setting, nearest, power = way
        print(f"\n{setting}, {nearest} nearest, power {power:g}" + (" (chosen by validation)" if way == best else ""))
        for log, figures in sorted(table[way].items()):
            warm = "   ".join(f"{mean:.4f} ± {half:.4f}" for mean, half in figures[:2])
            print(f"  {log:12}{warm}   " + "   ".join(f"{mean:6.1f} ± {half:4.1f}" for mean, half in figures[2:]))


def main() -> None:
    """Train each setting on each log, a line each."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--sets", type=Path, help="folder of the prepared logs; made where they are not there")
    parser.add_argument("--names", default=",".join(LOGS))
    parser.add_argument("--settings", default="default", help="settings with commas; two of one setting with a plus")
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--out", type=Path)
    parser.add_argument("--epochs", type=int, default=8)
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
        (given.sets / name, setting, seed, given.epochs, given.device)
        for seed in range(given.seeds)
        for setting in given.settings.split(",")
        for name in given.names.split(",")
        if (name, setting, seed) not in done
    ]
    tune_defaults.work(waiting, given.out, jobs=given.jobs, seconds=given.seconds, task=measure)


if __name__ == "__main__":
    main()
