"""Where the time of a training step goes: cutting the batch, forward, backward, update; host or device; evaluation.

For a small two-tower model (in-batch negatives) and for SASRec's recipe on MovieLens-1M. ``phases_seconds``: each phase
of a step by itself, the device waited for after each. ``step_seconds``: steps one after the other without waiting.
``device_busy_share``: kernels' time over the wall time of those steps; well below 1 the device waits for the host, and
larger batches, training.capture or training.compile help; near 1 only less work does (training.precision).
``evaluation_steps``: steps that one evaluation takes the time of. ``table``: operations by their own time, of one step.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from torch.profiler import ProfilerActivity, profile

import common
import movielens
import scale_gpu
from twotower.data.dataset import Dataset
from twotower.data.examples import EventRows, Rows, SequenceRows
from twotower.data.splitters import split_log
from twotower.evaluation.run import evaluate
from twotower.experiment.learn import new_model
from twotower.experiment.recipes import recipe
from twotower.losses.sampled_softmax import SampledSoftmax
from twotower.models.base import Model
from twotower.models.encode import training_length
from twotower.sampling.counts import ItemCounts
from twotower.sampling.in_batch import InBatch
from twotower.sampling.known import Positives
from twotower.training.against_all import AgainstAll
from twotower.training.against_samples import AgainstSamples
from twotower.training.batching import random_batches
from twotower.training.config import Training
from twotower.training.objective import Objective
from twotower.training.optimize import build_optimizer
from twotower.training.step import Step

ROWS_OF_TABLE = 15


def two_tower(dataset: Dataset, precision: str) -> tuple[Model, Rows, Objective, Training]:
    """The model, rows, objective and settings of a small step."""
    log = split_log(dataset.log, "leave-one-out").train
    model = scale_gpu.two_tower(dataset, dataset.device)
    rows = EventRows(dataset, log, history_length=training_length(model), item_features=True, times=False)
    objective = AgainstSamples(
        dataset,
        InBatch(ItemCounts(log.items, dataset.schema.num_items)),
        SampledSoftmax(),
        Positives(log.offsets, log.items, dataset.schema.num_items),
    )
    return model, rows, objective, Training(batch_size=512, precision=precision)


def sasrec(dataset: Dataset, precision: str) -> tuple[Model, Rows, Objective, Training]:
    """Those of SASRec's recipe."""
    run = recipe("sasrec_ml_1m")
    model = new_model(run, dataset)
    log = split_log(dataset.log, "leave-one-out").train
    rows = SequenceRows(dataset, log, history_length=training_length(model), item_features=False)
    return model, rows, AgainstAll(dataset), replace(run.training, precision=precision)


def timed(work: Callable[[], Any], device: torch.device) -> tuple[float, Any]:
    """Wall seconds of work until the device is done, and its result."""
    wait(device)
    start = time.perf_counter()
    result = work()
    wait(device)
    return time.perf_counter() - start, result


def wait(device: torch.device) -> None:
    """Wait for the device."""
    if device.type == "cuda":
        torch.cuda.synchronize(device)


def phases(step: Step, batches: list[torch.Tensor], device: torch.device) -> dict[str, float]:
    """Mean seconds of each phase of a step, the device waited for after each."""
    total = dict.fromkeys(("cut", "forward", "backward", "update"), 0.0)
    for rows in batches:
        seconds, batch = timed(lambda rows=rows: step.rows.cut(rows), device)
        total["cut"] += seconds
        seconds, loss = timed(lambda batch=batch: step.loss(batch), device)
        total["forward"] += seconds
        step.optimizer.zero_grad(set_to_none=True)
        total["backward"] += timed(loss.backward, device)[0]
        total["update"] += timed(step.update, device)[0]
    return {name: seconds / len(batches) for name, seconds in total.items()}


def table_of(seen: profile, steps: int) -> tuple[list[dict[str, Any]], float]:
    """Operations by their own time, a step, and the seconds of all kernels, a step."""
    lines = [
        {
            "name": one.key,
            "calls": one.count / steps,
            "host_us": one.self_cpu_time_total / steps,
            "device_us": one.self_device_time_total / steps,
        }
        for one in seen.key_averages()
    ]
    kernels = sum(
        one.self_device_time_total for one in seen.key_averages() if one.device_type != torch.autograd.DeviceType.CPU
    )
    lines.sort(key=lambda line: -(line["device_us"] if kernels else line["host_us"]))
    return lines[:ROWS_OF_TABLE], kernels / steps / 1e6


def measure(made: tuple[Model, Rows, Objective, Training], dataset: Dataset, steps: int) -> dict[str, Any]:
    """All figures of one model."""
    model, rows, objective, config = made
    device = dataset.device
    step = Step(model, rows, objective, build_optimizer(model, config), config)
    order = iter(random_batches(len(rows), config.batch_size, seed=0, epoch=0, pinned=device.type == "cuda"))
    batches = [next(order) for _ in range(min(steps, len(rows) // config.batch_size))]
    model.train()
    for batch in batches[:5]:
        step(batch)

    def go() -> None:
        for batch in batches:
            step(batch)

    by_phase = phases(step, batches, device)
    seconds = timed(go, device)[0] / len(batches)
    activities = [ProfilerActivity.CPU, *([ProfilerActivity.CUDA] if device.type == "cuda" else [])]
    with profile(activities=activities) as seen:
        timed(go, device)
    table, kernels = table_of(seen, len(batches))
    split = split_log(dataset.log, "leave-one-out")
    evaluate(model, dataset, split.validation)
    evaluation = timed(lambda: evaluate(model, dataset, split.validation), device)[0]
    found: dict[str, Any] = {
        "batch": config.batch_size,
        "step_seconds": seconds,
        "phases_seconds": by_phase,
        "evaluation_seconds": evaluation,
        "evaluation_steps": evaluation / seconds,
        "steps_an_epoch": -(-len(rows) // config.batch_size),
        "table": table,
    }
    if device.type == "cuda":
        found["device_busy_share"] = kernels / seconds
    return found


def main() -> None:
    """Measure and report."""
    made = common.parser(__doc__)
    made.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu")
    made.add_argument("--data", type=Path, help="prepared MovieLens-1M; default: from the shared copy, or made up")
    made.add_argument("--precision", default="float32", choices=("float32", "bfloat16"))
    made.add_argument("--models", nargs="+", default=["two_tower", "sasrec"], choices=("two_tower", "sasrec"))
    options = common.parse(made)
    dataset, real = movielens.load("ml-1m", options.data)
    dataset = dataset.to(options.device)
    kinds = {"two_tower": two_tower, "sasrec": sasrec}
    steps = (3 if options.device == "cpu" else 20) if options.quick else 60
    figures: dict[str, Any] = {
        name: measure(kinds[name](dataset, options.precision), dataset, steps) for name in options.models
    }
    settings = {"precision": options.precision, "device": options.device, "steps": steps, "real_data": real}
    common.finish("profile_training", options, settings=settings, figures=figures)


if __name__ == "__main__":
    main()
