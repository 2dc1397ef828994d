"""Scale: the curve of two processes against one, memory by catalogue, a step against a minimal loop of the same model.

loss_curve_gap: largest relative gap, over epochs, between the losses of two processes (torchrun, gloo) and of one at
equal global batch. memory_growth: peak memory of training at 10⁶ items over that at 10⁴, same batch, sampled softmax,
each in a process of its own; table_rows_per_item is what an item adds, in rows of its embedding (4 bytes a number: the
weights, their gradient and the two moments of AdamW make 4). step_over_minimal: CPU seconds of our steps over those of
a hand-written loop, in turns in one process, in-batch negatives with log q. With --rows also what scale_parts.py
measures: rows a second of preparing and users a second of scoring, by 1 and 2 processes.
"""

from __future__ import annotations

import json
import statistics
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F

import common
from twotower.core.records import FIRST_KNOWN
from twotower.core.schema import Schema
from twotower.core.seeds import torch_generator
from twotower.data.dataset import Dataset
from twotower.data.examples import EventRows
from twotower.data.log import Log
from twotower.losses.sampled_softmax import SampledSoftmax
from twotower.models.two_tower import TwoTower
from twotower.ops.windows import windows
from twotower.sampling.counts import ItemCounts
from twotower.sampling.in_batch import InBatch
from twotower.sampling.known import Positives
from twotower.sampling.uniform import Uniform
from twotower.training.against_samples import AgainstSamples
from twotower.training.batching import random_batches
from twotower.training.config import Training
from twotower.training.loop import fit

DIM, HIDDEN, LENGTH = 64, (128,), 20
TOWER = ["--model", "two_tower", "--set", "model.history_dropout=0.0", "--set"]
RUNS = {
    "two_tower, in-batch": [*TOWER, "objective.loss=sampled_softmax"],
    "two_tower, full softmax": [*TOWER, "objective.loss=full_softmax"],
    "sasrec, full softmax": ["--model", "sasrec", "--set", "model.dropout=0.0"],
}
"""Without dropout, which each rank draws for its own rows."""


def drawn(items: int, users: int, events: int) -> Dataset:
    """A log without features: popular items first, by a power law, and as many events for each user."""
    generator = torch.Generator().manual_seed(0)
    place = torch.rand(users * events, generator=generator, dtype=torch.float64).pow_(3.0)
    ids = FIRST_KNOWN + (place * items).long().clamp_(max=items - 1)
    offsets = torch.cat([torch.zeros(2, dtype=torch.int64), torch.arange(users + 1) * events])
    log = Log(offsets, ids, times=1_600_000_000 + torch.arange(len(ids)))
    return Dataset(Schema(users + FIRST_KNOWN, items + FIRST_KNOWN, (), ()), log, {}, {}, {"name": "drawn"})


def parts(dataset: Dataset, batch: int, sampler: Any) -> tuple[TwoTower, EventRows, AgainstSamples, Training]:
    """A model, its rows, its objective and one epoch of training."""
    torch.manual_seed(1)
    model = TwoTower(dataset.schema, dim=DIM, field_dim=DIM, hidden=HIDDEN, history_length=LENGTH)
    rows = EventRows(dataset, dataset.log, history_length=LENGTH, item_features=True, times=False)
    positives = Positives(dataset.log.offsets, dataset.log.items, dataset.schema.num_items)
    objective = AgainstSamples(dataset, sampler, SampledSoftmax(), positives)
    return model, rows, objective, Training(epochs=1, batch_size=batch, evaluate_every=0, device="cpu")


def curves(folder: Path, quick: bool) -> dict[str, Any]:
    """Losses by run, epoch by epoch, of one process and of two."""
    from twotower.data import sources
    from twotower.data.prepare.prepare import prepare
    from twotower.data.prepare.spec import Spec
    from twotower.data.sources.synthetic import Synthetic

    settings = Synthetic(users=300 if quick else 1000, items=200 if quick else 500, cold_items=0)
    data = prepare(Spec.from_toml(sources.get("synthetic", folder / "raw", settings=settings)), folder / "data")
    launch = ["-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2"]
    found: dict[str, Any] = {}
    for name, words in list(RUNS.items())[: 1 if quick else None]:
        losses = []
        for many in (1, 2):
            to = folder / f"{name}.{many}"
            command = [sys.executable, *(launch if many > 1 else []), "-m", "twotower", "train", *words]
            command += ["--data", str(data), "--to", str(to), "--json"]
            for setting in ("epochs=3", "patience=0", "batch_size=64", "device=cpu"):
                command += ["--set", f"training.{setting}"]
            done = subprocess.run(command, capture_output=True, text=True, check=False)
            if done.returncode:
                sys.exit(f"{name} on {many} process(es) ended with {done.returncode}:\n{done.stderr}")
            log = to.with_name(to.name + ".run") / "train.jsonl"
            losses.append([json.loads(line)["loss"] for line in log.read_text(encoding="utf-8").splitlines()])
        gap = max(abs(one - other) / one for one, other in zip(*losses, strict=True))
        found[name] = {"one": losses[0], "two": losses[1], "gap": gap}
    return found


def peak(items: int, batch: int, steps: int) -> float:
    """MiB at most of a training in a process of its own."""
    words = [sys.executable, __file__, "--peak", str(items), str(batch), str(steps)]
    return float(subprocess.run(words, capture_output=True, text=True, check=True).stdout)


def peak_here(items: int, batch: int, steps: int) -> float:
    """The same in this process."""
    dataset = drawn(items, batch, steps)
    model, rows, objective, config = parts(dataset, batch, Uniform(items, 1024, torch_generator(0, "uniform")))
    fit(model, rows, objective, config)
    return common.peak_mib()


def minimal(dataset: Dataset, model: TwoTower, batch: int) -> None:
    """What a person would write who needs this one model and loss; it does not mask what else a user has taken."""
    log, optimizer = dataset.log, torch.optim.AdamW(model.parameters(), lr=1e-3, weight_decay=0.0, fused=True)
    users, log_p = log.users(), (log.items.bincount(minlength=dataset.schema.num_items) / log.num_events).log()
    model.train()
    for rows in random_batches(log.num_events, batch, seed=0, epoch=0):
        history = windows(log.items, log.offsets[users[rows]], rows, LENGTH)
        ids = log.items[rows]
        states = model.user_mlp(F.embedding_bag(history, model.item_table.weight, mode="mean", padding_idx=0))
        vectors = model.item_mlp(model.item_table(ids))
        logits = F.normalize(states, dim=1) @ F.normalize(vectors, dim=1).T * model.logit_scale()
        others = logits - log_p[ids] - torch.tensor(len(rows) - 1.0).log()
        others = others.masked_fill(ids[:, None] == ids, float("-inf"))
        both = torch.cat([logits.diagonal()[:, None], others], dim=1)
        loss = F.cross_entropy(both, torch.zeros(len(rows), dtype=torch.int64))
        optimizer.zero_grad(set_to_none=True)
        loss.backward()
        optimizer.step()


def steps(items: int, batch: int, number: int, turns: int) -> dict[str, list[float]]:
    """CPU seconds a step, turn by turn."""
    dataset = drawn(items, batch, number)
    seconds: dict[str, list[float]] = {"ours": [], "minimal": []}
    for turn in range(turns + 1):
        counts = ItemCounts(dataset.log.items, dataset.schema.num_items)
        model, rows, objective, config = parts(dataset, batch, InBatch(counts))
        with common.Clock() as ours:
            fit(model, rows, objective, config)
        model = parts(dataset, batch, InBatch(counts))[0]
        with common.Clock() as theirs:
            minimal(dataset, model, batch)
        if turn:  # the first one warms up
            seconds["ours"].append(ours.cpu / number)
            seconds["minimal"].append(theirs.cpu / number)
    return seconds


def main() -> None:
    """Measure and report."""
    if sys.argv[1:2] == ["--peak"]:
        print(peak_here(*map(int, sys.argv[2:5])))
        return
    parser = common.parser(__doc__)
    parser.add_argument("--rows", type=int, nargs="+", default=[], help="prepare and score logs of so many rows too")
    options = common.parse(parser)
    sizes = (10_000, 1_000_000) if options.quick else (10_000, 100_000, 1_000_000)
    batch, number, turns = 512, 16 if options.quick else 40, 9 if options.quick else 15
    with tempfile.TemporaryDirectory() as folder:
        losses = curves(Path(folder), options.quick)
    memory = {items: peak(items, batch, 6) for items in sizes}
    seconds = steps(10_000, batch, number, turns)
    work: list[dict[str, Any]] = []
    if options.rows:
        import scale_parts  # only here: a GPU's machine has scale_gpu.py and this file

        work = [one for rows in options.rows for one in scale_parts.measure(rows)]
    ratios = [one / other for one, other in zip(seconds["ours"], seconds["minimal"], strict=True)]
    added = (memory[sizes[-1]] - memory[sizes[0]]) * 2**20 / (sizes[-1] - sizes[0])
    common.finish(
        "scale",
        options,
        settings={
            "curves": {"runs": list(losses), "epochs": 3, "batch": 64, "backend": "gloo, torchrun"},
            "memory": {"items": sizes, "dim": DIM, "batch": batch, "drawn negatives": 1024, "steps": 6},
            "steps": {"items": 10_000, "batch": batch, "steps": number, "turns": turns, "history": LENGTH},
        },
        figures={
            "loss_curve_gap": max(one["gap"] for one in losses.values()),
            "memory_growth": memory[sizes[-1]] / memory[sizes[0]],
            "table_rows_per_item": added / (4 * DIM),
            "step_over_minimal": statistics.median(ratios),
            "losses": losses,
            "peak_mib": {str(items): value for items, value in memory.items()},
            "cpu_seconds_a_step": seconds,
            **({"parts": work} if work else {}),
        },
    )


if __name__ == "__main__":
    main()
