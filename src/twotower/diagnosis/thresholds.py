"""Thresholds of the verdict: the shipped ones, replaced by those of a user's file."""

from __future__ import annotations

import tomllib
from importlib import resources
from pathlib import Path
from typing import TypeAlias

from twotower.core.errors import InputError, unknown_name

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
    try:
        own = tomllib.loads(Path(path).read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise InputError(f"{path}: no such file") from None
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise InputError(f"{path}: not valid TOML ({error})") from None
    for reason, numbers in own.items():
        if reason not in thresholds:
            raise unknown_name("reason", reason, thresholds, str(path))
        if not isinstance(numbers, dict):
            raise InputError(f"{path}: '{reason}' must be a table of numbers, as in [{reason}]")
        for name, number in numbers.items():
            if name not in thresholds[reason]:
                raise unknown_name("threshold", name, thresholds[reason], f"{path}: [{reason}]")
            if isinstance(number, bool) or not isinstance(number, int | float):
                raise InputError(f"{path}: [{reason}] {name} must be a number, got {number!r}")
            thresholds[reason][name] = float(number)
    return thresholds
