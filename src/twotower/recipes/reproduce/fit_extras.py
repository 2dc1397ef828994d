"""What FIT's tables write beside their figures: the cost sheet, and the picture of items around their queries."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import torch
from safetensors.torch import load_file

from twotower.core.files import replacing_file, write_json
from twotower.data.dataset import Dataset
from twotower.recipes.reproduce.fit_costs import Costs, cost_sheet
from twotower.recipes.reproduce.fit_picture import query_map, write_picture
from twotower.recipes.reproduce.sets import without_text
from twotower.recipes.reproduce.study import Cell, Table, seeded
from twotower.recipes.run import Run

COLUMNS = ("parameters", "bytes_per_item", "user_passes", "p50_ms", "p99_ms")


def costs_and_map(
    table: Table, data: Mapping[str, Path], chosen: Mapping[str, Mapping[str, Run]], folder: Path
) -> list[Path]:
    """Write ``NAME-costs.json`` and ``.md`` (CPU, and GPU where there is one), and ``NAME-DATA-queries.svg``.

    The picture is of FIT's training on seed 1, where the table has a variant "fit".
    """
    devices = ["cpu", *(["cuda"] if torch.cuda.is_available() else [])]
    costs: dict[str, dict[str, Costs]] = {}
    written = [folder / f"{table.name}-costs.{ending}" for ending in ("json", "md")]
    for name, runs in chosen.items():
        dataset = without_text(Dataset.load(data[name]))
        costs[name] = {device: cost_sheet(runs, dataset.to(device)) for device in devices}
        if "fit" in runs:
            cell = Cell(table.name, name, data[name], "fit", seeded(runs["fit"], 1))
            if cell.drawn(folder).is_file():
                written.append(folder / f"{table.name}-{name}-queries.svg")
                write_picture(query_map(load_file(cell.drawn(folder))), written[-1])
    write_json(written[0], costs)
    with replacing_file(written[1]) as partial:
        partial.write_text(as_markdown(table.title, costs), encoding="utf-8")
    return written


def as_markdown(title: str, costs: Mapping[str, Mapping[str, Costs]]) -> str:
    """The sheet for people: a table and a curve for each data set and device."""
    lines = [f"# Costs: {title}", ""]
    for name, by_device in costs.items():
        for device, rows in by_device.items():
            first = next(iter(rows.values()))
            counts = list(first["p50_ms_by_candidates"])
            lines += [f"## {name}, {device}, {first['candidates']:,} candidates a request", ""]
            lines += _markdown(("variant", *COLUMNS), [[v, *(row[c] for c in COLUMNS)] for v, row in rows.items()])
            lines += ["Median milliseconds by number of candidates:", ""]
            curves = [[v, *(row["p50_ms_by_candidates"][c] for c in counts)] for v, row in rows.items()]
            lines += _markdown(("variant", *counts), curves)
    return "\n".join(lines)


def _markdown(head: tuple[str, ...], rows: list[list[object]]) -> list[str]:
    lines = [f"| {' | '.join(head)} |", "|---" * len(head) + "|"]
    for row in rows:
        lines.append(f"| {' | '.join(f'{value:.3f}' if isinstance(value, float) else str(value) for value in row)} |")
    return [*lines, ""]
