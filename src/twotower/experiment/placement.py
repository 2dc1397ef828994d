"""Placement of a run: its device, and its data on it where they fit, else in main memory, copied batch by batch."""

from __future__ import annotations

import logging

import torch

from twotower.core.devices import find_device
from twotower.core.errors import InputError
from twotower.data.dataset import Dataset
from twotower.experiment.labelled_pairs import PAIRS
from twotower.experiment.run import Run
from twotower.models.base import ClosedForm
from twotower.models.registry import model_class
from twotower.training.distributed import World

log = logging.getLogger(__name__)

SHARE = 0.5
"""Of the free memory of a device that log and user features may take; the rest is the model's and its steps'."""


def pick_device(name: str, world: World | None = None, *, key: str = "training.device") -> torch.device:
    """Return the device of a run; "auto" takes CUDA where there is some. Several ranks take a GPU each.

    Args:
        name: of the device.
        world: the processes; None: this one alone.
        key: what the name was given by, for errors.

    Raises:
        InputError: if the name is no device, or the device is not there.
    """
    world = world or World()
    if world.size > 1 and name in ("auto", "cuda") and torch.cuda.is_available():
        gpus = torch.cuda.device_count()
        if world.local_rank >= gpus:
            raise InputError(
                f"rank {world.rank} is process {world.local_rank} of its machine, which has {gpus} GPU(s): start as "
                f"many processes as there are GPUs, or set {key} to 'cpu'"
            )
        torch.cuda.set_device(world.device)
        return world.device
    if name.startswith("cuda:") and world.size > 1:
        raise InputError(f"{key} is '{name}' on {world.size} ranks: write 'cuda', and each takes one of its own")
    return find_device(name, key)


def placed(dataset: Dataset, device: torch.device, run: Run) -> Dataset:
    """Return the data set on the device, or, where ``training.data`` says so or it does not fit, near it.

    Closed forms are fitted in one go, and take all of it.

    Raises:
        InputError: if it is to stay in main memory, and the run orders lists of candidates.
    """
    where = run.training.data
    if device.type != "cuda" or where == "device" or issubclass(model_class(run.model.name), ClosedForm):
        return dataset.to(device)
    if run.data.split == PAIRS:
        if where == "host":
            raise InputError(
                "training.data = 'host' is for the full catalogue; with data.split = 'pre-ranking' set it to 'device'"
            )
        return dataset.to(device)
    if where == "host":
        return dataset.near(device)
    needed, free = dataset.bytes_of_log, free_memory(device)
    if needed <= SHARE * free:
        return dataset.to(device)
    log.warning(
        "log and user features take %.1f GB, and %.1f GB of the device are free: they stay in main memory, and "
        "batches are copied ahead of the steps (training.data = 'device' puts them there all the same)",
        needed / 1e9,
        free / 1e9,
    )
    return dataset.near(device)


def free_memory(device: torch.device) -> int:
    """Return the bytes that are free on a GPU."""
    return torch.cuda.mem_get_info(device)[0]
