"""What `sequential` measures: towers by name, logs, and one function a kind of cell. Not a benchmark of its own."""

from __future__ import annotations

import gc
import resource
import statistics
import time
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

import common
import movielens
from twotower.core.records import Batch, Users
from twotower.core.schema import Schema
from twotower.data.dataset import Dataset
from twotower.data.examples import SequenceRows
from twotower.data.log import Log
from twotower.data.splitters import leave_one_out
from twotower.models.base import Model, attach_items
from twotower.models.encode import inference, users_with_history
from twotower.models.registry import MODELS, build_model, model_class
from twotower.training.against_all import AgainstAll
from twotower.training.callbacks import Silent
from twotower.training.config import Training
from twotower.training.loop import fit

BASE = "sasrec"
FORMS: dict[str, tuple[str, dict[str, Any]]] = {
    "sasrec_relative": ("sasrec", {"relative": True}),
    "ligr_relative": ("ligr", {"relative": True}),
    "bert4rec_last": ("bert4rec", {"asked": "last"}),
    "dat_plus_causal": ("dat_plus", {"encoder": "causal"}),
    "t2diff": ("t2diff", {}),
    "t2diff_as_served": ("t2diff", {"restored": "as_served"}),
    "t2diff_printed": ("t2diff", {"restored": "printed"}),
    "t2diff_mixed": ("t2diff", {"attention": "mixed"}),
    "t2diff_paper": ("t2diff", {"restored": "printed", "attention": "mixed", "restore_steps": 50, "eta": 1.0}),
}
"""Forms of a model beside its default; ``t2diff_paper`` restores in all of its 50 steps."""
DEAR = ("t2diff_paper",)
"""Left out of the quick form."""
MEMORY_SHARE = 0.5
"""Of the memory that is free: what a process that measures memory may take."""


def towers() -> dict[str, tuple[str, dict[str, Any]]]:
    """Return every registered model that is trained on sequences, and the forms, as model and settings."""
    found = {name: (name, {}) for name in MODELS if model_class(name).batches == "sequences"}
    return {BASE: found[BASE], **found, **FORMS}


@dataclass(frozen=True)
class Sizes:
    """How much is trained and asked; recorded with every cell."""

    dim: int = 64
    history_length: int = 200
    batch: int = 256
    asked: int = 512
    epochs: int = 3
    """Timed epochs of each of a pair, after one that is not."""
    calls: int = 30
    seconds: float = 20.0
    """After so many of a cell no further turn begins, as long as two were counted."""
    most_rows: int = 10**9


QUICK = Sizes(history_length=50, batch=32, epochs=3, calls=6, seconds=0.5, most_rows=64)


class OutOfTime(Exception):  # noqa: N818 - not an error
    """The limit is reached: the cell at hand is left out."""


class Deadline(Silent):
    """Ends what goes on after so many seconds: between two steps of a training, and between two calls."""

    def __init__(self, seconds: float) -> None:
        self.end = time.monotonic() + seconds

    def left(self) -> float:
        """Seconds to the end."""
        return self.end - time.monotonic()

    def check(self) -> None:
        """Raise at the end."""
        if self.left() <= 0:
            raise OutOfTime

    def stepped(self, step: int) -> None:
        """One more step of a training."""
        self.check()


def generated(users: int, events: int, items: int = 3_706) -> Dataset:
    """Return users with so many events each, with times: few items are many events'."""
    generator = torch.Generator().manual_seed(0)
    drawn = (torch.rand(users * events, generator=generator, dtype=torch.float64).pow(3) * items).long() + 2
    offsets = (torch.arange(-2, users + 1) * events).clamp(min=0)
    return _timed(offsets, drawn, items + 2, "generated")


def _timed(offsets: Tensor, items: Tensor, num_items: int, name: str) -> Dataset:
    generator = torch.Generator().manual_seed(1)
    times = 10**9 + torch.randint(1, 3_600, (len(items),), generator=generator).cumsum(0)
    schema = Schema(len(offsets) - 1, num_items, (), (), has_times=True)
    return Dataset(schema, Log(offsets, items, times), {}, {}, {"name": name})


def log_of(*, quick: bool, data: Path | None) -> tuple[Dataset, bool]:
    """Return the log that is trained on, and whether it is a real one; the quick form takes a generated one.

    One without a clock gets a drawn one, since towers that read times do more then.
    """
    if quick and data is None:
        return generated(512, 60), False
    dataset, real = movielens.load("ml-1m", data)
    if dataset.log.times is None:
        dataset = _timed(dataset.log.offsets, dataset.log.items, dataset.schema.num_items, dataset.name)
    return dataset, real


def built(tower: str, dataset: Dataset, sizes: Sizes) -> Model:
    """Return a tower with drawn weights on the data set's device."""
    name, settings = towers()[tower]
    torch.manual_seed(0)
    model = build_model(name, dataset.schema, {"dim": sizes.dim, "history_length": sizes.history_length} | settings).to(
        dataset.device
    )
    attach_items(model, dataset.all_items())
    return model


class FirstRows:
    """The first ``number`` of training rows."""

    def __init__(self, rows: SequenceRows, number: int) -> None:
        self.rows, self.number = rows, min(number, len(rows))

    def __len__(self) -> int:
        return self.number

    def cut(self, rows: Tensor) -> Batch:
        """Return the batch of these rows."""
        return self.rows.cut(rows)


def in_turns(
    work: dict[str, Callable[[], object]], repeats: int, seconds: float, deadline: Deadline, *, device: torch.device
) -> dict[str, list[float]]:
    """Return the seconds of each, in turns, after one that is not counted: CPU seconds on a CPU, else wall seconds."""
    times: dict[str, list[float]] = {name: [] for name in work}
    for turn in range(-1, repeats):
        if turn >= 2 and sum(map(sum, times.values())) > seconds:
            break
        for name, call in work.items():
            deadline.check()
            with common.Clock() as clock:
                call()
            if turn >= 0:
                times[name].append(clock.cpu if device.type == "cpu" else clock.wall)
    return times


def pair(times: dict[str, list[float]], tower: str) -> dict[str, Any]:
    """Return medians of both and their ratio, with the repeats."""
    mine, base = (statistics.median(times[name]) for name in (tower, BASE))
    return {"seconds": mine, f"{BASE}_seconds": base, "relative": mine / base, "repeats": times}


def epoch(tower: str, dataset: Dataset, sizes: Sizes, deadline: Deadline) -> dict[str, Any]:
    """Time epochs of full softmax over all items, in turns with SASRec's; one training at a time."""
    train = leave_one_out(dataset.log).train
    rows = FirstRows(
        SequenceRows(dataset, train, history_length=sizes.history_length, item_features=False), sizes.most_rows
    )
    config = Training(epochs=1, batch_size=sizes.batch, optimizer="adam", learning_rate=1e-3, evaluate_every=0)
    models = {name: built(name, dataset, sizes) for name in dict.fromkeys((BASE, tower))}
    objective = AgainstAll(dataset)

    def trained(model: Model) -> Callable[[], object]:
        return lambda: fit(model, rows, objective, config, callbacks=[deadline])

    work = {name: trained(model) for name, model in models.items()}
    weights = sum(part.numel() for part in models[tower].parameters())
    return pair(in_turns(work, sizes.epochs, sizes.seconds, deadline, device=dataset.device), tower) | {
        "parameters": weights
    }


def asked(dataset: Dataset, number: int, sizes: Sizes) -> Users:
    """Return that many drawn users of the log with their latest events; one alone is that of the longest history."""
    log = dataset.log
    if number == 1:
        ids = log.lengths.argmax()[None]
    else:
        active = log.lengths.nonzero()[:, 0].cpu()
        ids = active[torch.randint(len(active), (number,), generator=torch.Generator().manual_seed(2))]
    return users_with_history(dataset, log, ids.to(dataset.device), sizes.history_length)


def captured(call: Callable[[], object]) -> Callable[[], object]:
    """Return a replay of a call's kernels, captured in one CUDA graph."""
    side = torch.cuda.Stream()
    side.wait_stream(torch.cuda.current_stream())
    with torch.cuda.stream(side):
        for _ in range(3):
            call()
    torch.cuda.current_stream().wait_stream(side)
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        call()
    return graph.replay


def compiled(model: Model) -> Model:
    """Return the model with its tower, and what guesses T2Diff's next item, compiled for one size of a batch."""
    parts: list[Any] = [getattr(model, name, None) for name in ("tower", "next_item")]
    for part in filter(None, parts):
        part.compile(dynamic=False)
        if hasattr(part, "at_end"):
            part.at_end = torch.compile(part.at_end, dynamic=False)
    return model


def latency(
    tower: str,
    dataset: Dataset,
    sizes: Sizes,
    deadline: Deadline,
    *,
    number: int,
    graph: bool = False,
    fused: bool = False,
) -> dict[str, Any]:
    """Time the encoding of users by their histories, in turns with SASRec's.

    Both are captured with ``graph``, and compiled before with ``fused``.
    """
    users = asked(dataset, number, sizes)
    models = {name: built(name, dataset, sizes).eval() for name in dict.fromkeys((BASE, tower))}
    if fused:
        models = {name: compiled(model) for name, model in models.items()}

    def encoded(model: Model) -> Callable[[], object]:
        return lambda: model.encode_users(users)

    with inference(models[tower]):
        work = {name: encoded(model) for name, model in models.items()}
        if graph:
            work = {name: captured(call) for name, call in work.items()}
        times = in_turns(work, sizes.calls, sizes.seconds, deadline, device=dataset.device)
    found = pair(times, tower)
    return found | {"milliseconds_a_user": 1e3 * found["seconds"] / number, "users": number}


def memory(tower: str, length: int, device: torch.device, batch: int) -> dict[str, Any]:
    """Return the most memory that asking, and then a training step, take beyond what was held before, by device.

    On a CPU it is that of the process: one for each call of this function.
    """
    dataset = generated(batch, length + 3).to(device)
    rows = SequenceRows(dataset, dataset.log, history_length=length, item_features=False)
    sizes = Sizes(history_length=length)
    cuda = device.type == "cuda"
    if cuda:
        _warm(device)
    else:
        _bound()
    before = torch.cuda.memory_allocated() / 2**20 if cuda else common.peak_mib()
    found: dict[str, Any] = {"batch": batch, "history_length": length, "mib_before": before}
    try:
        model = built(tower, dataset, sizes)
        users, objective = asked(dataset, batch, sizes), AgainstAll(dataset)
        with inference(model):
            found["asking_mib"] = _peak(lambda: model.encode_users(users), cuda=cuda) - before
        some = rows.cut(torch.arange(batch))
        found["training_mib"] = _peak(lambda: objective(model, some).backward(), cuda=cuda) - before
    except RuntimeError as error:
        if "memory" not in str(error):
            raise
        found["error"] = f"more memory than there is: {str(error).splitlines()[0][:200]}"
    return found


def _warm(device: torch.device) -> None:
    """Have the libraries of both ways take the memory that they keep, so that it is not the first tower's."""
    x = torch.ones(64, 64, device=device, requires_grad=True)
    torch.nn.functional.conv1d((x @ x)[None], (x @ x)[:, :, None]).sum().backward()


def _bound() -> None:
    """Let this process take a part of what is free, so that one that takes more fails by itself and alone."""
    free = next((line.split()[1] for line in _meminfo() if line.startswith("MemAvailable")), None)
    if free is not None:
        resource.setrlimit(resource.RLIMIT_DATA, (int(int(free) * 2**10 * MEMORY_SHARE),) * 2)


def _meminfo() -> Iterable[str]:
    path = Path("/proc/meminfo")
    return path.read_text().splitlines() if path.is_file() else ()


def _peak(work: Callable[[], object], *, cuda: bool) -> float:
    if cuda:
        torch.cuda.reset_peak_memory_stats()
    work()
    return torch.cuda.max_memory_allocated() / 2**20 if cuda else common.peak_mib()


def tidy(device: torch.device) -> None:
    """Give back what the cell before held."""
    gc.collect()
    if device.type == "cuda":
        torch.cuda.empty_cache()
