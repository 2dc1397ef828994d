"""One GPU: samples a second and memory by catalogue and softmax, a step against a minimal loop, time to a given NDCG.

Parts, in this order, each written to ``--out`` as soon as it is done. **steps**: two-tower, in-batch negatives with log
q, 10,000 items: ours as it comes, one kernel at a time, in bfloat16, cut in main memory, and a hand-written loop, in
turns of one process; median seconds a step. **catalogues**: two-tower of dim 64, batch 1,024, AdamW over the whole
table: sampled softmax with 1,024 uniform negatives, full softmax in tiles, in chunks, plain with all logits at once,
and PyTorch's own chunked form where it has one; a case that does not fit is "out of memory". **target**: SASRec's
recipe on MovieLens-1M: seconds until validation NDCG@10 is 0.175, and the test then. **sequences**: seconds a step of
that recipe, by variant. **compiled**: the steps of the first part through torch.compile. Without a GPU it runs in
small on the CPU, to show that it runs.
"""

from __future__ import annotations

import contextlib
import statistics
import time
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F

import common
import movielens
import scale
from twotower.core.files import write_json
from twotower.core.seeds import torch_generator
from twotower.data.dataset import Dataset
from twotower.data.examples import EventRows, SequenceRows
from twotower.data.splitters import split_log
from twotower.experiment.learn import new_model
from twotower.experiment.recipes import recipe
from twotower.experiment.train import train
from twotower.losses.full_softmax import full_softmax
from twotower.losses.sampled_softmax import SampledSoftmax
from twotower.models.base import Model
from twotower.models.encode import training_length
from twotower.models.two_tower import TwoTower
from twotower.ops.windows import windows
from twotower.sampling.counts import ItemCounts
from twotower.sampling.in_batch import InBatch
from twotower.sampling.known import Positives
from twotower.sampling.uniform import Uniform
from twotower.training.against_all import AgainstAll
from twotower.training.against_samples import AgainstSamples
from twotower.training.batching import random_batches
from twotower.training.callbacks import EpochRecord, Silent, StopTraining
from twotower.training.config import Training
from twotower.training.loop import fit
from twotower.training.objective import Stateless

VARIANTS: dict[str, dict[str, Any]] = {
    "as it comes": {"capture": "auto"},
    "one by one": {},
    "one by one, bfloat16": {"precision": "bfloat16"},
    "captured, bfloat16": {"capture": "on", "precision": "bfloat16"},
    "compiled": {"compile": True},
    "captured, compiled": {"capture": "on", "compile": True},
}
QUICK = list(VARIANTS)[:4]
"""Those that are not compiled, which takes half a minute."""
HOST = {"cut in main memory": 0, "cut in main memory, ahead": 3}
"""Where the log stays in main memory: batches cut ahead."""
WARM = 12
"""Steps before the clock starts: what is compiled or captured is so by then."""
TARGET = 0.175


class Timed(Silent):
    """Seconds of the steps after the first ``warm``; the clock starts and stops when the device is done."""

    def __init__(self, steps: int, device: torch.device, warm: int = WARM) -> None:
        self.steps, self.device, self.warm = steps, device, warm
        self.seconds = 0.0

    def stepped(self, step: int) -> None:
        """Start, or stop."""
        if step == self.warm:
            _wait(self.device)
            self.start = time.perf_counter()
        elif step == self.steps:
            _wait(self.device)
            self.seconds = time.perf_counter() - self.start
            raise StopTraining

    @property
    def step_seconds(self) -> float:
        """Mean seconds of a step."""
        return self.seconds / (self.steps - self.warm)


def _wait(device: torch.device) -> None:
    if device.type == "cuda":
        torch.cuda.synchronize(device)


def two_tower(dataset: Dataset, device: torch.device) -> TwoTower:
    """The model of all steps and catalogues, drawn on the device."""
    torch.manual_seed(1)
    settings = {"dim": scale.DIM, "field_dim": scale.DIM, "hidden": scale.HIDDEN, "history_length": scale.LENGTH}
    with torch.device(device):
        return TwoTower(dataset.schema, **settings)


def positives_of(dataset: Dataset) -> Positives:
    """Known positives, on the device."""
    return Positives(dataset.log.offsets, dataset.log.items, dataset.schema.num_items).to(dataset.device)


def minimal(dataset: Dataset, model: TwoTower, batch: int, timed: Timed) -> None:
    """What a person would write for this one model and loss; it does not mask what else a user has taken."""
    log, optimizer = dataset.log, torch.optim.AdamW(model.parameters(), lr=1e-3, weight_decay=0.0, fused=True)
    users, log_p = log.users(), (log.items.bincount(minlength=dataset.schema.num_items) / log.num_events).log()
    model.train()
    with contextlib.suppress(StopTraining):
        for step, order in enumerate(random_batches(log.num_events, batch, seed=0, epoch=0), start=1):
            rows = order.to(dataset.device)
            history = windows(log.items, log.offsets[users[rows]], rows, scale.LENGTH)
            ids = log.items[rows]
            states = model.user_mlp(F.embedding_bag(history, model.item_table.weight, mode="mean", padding_idx=0))
            vectors = model.item_mlp(model.item_table(ids))
            logits = F.normalize(states, dim=1) @ F.normalize(vectors, dim=1).T * model.logit_scale()
            others = logits - log_p[ids] - torch.tensor(len(rows) - 1.0).log()
            others = others.masked_fill(ids[:, None] == ids, float("-inf"))
            both = torch.cat([logits.diagonal()[:, None], others], dim=1)
            loss = F.cross_entropy(both, torch.zeros(len(rows), dtype=torch.int64, device=dataset.device))
            optimizer.zero_grad(set_to_none=True)
            loss.backward()
            optimizer.step()
            timed.stepped(step)


def ours(dataset: Dataset, model: TwoTower, batch: int, timed: Timed, *, ahead: int = 0, **settings: Any) -> None:
    """The same by our loop."""
    settings = {"capture": "off"} | settings
    config = Training(epochs=1, batch_size=batch, evaluate_every=0, device=str(timed.device), **settings)
    objective = AgainstSamples(
        dataset,
        InBatch(ItemCounts(dataset.log.items.to(dataset.device), dataset.schema.num_items)),
        SampledSoftmax(),
        positives_of(dataset),
    )
    rows = EventRows(dataset, dataset.log, history_length=scale.LENGTH, item_features=True, times=False)
    fit(model, rows, objective, config, callbacks=[timed], ahead=ahead)


def steps(
    device: torch.device, batch: int, number: int, turns: int, variants: list[str], clock: Clock
) -> dict[str, Any]:
    """Seconds a step by variant, in turns."""
    on_host = scale.drawn(10_000, batch, number)
    dataset = on_host.to(device)
    near, models = on_host.near(device), {name: two_tower(dataset, device) for name in ("minimal", *variants, *HOST)}

    def way_of(name: str) -> Callable[[Timed], None]:
        model = models[name]  # one for all turns, so that it is compiled once
        if name == "minimal":
            return lambda timed: minimal(dataset, model, batch, timed)
        if name in HOST:
            return lambda timed: ours(near, model, batch, timed, ahead=HOST[name])
        return lambda timed: ours(dataset, model, batch, timed, **VARIANTS[name])

    torch.compiler.reset()
    ways = {name: way_of(name) for name in models}
    seconds: dict[str, list[float]] = {name: [] for name in ways}
    failed: dict[str, str] = {}
    for _ in range(turns):
        for name, way in ways.items():
            if name in failed or clock.over(8.0):
                continue
            timed = Timed(number, device)
            try:
                way(timed)
            except Exception as error:  # what one variant cannot do must not end the others
                failed[name] = f"{type(error).__name__}: {str(error)[:200]}"
                continue
            seconds[name].append(timed.step_seconds)
    medians = {name: statistics.median(values) for name, values in seconds.items() if values}
    found = {"batch": batch, "steps": number, "seconds_a_step": seconds, "median": medians, "failed": failed}
    if "minimal" in medians:
        found["over_minimal"] = {name: value / medians["minimal"] for name, value in medians.items()}
    return found


class Whole(Stateless):
    """Full softmax by one way: plain logits all at once, chunks of rows, tiles of items, or PyTorch's own chunks."""

    def __init__(self, dataset: Dataset, way: str, batch: int) -> None:
        self.items, self.way, self.batch = dataset.all_items(), way, batch

    def __call__(self, model: Model, batch: Any) -> torch.Tensor:
        """The mean over rows."""
        encoded, table, scale_ = model(batch), model.encode_items(self.items), model.logit_scale()
        if self.way == "torch":
            users, options = encoded.users * scale_, torch.nn.LinearCrossEntropyOptions()
            return F.linear_cross_entropy(users, table[2:], encoded.item_ids - 2, options=options)
        if self.way == "plain":
            return F.cross_entropy((encoded.users * scale_) @ table[2:].T, encoded.item_ids - 2)
        many = max(1, (1 << 26) // (len(table) if self.way == "chunks" else self.batch))
        size = {"chunk": max(32, many)} if self.way == "chunks" else {"tile": many}
        return full_softmax(encoded.users, table, encoded.item_ids, scale_, **size)


def catalogue(device: torch.device, items: int, batch: int, clock: Clock) -> Iterator[dict[str, Any]]:
    """Samples a second and peak memory of each softmax at one size of the catalogue."""
    warm, number = (WARM, WARM + 60) if items <= 100_000 else (4, 12)
    dataset = scale.drawn(items, batch, number).to(device)
    ways = ["sampled", "sampled, bfloat16", "tiles", "tiles, bfloat16", "chunks", "plain"]
    ways += ["torch"] * hasattr(F, "linear_cross_entropy")
    for way in ways:
        if clock.over(15.0):
            return
        case: dict[str, Any] = {"items": items, "softmax": way, "batch": batch}
        if device.type == "cuda":
            torch.cuda.empty_cache()
            torch.cuda.reset_peak_memory_stats(device)
        kind, _, precision = way.partition(", ")
        precision = precision or "float32"
        config = Training(epochs=1, batch_size=batch, evaluate_every=0, device=str(device), precision=precision)
        features = kind == "sampled"
        rows = EventRows(dataset, dataset.log, history_length=scale.LENGTH, item_features=features, times=False)
        timed = Timed(number, device, warm)
        try:
            if kind == "sampled":
                sampler = Uniform(
                    dataset.schema.num_items, min(1024, items), torch_generator(0, "uniform", device=device)
                )
                objective: Any = AgainstSamples(dataset, sampler, SampledSoftmax(), positives_of(dataset))
            else:
                objective = Whole(dataset, kind, batch)
            fit(two_tower(dataset, device), rows, objective, config, callbacks=[timed])
            case |= {"samples_a_second": batch / timed.step_seconds, "step_seconds": timed.step_seconds}
        except torch.OutOfMemoryError:
            case["failed"] = "out of memory"
        except Exception as error:  # one case must not end the others
            case["failed"] = f"{type(error).__name__}: {str(error)[:200]}"
        if device.type == "cuda":
            case["peak_mib"] = torch.cuda.max_memory_allocated(device) / 2**20
        yield case


def sequences(dataset: Dataset, number: int, settings_of_size: list[str], clock: Clock) -> dict[str, Any]:
    """Seconds a step of SASRec's recipe on MovieLens-1M, by variant."""
    run = recipe("sasrec_ml_1m").with_settings(settings_of_size)
    split = split_log(dataset.log, "leave-one-out")
    found: dict[str, Any] = {}
    for name, settings in {
        "float32": {},
        "bfloat16": {"precision": "bfloat16"},
        "compile": {"compile": True},
        "compile + bfloat16": {"compile": True, "precision": "bfloat16"},
    }.items():
        if clock.over(20.0):
            break
        model = new_model(run, dataset)
        rows = SequenceRows(
            dataset,
            split.train,
            history_length=training_length(model),
            item_features=False,
            one_width="compile" in settings,
        )
        per_epoch = -(-len(rows) // run.training.batch_size)
        config = replace(run.training, epochs=-(-number // per_epoch), evaluate_every=0, patience=0, **settings)
        timed = Timed(number, dataset.device)
        with common.Clock() as wall:
            try:
                fit(model, rows, AgainstAll(dataset), config, callbacks=[timed])
            except Exception as error:  # what one variant cannot do must not end the others
                found[name] = {"failed": f"{type(error).__name__}: {str(error)[:200]}"}
                continue
        found[name] = {"step_seconds": timed.step_seconds, "wall_seconds_with_warm_up": wall.wall}
    return found


class Reached(Silent):
    """Ends a training when validation reaches the target, or its time is over."""

    def __init__(self, target: float, seconds: float) -> None:
        self.target, self.start = target, time.perf_counter()
        self.end, self.reached = self.start + seconds, 0.0
        self.curve: list[tuple[int, float, float]] = []

    def epoch_done(self, record: EpochRecord, model: Model) -> None:
        """Look at the validation."""
        now, value = time.perf_counter(), record.metrics.get("ndcg@10", 0.0)
        if value:
            self.curve.append((record.epoch, now - self.start, value))
        if value >= self.target and not self.reached:
            self.reached = now - self.start
        if self.reached or now > self.end:
            raise StopTraining


def target(
    dataset: Dataset, goal: float, seeds: list[int], settings_of_size: list[str], clock: Clock
) -> dict[str, Any]:
    """Wall seconds of the recipe, validations included, until validation NDCG@10 is at the goal, and the test then.

    In float32 with every seed, as not each one reaches the goal; the variants with the first.
    """
    found: dict[str, Any] = {"goal": goal, "seeds": seeds}
    ways = {"float32" + f", seed {seed}" * (seed != seeds[0]): (seed, list[str]()) for seed in seeds}
    ways["bfloat16"] = seeds[0], ["training.precision=bfloat16"]
    ways["compile + bfloat16"] = seeds[0], ["training.precision=bfloat16", "training.compile=true"]
    for name, (seed, settings) in ways.items():
        if clock.over(25.0):
            break
        words = [f"training.device={dataset.device.type}", f"training.seed={seed}", *settings_of_size, *settings]
        run = recipe("sasrec_ml_1m").with_settings(words)
        watch = Reached(goal, clock.left() - 12.0)
        trained = train(run, dataset=dataset, callbacks=[watch])
        found[name] = {
            "reached": bool(watch.reached),
            "seconds": watch.reached or watch.curve[-1][1],
            "epochs": len(trained.records),
            "training_seconds": trained.records[-1].seconds,
            "validation_ndcg@10": max(value for _, _, value in watch.curve),
            "test_ndcg@10": trained.test.metrics["ndcg@10"],
            "curve": watch.curve,
        }
    return found


class Clock:
    """How much of the time is left."""

    def __init__(self, limit: float) -> None:
        self.end = time.perf_counter() + limit

    def left(self) -> float:
        """Seconds."""
        return self.end - time.perf_counter()

    def over(self, needed: float) -> bool:
        """Whether less than that is left."""
        return self.left() < needed


def main() -> None:
    """Measure and report."""
    made = common.parser(__doc__)
    made.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu")
    made.add_argument("--data", type=Path, help="prepared MovieLens-1M; default: from the shared copy, or made up")
    made.add_argument("--limit", type=float, default=290.0, help="seconds after which no further case begins")
    made.add_argument("--parts", nargs="+", default=["steps", "catalogues", "sequences", "target"])
    made.add_argument("--seeds", type=int, nargs="+", default=[1, 2], help="of the trainings towards a given NDCG")
    options = common.parse(made)
    clock, device = Clock(options.limit), torch.device(options.device)
    small = options.quick or device.type == "cpu"
    figures: dict[str, Any] = {}

    def keep(name: str, value: Any) -> None:
        figures[name] = value
        if options.out is not None:
            write_json(options.out, figures | {"finished": False})

    if "steps" in options.parts:
        quick, full = [(256, 16, 1, QUICK)], [(512, 212, 5, QUICK), (4096, 132, 3, QUICK)]
        keep("steps", [])
        for batch, number, turns, variants in quick if small else full:
            keep("steps", [*figures["steps"], steps(device, batch, number, turns, variants, clock)])
    if "catalogues" in options.parts:
        keep("catalogues", [])
        for items in (1_000, 5_000) if small else (10_000, 1_000_000, 10_000_000, 100_000):
            for case in catalogue(device, items, 64 if small else 1024, clock):
                keep("catalogues", [*figures["catalogues"], case])
    if {"sequences", "target", "compiled"} & set(options.parts):
        dataset, real = (movielens.random_log("ml-100k"), False) if small else movielens.load("ml-1m", options.data)
        dataset = dataset.to(device)
        size = ["model.history_length=20", "training.epochs=1"] if small else []
        keep("real_data", real)
        if "target" in options.parts:
            keep("target", target(dataset, 0.001 if small else TARGET, options.seeds, size, clock))
        if "compiled" in options.parts:
            ways = ["as it comes", "compiled", "captured, compiled"]
            keep("compiled", steps(device, *((256, 16, 1) if small else (512, 212, 3)), ways, clock))
        if "sequences" in options.parts:
            keep("sequences", sequences(dataset, WARM + (2 if small else 120), size, clock))
    settings = {"dim": scale.DIM, "hidden": scale.HIDDEN, "history": scale.LENGTH, "warm": WARM, "limit": options.limit}
    common.finish("scale_gpu", options, settings=settings, figures=figures)


if __name__ == "__main__":
    main()
