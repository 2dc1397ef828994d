"""Causes in a tower's inputs: which of them change the geometry of its states, and the effect of restoring each."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor

from twotower.core.records import UNKNOWN, State
from twotower.core.schema import Feature
from twotower.core.seeds import torch_generator
from twotower.core.states import map_state, take
from twotower.diagnosis.causes.contribution import Encode, Inputs, directions_filled, variance_shares
from twotower.diagnosis.causes.drift import ColumnDrift, compare_values
from twotower.diagnosis.causes.words import reason
from twotower.diagnosis.diagnose import diagnose
from twotower.diagnosis.thresholds import Thresholds

GEOMETRY = ("mean_cosine", "effective_dimensions", "participation_ratio", "rankme")
SAMPLE = 512
"""Rows whose geometry is measured once for every change tried."""
SHARE_SAMPLE = 2_048
"""Rows whose states tell the shares of variance."""
DRIFT_SAMPLE = 50_000
"""Rows whose values are compared."""

DRIFTED = {"missing": 0.3, "constant": 0.3, "unknown": 0.3, "outside": 0.3, "narrow": 0.9, "values": 0.5}
"""How much of what was sound in training must be gone for an input to be called drifted: see `ColumnDrift.rises`."""
LEAST_GAIN = 0.1
"""Restoring all drifted inputs must fill this share more directions, or better the verdict; else none is to blame."""
LEAST_BLAME = 0.03
"""An input is to blame from this share of the gain on."""
VERDICTS = ("healthy", "suspect", "collapsed")


class Case(NamedTuple):
    """Hold a tower, what it is about to be served with, and what it was trained on."""

    inputs: Sequence[Feature]
    """What the tower reads: features; the id and the history too, where there are any."""
    now: Inputs
    training: Inputs
    encode: Encode


class Causes(NamedTuple):
    """Hold the causes that were found; ``causes`` has one entry an input, the largest effect first."""

    causes: list[dict[str, Any]]
    now: dict[str, Any]
    """Key figures of the rows about to be served (a sample when there are many)."""
    training: dict[str, Any]
    """The same of as many training rows, or as there are."""
    restored: dict[str, Any] | None
    """The same with every drifted input restored at once; None when none drifted."""
    removed: dict[str, Any] | None
    """The same with every drifted input removed at once."""


def find_causes(case: Case, *, thresholds: Thresholds | None = None, seed: int = 0) -> Causes:
    """Compare every input with its training distribution, and measure the effect of its restoring or removing.

    *Restored*: the input's column is drawn from training rows, the same row for all inputs restored together, so that
    each keeps its training distribution. *Removed*: missing in every row (for an id: unknown).

    *To blame* is an input when (1) the geometry is not healthy; (2) the input drifted, past `DRIFTED`, and moves the
    states, now or in training; (3) restoring all drifted inputs betters the verdict, or makes the states fill at least
    a tenth more directions (`directions_filled`); and (4) its blame is at least `LEAST_BLAME`: its share in the gain of
    directions, on a log scale, by the mean of what it adds when it is restored first and when it is restored last.

    Raises:
        InputError: if there are fewer than two rows or two state dimensions, or states hold NaN.
    """
    compared = [_some(inputs, DRIFT_SAMPLE, seed) for inputs in (case.now, case.training)]
    drifts = {
        feature.name: compare_values(feature, *(_values(inputs[feature.name]) for inputs in compared), seed=seed)
        for feature in case.inputs
    }
    shares = variance_shares(case.encode, _some(case.now, SHARE_SAMPLE, seed), seed=seed)
    training_shares = variance_shares(case.encode, _some(case.training, SHARE_SAMPLE, seed), seed=seed)
    moves = {name for name in drifts if shares[name] or training_shares[name]}
    drifted = [name for name, drift in drifts.items() if name in moves and is_drifted(drift)]

    now = _some(case.now, SAMPLE, seed)
    drawn = _draw(case.training, _count(now), seed)
    blank = {feature.name: removed(feature, now[feature.name]) for feature in case.inputs}

    def with_from(source: Inputs, names: Iterable[str]) -> Tensor:
        return case.encode({**now, **{name: source[name] for name in names}})

    def geometry(states: Tensor) -> dict[str, Any]:
        return key_figures(states, thresholds, seed)

    before = geometry(case.encode(now))
    restored = geometry(with_from(drawn, drifted)) if drifted else None
    blame: dict[str, float] = {}
    if restored is not None and before["verdict"] != "healthy":
        blame = _blame(
            {name: training_shares[name] or 0.0 for name in drifted},
            lambda names: directions_filled(with_from(drawn, names)),
            better=VERDICTS.index(restored["verdict"]) < VERDICTS.index(before["verdict"]),
        )
    causes: list[dict[str, Any]] = []
    for feature in case.inputs:
        name, drift = feature.name, drifts[feature.name]
        cause: dict[str, Any] = {
            "feature": name,
            "kind": feature.kind,
            "reason": "",
            "to_blame": blame.get(name, 0.0) >= LEAST_BLAME,
            "blame": blame.get(name, 0.0),
            "drifted": name in drifted,
            **drift._asdict(),
            "variance_share": shares[name],
            "training_variance_share": training_shares[name],
            "restored": geometry(with_from(drawn, [name])),
            "removed": geometry(with_from(blank, [name])),
        }
        cause["reason"] = reason(cause, drift, before, DRIFTED)
        causes.append(cause)
    causes.sort(key=lambda cause: (not cause["to_blame"], -cause["blame"], -(cause["training_variance_share"] or 0.0)))
    return Causes(
        causes,
        before,
        geometry(case.encode(_some(case.training, _count(now), seed))),
        restored,
        geometry(with_from(blank, drifted)) if drifted else None,
    )


def is_drifted(drift: ColumnDrift) -> bool:
    """Return whether a feature is no longer what it was in training."""
    return any(rise >= DRIFTED[name] for name, rise in drift.rises().items())


def key_figures(states: Tensor, thresholds: Thresholds | None = None, seed: int = 0) -> dict[str, Any]:
    """Return the verdict on these states and the figures that decide it."""
    found = diagnose(states, thresholds=thresholds, seed=seed)
    return {"verdict": found.verdict, **{name: found.statistics[name] for name in GEOMETRY}}


def removed(feature: Feature, column: State) -> State:
    """Return the column without any value: what a tower reads of a row that lacks it."""
    if feature.kind == "id":
        return torch.full_like(column, UNKNOWN)
    if feature.kind == "numeric":
        return torch.full_like(column, math.nan)
    return map_state(torch.zeros_like, column)


def _blame(carried: dict[str, float], filled: Callable[[list[str]], float], *, better: bool) -> dict[str, float]:
    """Each drifted input's share of what restoring all of them brings; empty when they bring too little.

    Where they better the verdict without filling more directions, what each carried in training decides.
    """
    names = list(carried)
    nothing, everything = math.log(filled([])), math.log(filled(names))
    if not better and everything - nothing < math.log1p(LEAST_GAIN):
        return {}
    gains = {}
    for name in names:
        first = math.log(filled([name])) - nothing
        last = everything - math.log(filled([other for other in names if other != name]))
        gains[name] = (max(0.0, first) + max(0.0, last)) / 2
    weights = gains if any(gains.values()) else carried
    total = sum(weights.values())
    return {name: weight / total for name, weight in weights.items()} if total > 0 else {}


def _values(column: State) -> Tensor:
    """What tells a column's values: the first part of one that has several."""
    return column if isinstance(column, Tensor) else column[0]


def _count(inputs: Inputs) -> int:
    return len(_values(next(iter(inputs.values()))))


def _some(inputs: Inputs, most: int, seed: int) -> Inputs:
    """All rows, or ``most`` of them at random."""
    count = _count(inputs)
    if count <= most:
        return inputs
    chosen = torch.randperm(count, generator=torch_generator(seed, "rows"))[:most].sort().values
    return {name: take(column, chosen) for name, column in inputs.items()}


def _draw(inputs: Inputs, count: int, seed: int) -> Inputs:
    """Random rows, evenly over all of them as far as they go."""
    there = _count(inputs)
    rounds = [
        torch.randperm(there, generator=torch_generator(seed, "draw", turn)) for turn in range(-(-count // there))
    ]
    chosen = torch.cat(rounds)[:count]
    return {name: take(column, chosen) for name, column in inputs.items()}
