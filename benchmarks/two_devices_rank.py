"""One process of `two_devices`: trains every cell by the package's own loop, with clocks around steps and collectives.

Started by `two_devices` alone, with the variables of torchrun and the path of a JSON file that says what to do.
"""

from __future__ import annotations

import gc
import json
import sys
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor

import common
from two_devices_cells import CELLS, SEED, Cell, Job
from twotower.core.files import write_json
from twotower.core.records import Batch
from twotower.data.examples import Rows
from twotower.models.base import Model
from twotower.training import collectives
from twotower.training.callbacks import Silent
from twotower.training.config import Training
from twotower.training.distributed import World
from twotower.training.loop import fit
from twotower.training.objective import Objective

WARM, PROFILED, EXACT = 10, 3, 5
"""Steps before timing (2 in the quick form), steps under the profiler after it, and steps in float64."""


class Awaited:
    """A collective under way: its wait is timed."""

    def __init__(self, work: Any, wait: Callable[[], None]) -> None:
        self.work, self.wait = work, wait


class Traffic:
    """Times collectives of torch.distributed: by events on the device's stream, or on the host for CPU tensors.

    Of one that is under way while the host goes on, the start and the wait count.

    Both hold the wait for the slower rank. The host runs ahead of a GPU, so its waits and the device's overlap.
    """

    def __init__(self) -> None:
        self.on = False
        self.spans: list[tuple[str, torch.cuda.Event, torch.cuda.Event]] = []
        self.host: dict[str, float] = {}
        self.calls: dict[str, int] = {}
        self.bytes: dict[str, int] = {}
        for name in ("all_reduce", "all_gather", "broadcast", "all_to_all_single"):
            setattr(dist, name, self._timed(getattr(dist, name), name))

    def _timed(self, collective: Callable[..., Any], name: str) -> Callable[..., Any]:
        def call(*given: Any, **named: Any) -> Any:
            if not self.on:
                return collective(*given, **named)
            tensors = [part for part in given if isinstance(part, Tensor)]
            label = f"{name} ({tensors[-1].device.type})"
            self.calls[label] = self.calls.get(label, 0) + 1
            self.bytes[label] = self.bytes.get(label, 0) + tensors[-1].nbytes
            if tensors[-1].is_cuda:
                begun, ended = (torch.cuda.Event(enable_timing=True) for _ in range(2))
                begun.record()
                result = collective(*given, **named)
                ended.record()
                self.spans.append((label, begun, ended))
                return result
            result = self._on_host(label, lambda: collective(*given, **named))
            if named.get("async_op"):
                return Awaited(result, lambda: self._on_host(label, result.wait))
            return result

        return call

    def _on_host(self, label: str, work: Callable[[], Any]) -> Any:
        start = time.perf_counter()
        result = work()
        self.host[label] = self.host.get(label, 0.0) + time.perf_counter() - start
        return result

    def report(self, seconds: float) -> dict[str, Any]:
        """Shares of ``seconds``, and milliseconds, calls and bytes by collective; then forget them."""
        device: dict[str, float] = {}
        for label, begun, ended in self.spans:
            device[label] = device.get(label, 0.0) + begun.elapsed_time(ended) / 1e3
        found = {
            "device_share": sum(device.values()) / seconds,
            "host_share": sum(self.host.values()) / seconds,
            "collectives": {
                label: {
                    "milliseconds": 1e3 * (device.get(label, 0.0) + self.host.get(label, 0.0)),
                    "calls": calls,
                    "mib_sent": self.bytes[label] / 2**20,
                }
                for label, calls in sorted(self.calls.items())
            },
        }
        self.spans, self.host, self.calls, self.bytes = [], {}, {}, {}
        return found


class Recorded:
    """An objective that keeps the loss of each step, and how many rows and samples this rank had."""

    def __init__(self, inner: Objective, world: World) -> None:
        self.inner, self.world = inner, world
        self.losses: list[Tensor] = []
        self.rows: list[int] = []
        self.samples: list[int] = []

    def __call__(self, model: Model, batch: Batch) -> Tensor:
        """The loss of the objective."""
        loss = self.inner(model, batch)
        self.rows.append(self.world.rows(batch))
        self.losses.append(loss.detach().double() * self.rows[-1])
        self.samples.append(0 if self.world.idle else len(batch.users.ids))
        return loss

    def state_dict(self) -> dict[str, Any]:
        """That of the objective."""
        return self.inner.state_dict()

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Give it back to the objective."""
        self.inner.load_state_dict(state)

    def curve(self) -> list[float]:
        """The mean loss over all ranks' rows, step by step."""
        sums = torch.stack([torch.stack(self.losses).cpu(), torch.tensor(self.rows, dtype=torch.float64)])
        losses, rows = collectives.summed(sums) if self.world.size > 1 else sums
        return (losses / rows).tolist()


class FirstRows:
    """The first ``number`` of training rows, so that an epoch has whole batches alone."""

    def __init__(self, rows: Rows, number: int) -> None:
        self.rows, self.number = rows, number

    def __len__(self) -> int:
        return self.number

    def cut(self, rows: Tensor) -> Batch:
        """The batch of these rows."""
        return self.rows.cut(rows)


class Stopwatch(Silent):
    """Times the steps after the warm-up, and has the last ones profiled."""

    def __init__(self, traffic: Traffic, world: World, device: torch.device, timed: slice) -> None:
        self.traffic, self.world, self.device, self.timed = traffic, world, device, timed
        self.profiler: Any = None
        self.kernels: dict[str, Any] = {}

    def stepped(self, step: int) -> None:
        """Start and stop what is due."""
        if step == self.timed.start:
            self._wait()
            self.traffic.on = self.world.size > 1
            self.begun = time.perf_counter()
        elif step == self.timed.stop:
            self._wait()
            self.seconds = time.perf_counter() - self.begun
            self.traffic.on = False
            if self.device.type == "cuda" and self.world.rank == 0:
                self._profile()
        elif step == self.timed.stop + PROFILED and self.profiler is not None:
            self._wait()
            try:
                self.profiler.stop()
                self.kernels = _kernels(self.profiler)
            except (RuntimeError, AttributeError) as error:
                self.kernels = {"error": str(error)}

    def _profile(self) -> None:
        try:
            profiler = torch.profiler.profile(activities=[torch.profiler.ProfilerActivity.CUDA])
            profiler.start()
            self.profiler = profiler
        except RuntimeError as error:  # a machine may not let its counters be read
            self.kernels = {"error": str(error)}

    def _wait(self) -> None:
        if self.device.type == "cuda":
            torch.cuda.synchronize(self.device)


def _kernels(profiler: Any) -> dict[str, Any]:
    """Milliseconds a step of the kernels that take longest, and the share of those of NCCL (waits included)."""
    times = {event.key: event.self_device_time_total / 1e3 / PROFILED for event in profiler.key_averages()}
    total = sum(times.values())
    longest = sorted(times.items(), key=lambda pair: -pair[1])[:12]
    return {
        "nccl_share_of_kernels": sum(ms for name, ms in times.items() if "nccl" in name.lower()) / max(total, 1e-9),
        "milliseconds_a_step": total,
        "longest": {name[:120]: round(ms, 4) for name, ms in longest},
    }


def train(job: Job, world: World, batch: int, steps: int, callbacks: Sequence[Silent] = ()) -> Recorded:
    """Train so many steps by `fit`, and to the end of that epoch; what was recorded."""
    recorded = Recorded(job.objective, world)
    an_epoch = min(steps, len(job.rows) // batch)
    config = Training(
        epochs=-(-steps // an_epoch),
        batch_size=batch,
        optimizer="adam",
        learning_rate=1e-3,
        row_rate=job.row_rate,
        evaluate_every=0,
        seed=SEED,
    )
    fit(job.model, FirstRows(job.rows, an_epoch * batch), recorded, config, callbacks=callbacks, world=world)
    return recorded


def measure(cell: Cell, world: World, device: torch.device, traffic: Traffic, task: dict[str, Any]) -> dict[str, Any]:
    """All figures of one cell on this rank."""
    quick, data = task["quick"], Path(task["data"]) if task["data"] else None
    warm, steps = (2, 4) if quick else (WARM, cell.steps)
    timed, total = slice(warm, warm + steps), warm + steps + PROFILED
    batch = cell.rows_a_step(quick=quick, exact=False)
    if device.type == "cuda":
        torch.cuda.reset_peak_memory_stats(device)
    job = cell.build(world, device, quick, data)
    clock = Stopwatch(traffic, world, device, timed)
    recorded = train(job, world, batch, total, [clock])
    found: dict[str, Any] = {
        "rank": world.rank,
        "device": torch.cuda.get_device_name(device) if device.type == "cuda" else "cpu",
        "about": job.about,
        "batch": batch,
        "steps": steps,
        "seconds": clock.seconds,
        "samples": sum(recorded.samples[timed]),
        "loss_rows": sum(recorded.rows[timed]),
        "communication": traffic.report(clock.seconds),
        "kernels": clock.kernels,
        "curve": recorded.curve(),
        "peak_mib": common.peak_mib(),
        "peak_is": "resident memory of the process so far",
    }
    if device.type == "cuda":
        found["peak_mib"] = torch.cuda.max_memory_allocated(device) / 2**20
        found["reserved_mib"] = torch.cuda.max_memory_reserved(device) / 2**20
        found["peak_is"] = "allocated on the device, data and weights included"
    del job
    _tidy(device)
    if world.size == 1:  # what rounding in another order does to the curve of one device
        job = cell.build(world, device, quick, data)
        found["repeated_curve"] = train(job, world, batch, total).curve()
        del job
        _tidy(device)
    job = cell.build(world, device, quick, data)
    job.model.double()
    small = cell.rows_a_step(quick=quick, exact=True)
    found["float64_batch"] = small
    found["float64_curve"] = train(job, world, small, EXACT).curve()
    del job
    _tidy(device)
    return found


def _tidy(device: torch.device) -> None:
    gc.collect()
    if device.type == "cuda":
        torch.cuda.empty_cache()


def main() -> None:
    """Do what the task says, one file a cell and rank."""
    task = json.loads(Path(sys.argv[1]).read_text())
    torch.set_float32_matmul_precision("highest")  # no TF32
    torch.set_num_threads(1)
    traffic = Traffic()
    world = World.current(wait=120.0)
    device = torch.device("cpu")
    if task["device"] == "cuda":
        device = torch.device("cuda", world.local_rank)
        torch.cuda.set_device(device)
    for name in task["cells"]:
        found = measure(CELLS[name], world, device, traffic, task)
        write_json(Path(task["folder"]) / f"{name}.{world.size}.{world.rank}.json", found)
    world.close()


if __name__ == "__main__":
    main()
