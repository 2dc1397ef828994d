"""Cells of a raw table to the arrays that a tower reads, by the tables of an export: no SQL, no PyTorch."""

from __future__ import annotations

import json
import math
import re
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from twotower.data.prepare.text import words
from twotower.data.prepare.values import LIST_OF_ANY, PART, TUPLE_IN_TEXT, plain_text

_WHOLE = re.compile(r"(-?(?:0|[1-9][0-9]*))(?:\.0+)?")
_LISTED = re.compile(f"({LIST_OF_ANY})|({TUPLE_IN_TEXT})")
_BRACKETS = re.compile(r"\s*[\[(][^\[\]()]*[\])]\s*")

plain_id = plain_text


class Reader:
    """Read one feature, as the data of the training were read.

    Args:
        folder: of the export.
        side: "user" or "item".
        feature: what the manifest says of it.
    """

    def __init__(self, folder: Path, side: str, feature: Mapping[str, Any]) -> None:
        self.columns: list[str] = list(feature["columns"])
        self._joined = bool(feature["joined"])
        self._kind, self._size, self._width = feature["kind"], feature["size"], feature["width"]
        self._separator, self._form = feature["separator"], feature["form"]
        self._rows: dict[str, int] = {}
        if feature["table"]:
            self._rows = json.loads((folder / f"{side}.{feature['table']}.json").read_text(encoding="utf-8"))

    def read(self, columns: Mapping[str, Sequence[Any]], rows: int) -> NDArray[Any]:
        """Return the feature of each row; a cell that is missing is 0, NaN or zeros."""
        cells = self._cells(columns, rows)
        if self._kind == "numeric":
            return np.array([_number(cell) for cell in cells], np.float32)
        if self._kind == "vector":
            return np.array([self._vector(cell) for cell in cells], np.float32).reshape(rows, self._size)
        split: Callable[[Any], list[str]] = {"multi_categorical": self._parts, "text": _words}.get(
            self._kind, self._one
        )
        found = np.zeros((rows, self._width if self._kind in ("multi_categorical", "text") else 1), np.int64)
        for at, cell in enumerate(cells):
            values = [self._rows.get(value, 1) for value in split(cell)][: found.shape[1]]
            found[at, : len(values)] = values
        return found if self._kind in ("multi_categorical", "text") else found[:, 0]

    def _cells(self, columns: Mapping[str, Sequence[Any]], rows: int) -> list[Any]:
        if self._joined:  # a vector of several columns of numbers
            parts = [columns.get(name, [None] * rows) for name in self.columns]
            return [list(row) for row in zip(*parts, strict=True)]
        name = next((name for name in self.columns if name in columns), None)
        return [None] * rows if name is None else list(columns[name])

    def _one(self, cell: Any) -> list[str]:
        return [] if _is_missing(cell) else [self._canonical(plain_text(cell))]

    def _parts(self, cell: Any) -> list[str]:
        if _is_missing(cell):
            return []
        if isinstance(cell, str) and _LISTED.fullmatch(cell):
            parts = _parts_of(cell)
        elif isinstance(cell, str):
            parts = cell.split(self._separator or "|")
        else:
            parts = [plain_text(part) for part in _several(cell)]
        return [self._canonical(part.strip(" ")) for part in parts if part.strip(" ")]

    def _vector(self, cell: Any) -> list[float]:
        if _is_missing(cell):
            return [0.0] * self._size
        if isinstance(cell, str):
            separator = self._separator or " "
            if separator == " " and _BRACKETS.fullmatch(cell):
                cell = re.sub(r"[,\s]+", " ", cell)
            cell = [part.strip("[]() ") for part in cell.split(separator)]
        numbers = [_number(part) for part in _several(cell) if part != ""]
        fits = len(numbers) == self._size and all(map(math.isfinite, numbers))
        return numbers if fits else [0.0] * self._size

    def _canonical(self, text: str) -> str:
        if self._form == "numbers" and (whole := _WHOLE.fullmatch(text)):
            return whole[1]
        return text.lower() if self._form == "booleans" and text.lower() in ("true", "false") else text


def _words(cell: Any) -> list[str]:
    return [] if _is_missing(cell) else words(plain_text(cell))


def _parts_of(text: str) -> list[str]:
    """The parts of a list in text, as `twotower.data.prepare.values.words_of` takes it apart."""
    if "nan" not in text.lower():
        try:
            return [
                part if isinstance(part, str) else plain_text(part) for part in json.loads(text) if part is not None
            ]
        except ValueError:
            pass
    found = [match[0] for match in re.finditer(PART, text)]
    known = [part for part in found if part not in ("None", "null", "nan", "NaN")]
    return [re.sub(r"\\(.)", r"\1", part[1:-1]) if part[0] in "'\"" else part for part in known]


def _several(cell: Any) -> list[Any]:
    return cell.tolist() if isinstance(cell, np.ndarray) else list(cell) if isinstance(cell, list | tuple) else [cell]


def _is_missing(cell: Any) -> bool:
    return cell is None or (isinstance(cell, str) and not cell) or (isinstance(cell, float) and math.isnan(cell))


def _number(cell: Any) -> float:
    """A finite number, or NaN; true and false are 1 and 0."""
    if isinstance(cell, str):
        text = cell.strip()
        cell = {"true": 1, "false": 0}.get(text.lower(), text)
    try:
        number = float(np.float32(float(cell)))
    except (TypeError, ValueError, OverflowError):
        return math.nan
    return number if math.isfinite(number) else math.nan
