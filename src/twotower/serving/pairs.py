"""Figures of a pre-ranker behind first stages, kept in its bundle: ``pairs.json``."""

from __future__ import annotations

from pathlib import Path
from typing import Any, NamedTuple

from twotower.core.files import read_json, write_json
from twotower.serving.bundle import Bundle, changing_bundle

FILE = "pairs.json"
EVALUATE = "twotower evaluate FIRST --then SECOND"


class Judgement(NamedTuple):
    """Hold how a pair did on test events, and how it orders."""

    candidates: int
    """Handed from the first stage to the second."""
    weight: float
    """Of the pre-ranker's score beside the first stage's: see `twotower.models.mixture.mix`."""
    metric: str
    users: int
    first: float
    """The metric of the first stage alone."""
    second: float
    """Of its candidates in the pre-ranker's own order."""
    pair: float
    """Of its candidates by both, at ``weight``: how the pair answers."""
    chosen_on: str
    """What the weight was chosen on."""

    def warning(self) -> str:
        """Return the warning that such a pair answers with; empty: all is well."""
        if self.pair < self.first:
            return (
                f"judged worse than the first stage alone: {self.metric} {self.pair:.4f} instead of {self.first:.4f} "
                f"({self.users:,} users)"
            )
        if self.weight == 0.0:
            return "adds nothing by its judgement: the first stage's order stays (weight 0)"
        return ""


def identity(bundle: Bundle) -> str:
    """Return the hash of a first stage's weights, by which it is known; an index or a smaller form leaves it as is."""
    return str(bundle.manifest["hashes"]["weights.safetensors"])


def judgement_of(first: Bundle, ranker: Bundle) -> Judgement | None:
    """Return the figures of ``ranker`` behind ``first``; None: the pair was never evaluated."""
    file = ranker.folder / FILE
    found = read_json(file).get(identity(first)) if file.is_file() else None
    return None if found is None else Judgement(**{name: found[name] for name in Judgement._fields})


def note_judgement(first: Bundle, ranker: Path, judgement: Judgement) -> None:
    """Write it into the pre-ranker's bundle, beside those of other first stages.

    Raises:
        InputError: if the folder is no bundle, or damaged.
    """
    with changing_bundle(ranker) as (copy, _):
        file = copy / FILE
        known: dict[str, Any] = read_json(file) if file.is_file() else {}
        write_json(file, known | {identity(first): {**judgement._asdict(), "model": first.manifest["model"]["name"]}})
