"""Seconds of an epoch with mixed negatives, a memory bank, NGAME and both, relative to in-batch; memory of the bank.

All variants train the report's two towers (users' id and features, 512-128; no history) with the same number of
negatives, as many as a batch has rows: in-batch takes all from the batch; mixed and the bank take 7/16 from it, as in
section 4.2 of the report (896 and 1,152 of 2,048). NGAME takes all from clustered batches under the radius rule.

Variants alternate, step by step, in one process. An epoch is its cutting into batches and as many steps as it has; of
both the median counts, in CPU seconds (``--device cuda``: in wall seconds). Clustering is timed in every second epoch
and its cost is spread over ``--refresh`` epochs.
"""

from __future__ import annotations

import statistics
import time
from pathlib import Path
from typing import Any

import torch

import common
from twotower.core.records import Encoded
from twotower.core.schema import Feature, Schema
from twotower.data.dataset import Dataset
from twotower.data.examples import EventRows
from twotower.data.log import Log
from twotower.experiment.build import build_batching, build_objective
from twotower.experiment.learn import new_model
from twotower.experiment.run import ModelSection, Run
from twotower.models.two_tower import TwoTower
from twotower.sampling.counts import ItemCounts
from twotower.sampling.memory_bank import MemoryBank
from twotower.training.clustered import ClusterSchedule
from twotower.training.config import Objective, Sampling, Training
from twotower.training.optimize import build_optimizer
from twotower.training.sources import NegativeSource

DIM = 128
CLUSTER = 32
VARIANTS = ("in_batch", "mixed", "memory_bank", "ngame", "cross_batch_ngame")


def made_up(users: int, items: int, mean: int) -> Dataset:
    """A random log with skewed lengths and popularity, and features of the kinds that MovieLens has."""
    generator = torch.Generator().manual_seed(0)
    lengths = (torch.rand(users, generator=generator).log().neg() * mean).long().clamp(2, items // 2)
    weights = 1.0 / torch.arange(1, items + 1)
    drawn = torch.cat([torch.multinomial(weights, int(length), generator=generator) for length in lengths]) + 2
    sizes = {"age": 8, "gender": 4, "occupation": 23, "zip": 800}
    schema = Schema(
        users + 2,
        items + 2,
        tuple(Feature(name, "categorical", size) for name, size in sizes.items()),
        (Feature("genres", "multi_categorical", 21, width=4),),
        has_times=False,
    )
    features = {name: torch.randint(2, size, (users + 2,), generator=generator) for name, size in sizes.items()}
    genres = torch.randint(2, 21, (items + 2, 4), generator=generator)
    log = Log(torch.cat([torch.zeros(3, dtype=torch.int64), lengths.cumsum(0)]), drawn)
    return Dataset(schema, log, features, {"genres": genres}, {"name": f"made-up-{users}"})


def run_of(variant: str, batch: int) -> Run:
    """The run of a variant."""
    rows = batch * 7 // 16
    both = {"number": batch - rows, "rows": rows}
    bank = (NegativeSource("in_batch", {"rows": rows}), NegativeSource("memory_bank", both))
    sources = {"mixed": (NegativeSource("mixed", both),), "memory_bank": bank, "cross_batch_ngame": bank}
    has_clusters = "ngame" in variant
    return Run(
        model=ModelSection(
            "two_tower", {"dim": DIM, "field_dim": 32, "hidden": (512,), "history_length": 0, "user_id": True}
        ),
        objective=Objective("sampled_softmax"),
        sampling=Sampling(
            sources.get(variant, (NegativeSource("in_batch"),)),
            batches="clustered" if has_clusters else "random",
            hard="batch_radius" if has_clusters else "none",
        ),
        clusters=ClusterSchedule(start_size=CLUSTER, refresh_every=2, min_clusters=2),
        training=Training(batch_size=batch, optimizer="adagrad", learning_rate=0.01),
    )


class Trainer:
    """One variant, an epoch at a time."""

    def __init__(self, variant: str, dataset: Dataset, batch: int) -> None:
        run = run_of(variant, batch)
        self.model = new_model(run, dataset)
        assert isinstance(self.model, TwoTower)
        self.rows = EventRows(dataset, dataset.log, history_length=0, item_features=True)
        self.objective = build_objective(run, dataset, dataset.log, self.model)
        self.batching = build_batching(run, dataset, dataset.log, self.rows, self.model)
        self.optimizer = build_optimizer(self.model, run.training)
        self.clusters = run.sampling.batches == "clustered"
        self.batch, self.wall = batch, dataset.device.type == "cuda"
        self.batches: list[torch.Tensor] = []
        self.cutting: list[float] = []
        self.steps: list[float] = []

    def cut(self) -> None:
        """Begin an epoch."""
        with common.Clock() as clock:
            self.batches = list(self.batching.batches(len(self.cutting), self.model))
        self.cutting.append(clock.wall if self.wall else clock.cpu)
        self.model.train()

    def step(self, number: int) -> None:
        """Train on one batch of the epoch; a short one does not count."""
        with common.Clock() as clock:
            rows = self.batches[number]
            loss = self.objective(self.model, self.rows.cut(rows))
            self.optimizer.zero_grad(set_to_none=True)
            loss.backward()
            self.optimizer.step()
        if len(rows) == self.batch and len(self.cutting) > 2:
            self.steps.append(clock.wall if self.wall else clock.cpu)

    def seconds(self, refresh: int) -> dict[str, float]:
        """A median epoch, its parts, and the cost of one clustering; the first two epochs warmed up."""
        counted = self.cutting[2:]
        plain, clustered = statistics.median(counted[1::2]), statistics.median(counted[::2])
        clustering = max(0.0, clustered - plain) if self.clusters else 0.0
        step = statistics.median(self.steps)
        epoch = step * len(self.rows) / self.batch + plain + clustering / refresh
        return {"epoch": epoch, "step": step, "batching": plain, "clustering": clustering}


def bank_memory(batch: int) -> list[dict[str, int]]:
    """Bytes that banks of several capacities hold, and those of their states alone."""
    rows = []
    counts = ItemCounts(torch.arange(2, 1000), 1000)
    for capacity in (batch, 4 * batch, 16 * batch, 64 * batch):
        bank = MemoryBank(capacity, batch, counts)
        ids = torch.randint(2, 1000, (batch,))
        bank.observe(Encoded(torch.zeros(batch, DIM), torch.zeros(batch, DIM), ids, {}))
        held = sum(part.numel() * part.element_size() for part in bank.state_dict().values())
        rows.append({"capacity": capacity, "bytes": held, "state_bytes": capacity * DIM * 4})
    return rows


def clustering_cost(users: int, device: str, repeats: int = 3) -> float:
    """Seconds of clustering this many users, encoding included, the quickest of some."""
    dataset = made_up(users, 1_000, 3).to(device)
    trainer = Trainer("ngame", dataset, 512)
    found = []
    for _ in range(repeats):
        trainer.batching.inner.load_state_dict({"place": torch.tensor([1, -1])})  # type: ignore[attr-defined]
        with common.Clock() as clock:
            list(trainer.batching.batches(0, trainer.model))
        found.append(clock.wall if device == "cuda" else clock.cpu)
    return min(found)


def main() -> None:
    """Measure and report."""
    made = common.parser(__doc__)
    made.add_argument("--device", default="cpu", choices=("cpu", "cuda"))
    made.add_argument("--data", type=Path, help="a prepared data set; default: one made up, of MovieLens's kind")
    made.add_argument("--batch", type=int, default=2048, help="rows of a batch")
    made.add_argument("--rounds", type=int, help="epochs of each variant; default 6, quick 8")
    made.add_argument("--refresh", type=int, default=10, help="epochs that share the cost of a clustering")
    options = common.parse(made)
    if options.data:
        dataset = Dataset.load(options.data)
        dataset = dataset.with_log(dataset.log.positives())
    else:
        small = options.quick and options.device == "cpu"
        dataset = made_up(300, 1_682, 17) if small else made_up(943, 1_682, 45)
    dataset = dataset.to(options.device)
    batch, rounds = options.batch, options.rounds or (8 if options.quick else 6)

    started = time.perf_counter()
    trainers = {variant: Trainer(variant, dataset, batch) for variant in VARIANTS}
    for _ in range(rounds):
        for trainer in trainers.values():
            trainer.cut()
        for number in range(len(trainers["in_batch"].batches)):
            for trainer in trainers.values():
                trainer.step(number)
    seconds = {variant: trainer.seconds(options.refresh) for variant, trainer in trainers.items()}
    base = seconds["in_batch"]["epoch"]
    figures: dict[str, Any] = {
        "relative_epoch_time": {name: part["epoch"] / base for name, part in seconds.items() if name != "in_batch"},
        "seconds": seconds,
        "bank_memory": bank_memory(batch),
        "step_seconds": {name: trainer.steps for name, trainer in trainers.items()},
    }
    if not options.quick:
        sizes = (1_000, 10_000, 100_000) if options.device == "cpu" else (1_000, 10_000, 100_000, 1_000_000)
        figures["clustering_seconds_by_users"] = {users: clustering_cost(users, options.device) for users in sizes}
    figures["total_wall_seconds"] = time.perf_counter() - started
    common.finish(
        "negatives" if options.device == "cpu" else "negatives_gpu",
        options,
        settings={
            "data": dataset.name,
            "users": dataset.schema.num_users - 2,
            "items": dataset.schema.num_items - 2,
            "events": dataset.log.num_events,
            "batch": batch,
            "negatives": batch,
            "rounds": rounds,
            "refresh": options.refresh,
            "cluster": CLUSTER,
            "device": options.device,
        },
        figures=figures,
    )


if __name__ == "__main__":
    main()
