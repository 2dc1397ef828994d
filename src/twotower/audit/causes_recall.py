"""Recall lost to drifted columns: the run's own test, with a catalogue degraded as the table is."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor

from twotower.audit.served_recall import METRIC, evaluate_with_features, tested_on
from twotower.core.errors import InputError
from twotower.core.records import FIRST_KNOWN, UNKNOWN, Features
from twotower.core.schema import Feature, Side
from twotower.core.seeds import torch_generator
from twotower.data.split import Targets
from twotower.diagnosis.causes.drift import beyond, is_missing, most_frequent
from twotower.evaluation.compare import compare
from twotower.serving.bundle import Bundle

MOST_USERS = 5_000
"""Users asked about, at most."""


def recall_cost(
    bundle: Bundle, side: Side, rows: Tensor, features: Features, drifted: Sequence[str], *, seed: int = 0
) -> tuple[dict[str, Any] | None, list[str]]:
    """Return recall on the test split with the bundle's features, and with its catalogue degraded as the table is.

    A row of the table that the bundle knows replaces that item's (or user's) drifted features. Every other one is given
    a random row of the table, and takes from it what is missing, unknown, out of all that training had, or the value of
    more than half of the table.

    Returns:
        ``before``, ``after`` and ``lost`` (before minus after), each a mean with a 95 % interval, and the p-value of
        the paired test; None with a note where there is nothing to measure.
    """
    columns = bundle.dataset.item_features if side == "item" else bundle.dataset.user_features
    changed = [feature for feature in bundle.schema.features(side) if feature.name in drifted]
    if not changed:
        return None, []
    degraded = {feature.name: degrade(feature, columns[feature.name], rows, features, seed) for feature in changed}
    degraded = {name: column for name, column in degraded.items() if not _same(column, columns[name])}
    if not degraded:
        return None, ["recall not measured: nothing of what drifted can be carried over to the catalogue"]
    dataset = bundle.dataset
    try:
        targets, protocol = tested_on(bundle)
    except InputError as error:
        return None, [f"recall not measured: {error}"]
    users = targets.users()
    notes = []
    if len(users) > MOST_USERS:
        chosen = users[torch.randperm(len(users), generator=torch_generator(seed, "test users"))[:MOST_USERS]]
        targets = _only(targets, chosen)
        notes.append(f"recall: of {MOST_USERS:,} random users out of {len(users):,}")
    columns = {**columns, **degraded}
    worse = replace(dataset, item_features=columns) if side == "item" else replace(dataset, user_features=columns)
    before, after = (evaluate_with_features(bundle, served, targets, protocol) for served in (dataset, worse))
    pair = compare({"before": before, "after": after}, [METRIC], seed=seed)
    lost = replace(before, per_user={METRIC: before.per_user[METRIC] - after.per_user[METRIC]}, metrics={}).intervals(
        seed=seed
    )
    found: dict[str, Any] = {
        "metric": METRIC,
        "users": pair.users,
        "features": list(degraded),
        **{row.model: {"value": row.mean, "interval": [row.low, row.high]} for row in pair.rows},
        "lost": {"value": before.metrics[METRIC] - after.metrics[METRIC], "interval": list(lost[METRIC])},
        "p_value": pair.rows[1].p_value,
    }
    return found, [*notes, _sentence(found)]


def degrade(feature: Feature, stored: Tensor, rows: Tensor, features: Features, seed: int) -> Tensor:
    """Return the bundle's column as it would be if it came by the way of the table.

    Args:
        feature: which.
        stored: its values for every row of the bundle.
        rows: of the table's rows in the bundle; 1 where it knows none.
        features: of the table.
        seed: of which row of the table meets which of the bundle.
    """
    served = features[feature.name].to(stored.device, stored.dtype)
    drawn = served[torch.randint(len(served), (len(stored),), generator=torch_generator(seed, "meets", feature.name))]
    taken = is_missing(feature, drawn)
    if not bool(is_missing(feature, served).all()):
        # a value that most rows share did not come from the rows
        value, count = most_frequent(feature, served)
        if 2 * count > len(served):
            ordered = drawn.sort(dim=1, descending=True).values if feature.is_discrete and drawn.ndim == 2 else drawn
            same = ordered == value
            taken |= same if same.ndim == 1 else same.all(dim=1)
    if feature.is_discrete:
        taken |= drawn == UNKNOWN if drawn.ndim == 1 else (drawn <= UNKNOWN).all(dim=1)
    else:
        taken |= beyond(drawn, stored[FIRST_KNOWN:])
    taken[:FIRST_KNOWN] = False
    degraded = stored.clone()
    degraded[taken] = drawn[taken]
    known = rows >= FIRST_KNOWN
    degraded[rows[known]] = served[known]
    return degraded


def _same(first: Tensor, second: Tensor) -> bool:
    return torch.equal(first.nan_to_num(), second.nan_to_num()) and torch.equal(first.isnan(), second.isnan())


def _only(targets: Targets, users: Tensor) -> Targets:
    asked = torch.zeros(len(targets.truth.offsets) - 1, dtype=torch.bool, device=users.device)
    asked[users] = True
    return targets._replace(truth=targets.truth.select(asked[targets.truth.users()]))


def _sentence(found: dict[str, Any]) -> str:
    (low, high) = found["lost"]["interval"]
    return (
        f"{METRIC} on the test split: {found['before']['value']:.4f}, and {found['after']['value']:.4f} when the "
        f"catalogue drifts alike; lost {found['lost']['value']:.4f} (95 % interval {low:.4f} to {high:.4f})"
    )
