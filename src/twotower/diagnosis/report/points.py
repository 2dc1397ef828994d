"""Data of a report's map: places, names, columns to colour by, neighbours. Plain values, small."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from twotower.core.seeds import torch_generator
from twotower.diagnosis.projections import Projection
from twotower.diagnosis.vectors import UnitRows, Vectors
from twotower.ops.cosines import nearest

MAP_POINTS = 2_000
"""Most points on the map; more vectors are sampled, so that the file stays small and t-SNE fast."""
NEIGHBOURS = 10
CATEGORIES = 12
"""Values of a column with a mark of their own: six colours in two shapes. The rarer ones share another."""
NAME_LENGTH = 100
_STEPS = 4_000
"""Places are whole numbers up to this size on each side of 0: finer than a screen."""


def choose_rows(count: int, seed: int) -> Tensor:
    """Return the rows on the map, in order: all, or `MAP_POINTS` at random."""
    if count <= MAP_POINTS:
        return torch.arange(count)
    return torch.randperm(count, generator=torch_generator(seed, "map"))[:MAP_POINTS].sort().values


def view(projection: Projection) -> dict[str, Any]:
    """Return a projection as whole numbers about its middle."""
    return {
        "name": projection.name,
        "note": projection.note,
        "flat": _places(projection.flat),
        "deep": _places(projection.deep),
    }


def _places(points: Tensor) -> list[list[int]]:
    middle = (points.amax(0) + points.amin(0)) / 2
    moved = points - middle
    reach = moved.abs().max().item() or 1.0
    return (moved * (_STEPS / reach)).round().long().tolist()


def neighbours_of(rows: Vectors, chosen: Tensor) -> tuple[list[list[int]], list[list[float]]]:
    """Return for each chosen row its nearest rows among all, best first, with their cosines.

    None for a zero vector.
    """
    unit = UnitRows(rows)
    place = torch.full((rows.count,), -1, dtype=torch.int64)
    place[unit.kept] = torch.arange(len(unit.kept))
    asked = place[chosen]
    there = asked >= 0
    k = min(NEIGHBOURS, len(unit.kept) - 1)
    found: list[list[int]] = [[] for _ in chosen]
    cosines: list[list[float]] = [[] for _ in chosen]
    if k < 1:
        return found, cosines
    # about the mean float32 keeps the order inside a narrow cone; the cosines themselves are taken in float64
    mean = torch.stack([chunk.sum(0) for chunk in unit.chunks()]).sum(0) / len(unit.kept)
    queries = unit.take(asked[there])
    _, where = nearest(queries.float(), ((chunk - mean).float() for chunk in unit.chunks()), k, skip=asked[there])
    for at, query, near in zip(there.nonzero()[:, 0].tolist(), queries, where, strict=True):
        values = (unit.take(near) @ query).clamp(-1.0, 1.0)
        order = values.argsort(descending=True, stable=True)
        found[at] = unit.kept[near[order]].tolist()
        cosines[at] = [round(value, 5) for value in values[order].tolist()]
    return found, cosines


def colouring(name: str, values: Sequence[Any]) -> dict[str, Any]:
    """Return a column to colour by: numbers by rank when there are many different ones, categories otherwise."""
    known = [None if _missing(value) else value for value in values]
    different = {value for value in known if value is not None and not isinstance(value, list | dict)}
    if len(different) > CATEGORIES and all(
        isinstance(value, int | float) and not isinstance(value, bool) for value in known if value is not None
    ):
        return _numbers(name, [None if value is None else float(value) for value in known])
    return _categories(name, known)


def _numbers(name: str, values: list[float | None]) -> dict[str, Any]:
    ordered = sorted({value for value in values if value is not None})
    shade = {value: round(100 * place / (len(ordered) - 1)) for place, value in enumerate(ordered)}
    marks = [ordered[0], ordered[len(ordered) // 2], ordered[-1]]
    return {
        "name": name,
        "kind": "number",
        "values": [None if value is None else float(f"{value:.5g}") for value in values],
        "shades": [-1 if value is None else shade[value] for value in values],
        "marks": [float(f"{value:.5g}") for value in marks],
    }


def _categories(name: str, values: list[Any]) -> dict[str, Any]:
    words = [None if value is None else shorten(_word(value)) for value in values]
    counts = Counter(word for word in words if word is not None)
    # Counter keeps the order of arrival among equals, so the same table gives the same legend
    top = [word for word, _ in counts.most_common(CATEGORIES)]
    if all(isinstance(value, int | float) and not isinstance(value, bool) for value in values if value is not None):
        top.sort(key=float)
    code = {word: place for place, word in enumerate(top)}
    return {
        "name": name,
        "kind": "category",
        "labels": top,
        "counts": [counts[word] for word in top],
        "others": len(counts) - len(top),
        "codes": [-1 if word is None else code.get(word, len(top)) for word in words],
    }


def groups(column: dict[str, Any]) -> bool:
    """Return whether the colours of a column distinguish rows.

    Numbers do, or values when half of the rows have a mark.
    """
    known = sum(code >= 0 for code in column["codes"]) if column["kind"] == "category" else 0
    return column["kind"] == "number" or 0 < known <= 2 * sum(column["counts"])


def _missing(value: Any) -> bool:
    return value is None or value == "" or (isinstance(value, float) and not math.isfinite(value))


def _word(value: Any) -> str:
    if isinstance(value, list | tuple):
        return ", ".join(map(str, value))
    return str(value)


def shorten(text: str) -> str:
    """Return a name that fits: one line, at most `NAME_LENGTH` characters."""
    text = " ".join(text.split())
    return text if len(text) <= NAME_LENGTH else text[: NAME_LENGTH - 1] + "…"
