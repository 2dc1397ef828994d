"""Two devices of one host against one, at equal global batch: samples a second, memory, communication, loss curves.

Each cell is trained by the package's own loop and objectives on one device, and then on all: SASRec with full softmax
on MovieLens-1M windows, the two-tower model with in-batch softmax over 10⁶ items, and over 10⁷ items with a table
that is shared out by row. Warm-up steps are not timed. Curves are compared in float32, beside those of one device
against itself, and over a few steps in float64.

    python benchmarks/two_devices.py --data PREPARED --out FILE.json
"""

from __future__ import annotations

import argparse
import json
import os
import signal
import socket
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import torch

import common
from two_devices_cells import CELLS

PROGRAM = Path(__file__).with_name("two_devices_rank.py")


def start(size: int, cells: list[str], options: argparse.Namespace, folder: Path, limit: float) -> str:
    """Train the cells on so many devices, one process each; what went wrong, or nothing."""
    task = folder / "task.json"
    data = None if options.data is None else str(options.data)
    task.write_text(
        json.dumps(
            {"cells": cells, "device": options.device, "quick": options.quick, "data": data, "folder": str(folder)}
        )
    )
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    shared = {"NCCL_NVLS_ENABLE": "0", "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port), "WORLD_SIZE": str(size)}
    if sys.platform == "linux":
        shared |= {"NCCL_SOCKET_IFNAME": "lo", "GLOO_SOCKET_IFNAME": "lo"}
    ranks = []
    for rank in range(size):
        own = {"RANK": str(rank), "LOCAL_RANK": str(rank)}
        with (folder / f"rank{rank}.log").open("w") as told:
            ranks.append(
                subprocess.Popen(
                    [sys.executable, str(PROGRAM), str(task)], env=os.environ | shared | own, stdout=told, stderr=told
                )
            )
    end, failed = time.monotonic() + limit, ""
    while not failed and any(rank.poll() is None for rank in ranks):
        if time.monotonic() > end:
            failed = f"not done in {limit:.0f} seconds"
        elif bad := [place for place, rank in enumerate(ranks) if rank.poll()]:
            time.sleep(1.0)  # the one that began it may be another, which is still writing
            failed = f"rank {bad[0]} ended with {ranks[bad[0]].returncode}"
        else:
            time.sleep(0.05)
    if not failed and all(rank.returncode == 0 for rank in ranks):
        return ""
    for rank in ranks:
        if rank.poll() is None:
            rank.send_signal(signal.SIGKILL)
        rank.wait()
    tails = [(folder / f"rank{place}.log").read_text()[-1500:] for place in range(size)]
    return "\n".join([failed or "a rank failed", *tails])


def on(size: int, cells: list[str], options: argparse.Namespace, end: float) -> dict[str, Any]:
    """What each cell gave on so many devices: its ranks' figures, or an error. A cell that fails is left out."""
    found: dict[str, Any] = {}
    left = list(cells)
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        while left:
            error = start(size, left, options, folder, max(5.0, end - time.monotonic()))
            for cell in list(left):
                files = [folder / f"{cell}.{size}.{rank}.json" for rank in range(size)]
                if all(file.is_file() for file in files):
                    found[cell] = [json.loads(file.read_text()) for file in files]
                    left.remove(cell)
            if left:
                found[left.pop(0)] = error or "the ranks wrote no result"
    return found


def gap(one: list[float], other: list[float]) -> float:
    """The largest relative gap of two loss curves."""
    return max(abs(a - b) / max(abs(a), 1e-12) for a, b in zip(one, other, strict=True))


def side(ranks: list[dict[str, Any]]) -> dict[str, Any]:
    """The figures of one number of devices; the slowest rank gives the time."""
    seconds = max(rank["seconds"] for rank in ranks)
    steps = ranks[0]["steps"]
    result = {
        "samples_per_second": sum(rank["samples"] for rank in ranks) / seconds,
        "loss_rows_per_second": sum(rank["loss_rows"] for rank in ranks) / seconds,
        "step_milliseconds": 1e3 * seconds / steps,
        "peak_mib": [round(rank["peak_mib"], 1) for rank in ranks],
        "peak_is": ranks[0]["peak_is"],
        "kernels_of_rank_0": ranks[0]["kernels"],
        "devices": [rank["device"] for rank in ranks],
    }
    if "reserved_mib" in ranks[0]:
        result["reserved_mib"] = [round(rank["reserved_mib"], 1) for rank in ranks]
    if len(ranks) > 1:
        result["communication_share_device"] = max(rank["communication"]["device_share"] for rank in ranks)
        result["communication_share_host"] = max(rank["communication"]["host_share"] for rank in ranks)
        result["collectives"] = [rank["communication"]["collectives"] for rank in ranks]
    return result


def compared(one: list[dict[str, Any]] | str, many: list[dict[str, Any]] | str) -> dict[str, Any]:
    """One cell: both sides, their scaling and the gaps of their curves."""
    if isinstance(one, str) or isinstance(many, str):
        return {"error": {"one": one if isinstance(one, str) else "", "many": many if isinstance(many, str) else ""}}
    first, size = one[0], len(many)
    sides = {"one": side(one), "many": side(many)}
    scaling = sides["many"]["samples_per_second"] / sides["one"]["samples_per_second"]
    return {
        "about": first["about"],
        "batch": first["batch"],
        "timed_steps": first["steps"],
        "scaling": scaling,
        "efficiency": scaling / size,
        "loss_curve_gap": gap(first["curve"], many[0]["curve"]),
        "loss_curve_gap_of_one_device_repeated": gap(first["curve"], first["repeated_curve"]),
        "loss_curve_gap_float64": gap(first["float64_curve"], many[0]["float64_curve"]),
        "float64_batch": first["float64_batch"],
        **sides,
        "curves": {"one": first["curve"], "many": many[0]["curve"]},
    }


def main() -> None:
    """Measure and report."""
    made = common.parser(__doc__)
    made.add_argument("--data", type=Path, help="prepared MovieLens-1M; default: the shared copy, or a random log")
    made.add_argument("--devices", type=int, default=2, help="devices that are compared with one (default 2)")
    made.add_argument("--device", choices=("cuda", "cpu"), default="cuda")
    made.add_argument("--cells", nargs="+", choices=sorted(CELLS), default=list(CELLS))
    made.add_argument("--limit", type=float, default=540.0, help="seconds for all; what is not done is said")
    options = common.parse(made)
    if options.device == "cuda" and torch.cuda.device_count() < options.devices:
        made.error(f"{options.devices} GPUs wanted, {torch.cuda.device_count()} here; --device cpu tries it on gloo")
    begun = time.monotonic()
    end = begun + options.limit
    one = on(1, options.cells, options, end)
    many = on(options.devices, options.cells, options, end)
    figures: dict[str, Any] = {cell: compared(one[cell], many[cell]) for cell in options.cells}
    settings = {
        "devices": options.devices,
        "device": options.device,
        "precision": "float32, TF32 off",
        "nvlink_multicast": "off (NCCL_NVLS_ENABLE=0)",
        "backend": "gloo" if options.device == "cpu" else "NCCL for tensors on a GPU, gloo for small ones of the host",
        "seconds_of_all": round(time.monotonic() - begun, 1),
    }
    common.finish("two_devices", options, settings=settings, figures=figures)
    for cell, found in figures.items():
        if not options.json and "scaling" in found:
            print(
                f"{cell:18} x{found['scaling']:.3f} at {found['many']['samples_per_second']:,.0f} samples/s, "
                f"communication {found['many']['communication_share_device']:.1%} of the device's time and "
                f"{found['many']['communication_share_host']:.1%} of the host's, gap {found['loss_curve_gap']:.1e} "
                f"(repeat {found['loss_curve_gap_of_one_device_repeated']:.1e}, "
                f"float64 {found['loss_curve_gap_float64']:.1e})"
            )


if __name__ == "__main__":
    main()
