"""Thresholds of the verdict: the shipped ones, replaced by those of a user's file."""

from __future__ import annotations

import tomllib
from importlib import resources
from pathlib import Path
from typing import TypeAlias

from twotower.core.errors import InputError, shown, unknown_name
from twotower.core.files import read_toml

Thresholds: TypeAlias = dict[str, dict[str, float]]
"""Numbers by reason and by name: see ``thresholds.toml``."""


def load_thresholds(path: Path | str | None = None) -> Thresholds:
    """Return the shipped thresholds, with those replaced that the TOML file ``path`` names.

    Raises:
        InputError: if the file is missing, is not TOML, names an unknown reason or number, or holds something else
            than numbers.

    Examples:
        >>> load_thresholds()["cone"]["suspect"]
        0.8
    """
    text = resources.files("twotower.diagnosis").joinpath("thresholds.toml").read_text(encoding="utf-8")
    thresholds: Thresholds = tomllib.loads(text)
    if path is None:
        return thresholds
    own = read_toml(Path(path))
    for reason, numbers in own.items():
        if reason not in thresholds:
            raise unknown_name("reason", reason, thresholds, str(path))
        if not isinstance(numbers, dict):
            raise InputError(f"{path}: {shown(reason)} must be a table of numbers, as in [{reason}]")
        for name, number in numbers.items():
            if name not in thresholds[reason]:
                raise unknown_name("threshold", name, thresholds[reason], f"{path}: [{reason}]")
            if isinstance(number, bool) or not isinstance(number, int | float):
                raise InputError(f"{path}: [{reason}] {name} must be a number, got {shown(number)}")
            thresholds[reason][name] = float(number)
    return thresholds
