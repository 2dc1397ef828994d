"""The record of a tuning: one JSON line a trial, and beside it what is tuned, so that a stopped one goes on."""

from __future__ import annotations

import contextlib
import dataclasses
import hashlib
import json
import logging
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from twotower.core.errors import InputError
from twotower.core.files import read_json, replacing_file, write_json
from twotower.experiment.tuning.axes import Value

NOTE, LINES = "tuning.json", "trials.jsonl"
HASH = "hash"
STATES = ("done", "pruned", "failed", "cut")

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Trial:
    """Hold one training with values of its own, and what validation said."""

    number: int
    """From 1."""
    values: dict[str, Value]
    """By key, such as "training.batch_size"."""
    state: str
    """done; pruned (its curve lay below the others'); failed (see ``reason``); cut (by the budget, or by Ctrl-C)."""
    figure: float | None
    """The best validation figure of its epochs; None: there is none."""
    curve: dict[int, float] = field(default_factory=dict)
    """The validation figure by epoch; empty for closed forms."""
    seconds: float = 0.0
    reason: str = ""

    def to_json(self) -> dict[str, Any]:
        """Return plain values."""
        return dataclasses.asdict(self)


def best_of(trials: Sequence[Trial]) -> Trial | None:
    """Return the trial with the highest figure, the first of equals; None where no trial has one."""
    judged = [trial for trial in trials if trial.figure is not None]
    return max(judged, key=lambda trial: (trial.figure or 0.0, -trial.number), default=None)


def write_trials(folder: Path, trials: Sequence[Trial]) -> None:
    """Write all trials, each with a hash of its line; the file is replaced as a whole."""
    with replacing_file(folder / LINES) as partial:
        lines = [json.loads(json.dumps(trial.to_json(), allow_nan=False)) for trial in trials]
        text = "".join(json.dumps(line | {HASH: _hash(line)}) + "\n" for line in lines)
        partial.write_text(text, encoding="utf-8")


def _hash(line: dict[str, Any]) -> str:
    return hashlib.sha256(json.dumps(line, sort_keys=True).encode()).hexdigest()[:16]


def read_trials(folder: Path) -> list[Trial]:
    """Return the trials of a folder, in order.

    Raises:
        InputError: if a line is no trial or is not as it was written, or a number is missing.
    """
    path, found = folder / LINES, []
    if not path.is_file():
        return []
    for number, line in enumerate(path.read_text(encoding="utf-8", errors="replace").splitlines(), start=1):
        try:
            values = json.loads(line)
            if values.pop(HASH, None) not in (None, _hash(values)):  # lines of before had none
                raise ValueError
            values["curve"] = {int(epoch): float(figure) for epoch, figure in values["curve"].items()}
            trial = Trial(**values)
        except (ValueError, TypeError, KeyError, AttributeError, RecursionError):
            raise InputError(f"{path}: line {number} is no trial; remove the folder, or tune into another") from None
        if trial.number != number or trial.state not in STATES or not isinstance(trial.values, dict):
            raise InputError(f"{path}: line {number} is not trial {number}; remove the folder, or tune into another")
        found.append(trial)
    return found


def begin(folder: Path, note: dict[str, Any], *, resume: bool) -> list[Trial]:
    """Open the folder of a tuning and return the trials that are done there; a trial that was cut is done again.

    Args:
        folder: of the tuning.
        note: what is tuned, as JSON values; a tuning goes on only with the same.
        resume: go on with what is there; where nothing is, begin and say so.

    Raises:
        InputError: if the folder holds something else, another tuning, or one that nobody asked to go on with.
    """
    path = folder / NOTE
    if folder.exists() and (not folder.is_dir() or (any(folder.iterdir()) and not path.is_file())):
        raise InputError(f"{folder}: exists and holds no tuning; name another folder")
    if path.is_file() and not resume:
        raise InputError(f"{folder}: holds a tuning already; --resume goes on with it, or name another folder")
    if not path.is_file():
        if resume:
            log.warning("%s: no tuning to go on with, so it starts from nothing", folder)
        folder.mkdir(parents=True, exist_ok=True)
        write_json(path, note)
        return []
    stored = read_json(path)
    plain = json.loads(json.dumps(note))
    if not isinstance(stored, dict) or stored.keys() != plain.keys():
        raise InputError(f"{path}: no tuning of this version; name another folder")
    for key, value in plain.items():
        if stored[key] != value:
            raise InputError(
                f"{path}: the tuning that was stopped had another {key}{_difference(stored[key], value)}; repeat it, "
                "or name another folder"
            )
    return [trial for trial in read_trials(folder) if trial.state != "cut"]


def withdraw(folder: Path) -> None:
    """Undo `begin` where no trial was written since, so that the same folder serves when what was refused is mended."""
    if not (folder / LINES).exists():
        (folder / NOTE).unlink(missing_ok=True)
        with contextlib.suppress(OSError):  # not empty
            folder.rmdir()


def _difference(stored: Any, asked: Any, name: str = "") -> str:
    """The first key at which two tables differ, in brackets."""
    if isinstance(stored, dict) and isinstance(asked, dict):
        for key in sorted({*stored, *asked}):
            if stored.get(key) != asked.get(key):
                return _difference(stored.get(key), asked.get(key), f"{name}.{key}" if name else key)
    return f" ({name})" if name else ""
