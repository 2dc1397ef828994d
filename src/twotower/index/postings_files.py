"""Inverted lists on disk: a file for each array, mapped into memory, and a header that says their sizes."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from twotower.core.errors import InputError
from twotower.core.files import read_json, replacing_file, write_json

FORMAT = 1
HEADER = "postings.json"
ARRAYS = ("ids", "offsets", "places", "scores", "low", "step")


def write_lists(folder: Path, arrays: Mapping[str, NDArray[Any]], header: Mapping[str, Any]) -> None:
    """Write the arrays of lists and their header into ``folder``."""
    folder.mkdir(parents=True, exist_ok=True)
    for name, array in arrays.items():
        with replacing_file(folder / f"{name}.npy") as partial, partial.open("wb") as file:
            np.save(file, array)
    write_json(folder / HEADER, {"format": FORMAT, **header})


def read_lists(folder: Path) -> tuple[dict[str, NDArray[Any]], dict[str, Any]]:
    """Map what `write_lists` wrote into memory, and return the arrays and the header; pages are read at first use.

    Raises:
        InputError: if a file is missing, cut short, or is not one of these lists.
    """
    header = read_json(folder / HEADER)
    if not isinstance(header, dict) or header.get("format") != FORMAT:
        raise InputError(f"{folder / HEADER}: not the header of postings of format {FORMAT}")
    arrays = {name: _mapped(folder / f"{name}.npy") for name in ARRAYS}
    codes, items, postings = (header.get(name, -1) for name in ("codes", "items", "postings"))
    wanted = {
        "ids": (items, "int64"),
        "offsets": (codes + 1, "int64"),
        "places": (postings, "int32"),
        "scores": (postings, header.get("precision")),
        "low": (codes, "float32"),
        "step": (codes, "float32"),
    }
    for name, (size, kind) in wanted.items():
        if arrays[name].shape != (size,) or str(arrays[name].dtype) != kind:
            raise InputError(f"{folder / name}.npy: not the {name} of {HEADER}; build the postings again")
    offsets = arrays["offsets"]
    if offsets[0] != 0 or offsets[-1] != postings or (np.diff(offsets) < 0).any():
        raise InputError(f"{folder / 'offsets.npy'}: lists do not follow one another; build the postings again")
    return arrays, header


def _mapped(path: Path) -> NDArray[Any]:
    try:
        found: NDArray[Any] = np.load(path, mmap_mode="r", allow_pickle=False)
        return found
    except FileNotFoundError:
        raise InputError(f"{path}: no such file, so this folder holds no postings") from None
    except (ValueError, EOFError, OSError) as error:
        # An array of no numbers cannot be mapped, and is read whole.
        with path.open("rb") as file:
            try:
                whole: NDArray[Any] = np.load(file, allow_pickle=False)
            except (ValueError, EOFError, OSError):
                why = str(error).splitlines()[0] if str(error) else "nothing in it"
                raise InputError(f"{path}: cut short or no array ({why}); build the postings again") from None
        return whole
