"""Costs of sequence towers: parameters, and milliseconds of encoding a user at batch 1 and 512."""

from __future__ import annotations

import statistics
import time
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from twotower.core.files import read_json, replacing_file, write_json
from twotower.core.records import Users
from twotower.core.seeds import torch_generator
from twotower.data.dataset import Dataset
from twotower.experiment.learn import new_model
from twotower.experiment.run import Run
from twotower.models.base import Model
from twotower.models.encode import inference, users_with_history
from twotower.reproduce.fit_extras import machine
from twotower.reproduce.study import Table
from twotower.reproduce.t2diff.data import as_judged
from twotower.reproduce.t2diff.measure import parameters
from twotower.reproduce.t2diff.rows import COUNTED

BATCHES = (1, 512)
TURNS = 10
FEWEST = 3
"""Turns of a dear model, at least."""
LONG = 10.0
"""Seconds: a model that has taken so many in its counted turns of a batch has no further ones."""
COLUMNS = ("million_parameters", "million_without_tables", *(f"ms_a_user_at_{number}" for number in BATCHES))

Costs = dict[str, dict[str, float]]


def cost_sheet(runs: Mapping[str, Run], dataset: Dataset, *, turns: int = TURNS) -> Costs:
    """Measure each run's model on the data set's device: parameters, and milliseconds a user of encoding users.

    Models are asked in turns, about the same users by their whole histories; figures are medians over turns after one
    that does not count; dear models have fewer (see `LONG`). Weights are those that training starts from: they do not
    change the work.

    Args:
        runs: by variant; of closed forms, which encode nobody, none.
        dataset: as `as_judged` gives it.
        turns: of each model and batch.
    """
    models = {name: new_model(run, dataset).eval() for name, run in runs.items()}
    costs: Costs = {
        name: {
            "million_parameters": sum(weight.numel() for weight in model.parameters()) / 1e6,
            "million_without_tables": parameters(model) / 1e6,
        }
        for name, model in models.items()
    }
    active = dataset.log.lengths.nonzero()[:, 0]
    drawn = active[torch.randperm(len(active), generator=torch_generator(0, "asked")).to(active.device)]
    for number in BATCHES:
        times: dict[str, list[float]] = {name: [] for name in models}
        for turn in range(turns + 1):
            some = drawn.roll(-turn)[:number]
            for name, model in models.items():
                if turn > FEWEST and sum(times[name][1:]) > LONG:
                    continue
                users = users_with_history(dataset, dataset.log, some, model.history_length)
                times[name].append(_seconds(model, users))
        for name, found in times.items():
            costs[name][f"ms_a_user_at_{number}"] = 1e3 * statistics.median(found[1:]) / len(drawn[:number])
    return costs


def _seconds(model: Model, users: Users) -> float:
    """Seconds of encoding, with the device's work done."""
    cuda = users.history.device.type == "cuda"
    with inference(model):
        if cuda:
            torch.cuda.synchronize()
        started = time.perf_counter()
        states: Tensor | Any = model.encode_users(users)
        if cuda:
            torch.cuda.synchronize()
        del states
        return time.perf_counter() - started


def write_costs(
    table: Table, data: Mapping[str, Path], chosen: Mapping[str, Mapping[str, Run]], folder: Path
) -> list[Path]:
    """Write ``NAME-costs.json`` and ``.md``: the GPU where there is one, and the CPU, each as soon as it is measured.

    What was measured for the same runs is not measured again, so a sheet may gather the devices of two machines.
    """
    sheet, page = (folder / f"{table.name}-costs.{ending}" for ending in ("json", "md"))
    found = read_json(sheet) if sheet.is_file() else {}
    for name, runs in chosen.items():
        towers = {variant: run for variant, run in runs.items() if variant not in COUNTED}
        written = {variant: _anywhere(run).to_toml() for variant, run in towers.items()}
        for device in (*(["cuda"] if torch.cuda.is_available() else []), "cpu"):
            entry = found.setdefault(name, {}).get(device)
            if entry is None or entry["runs"] != written:
                dataset = as_judged(Dataset.load(data[name], verify=False)).to(device)
                costs = cost_sheet(towers, dataset)
                found[name][device] = {"machine": machine(device), "runs": written, "costs": costs}
                _write(sheet, page, table.title, found)
    _write(sheet, page, table.title, found)
    return [sheet, page]


def _write(sheet: Path, page: Path, title: str, found: Mapping[str, Mapping[str, Mapping[str, Any]]]) -> None:
    write_json(sheet, found)
    with replacing_file(page) as partial:
        partial.write_text(as_markdown(title, found), encoding="utf-8")


def _anywhere(run: Run) -> Run:
    """The run whatever the folder of its data and the device."""
    return replace(run, data=replace(run.data, path=""), training=replace(run.training, device="auto"))


def as_markdown(title: str, found: Mapping[str, Mapping[str, Mapping[str, Any]]]) -> str:
    """Return the sheet for people: a table for each data set and device."""
    lines = [f"# Costs: {title}", ""]
    for name, devices in found.items():
        for entry in devices.values():
            lines += [f"## {name}, {entry['machine']}", "", *_table(entry["costs"]), ""]
    return "\n".join(lines)


def _table(costs: Mapping[str, Mapping[str, float]]) -> Sequence[str]:
    head = [f"| variant | {' | '.join(COLUMNS)} |", "|---" * (1 + len(COLUMNS)) + "|"]
    return [*head, *(f"| {name} | {' | '.join(f'{row[c]:.4f}' for c in COLUMNS)} |" for name, row in costs.items())]
