"""Extras of FIT's tables: the cost sheet, and the picture of items around their queries."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import torch
from safetensors.torch import load_file

from twotower.core.files import read_json, replacing_file, write_json
from twotower.data.dataset import Dataset
from twotower.experiment.run import Run
from twotower.reproduce.fit_costs import Costs, cost_sheet
from twotower.reproduce.fit_picture import query_map, write_picture
from twotower.reproduce.sets import without_text
from twotower.reproduce.study import Cell, Table, seeded

POPULARITY = "popularity"
"""The row that no model stands behind: it has no costs."""
COLUMNS = ("parameters", "bytes_per_item", "user_passes", "seconds_per_epoch", "p50_ms", "p99_ms")


def costs_and_map(
    table: Table, data: Mapping[str, Path], chosen: Mapping[str, Mapping[str, Run]], folder: Path
) -> list[Path]:
    """Write ``NAME-costs.json`` and ``.md`` (CPU, and GPU where there is one), and ``NAME-DATA-queries.svg``.

    The picture is of the training on seed 1 of "fit", or of the reference where there is no such variant. A device that
    was measured for these runs, or for more of the same set, is not measured again: a sheet may gather two machines.
    """
    chosen = {
        name: {variant: run for variant, run in runs.items() if variant != POPULARITY} for name, runs in chosen.items()
    }
    written = _write_costs(table, data, chosen, folder)
    for name, runs in chosen.items():
        variant = "fit" if "fit" in runs else table.reference
        if variant not in runs:
            continue
        cell = Cell(table.name, name, data[name], variant, seeded(runs[variant], 1))
        if cell.drawn(folder).is_file():
            written.append(folder / f"{table.name}-{name}-queries.svg")
            write_picture(query_map(load_file(cell.drawn(folder))), written[-1])
    return written


def _write_costs(
    table: Table, data: Mapping[str, Path], chosen: Mapping[str, Mapping[str, Run]], folder: Path
) -> list[Path]:
    sheet, page = (folder / f"{table.name}-costs.{ending}" for ending in ("json", "md"))
    asked = {name: {variant: run.to_toml() for variant, run in runs.items()} for name, runs in chosen.items()}
    found = read_json(sheet) if sheet.is_file() else {}
    if "machines" not in found:
        found = {"runs": {}, "machines": {}, "costs": {}}
    for name, wanted in asked.items():
        if not wanted.items() <= found["runs"].get(name, {}).items():
            found["runs"][name], found["machines"][name], found["costs"][name] = wanted, {}, {}
    for name, runs in chosen.items():
        for device in ("cpu", *(["cuda"] if torch.cuda.is_available() else [])):
            if device not in found["costs"][name]:
                dataset = without_text(Dataset.load(data[name])).to(device)
                found["costs"][name][device] = cost_sheet(runs, dataset)
                found["machines"][name][device] = machine(device)
                write_json(sheet, found)
    with replacing_file(page) as partial:
        partial.write_text(as_markdown(table.title, found["costs"], found["machines"]), encoding="utf-8")
    return [sheet, page]


def machine(device: str) -> str:
    """Return the GPU's name, or on how many threads of a CPU torch works."""
    return torch.cuda.get_device_name() if device == "cuda" else f"CPU with {torch.get_num_threads()} threads"


def as_markdown(title: str, costs: Mapping[str, Mapping[str, Costs]], machines: Mapping[str, Mapping[str, str]]) -> str:
    """Return the sheet for people: a table and a curve for each data set and device; ``machines`` names the devices."""
    lines = [f"# Costs: {title}", ""]
    for name, by_device in costs.items():
        for device, rows in by_device.items():
            first = next(iter(rows.values()))
            counts = list(first["p50_ms_by_candidates"])
            lines += [f"## {name}, {machines[name][device]}, {first['candidates']:,} candidates a request", ""]
            lines += _markdown(("variant", *COLUMNS), [[v, *(row[c] for c in COLUMNS)] for v, row in rows.items()])
            lines += ["Median milliseconds by number of candidates, of a catalogue of at least the last number:", ""]
            curves = [[v, *(row["p50_ms_by_candidates"][c] for c in counts)] for v, row in rows.items()]
            lines += _markdown(("variant", *counts), curves)
    return "\n".join(lines)


def _markdown(head: tuple[str, ...], rows: list[list[object]]) -> list[str]:
    lines = [f"| {' | '.join(head)} |", "|---" * len(head) + "|"]
    for row in rows:
        lines.append(f"| {' | '.join(f'{value:.3f}' if isinstance(value, float) else str(value) for value in row)} |")
    return [*lines, ""]
