"""Recall on a bundle's own test split, were its catalogue served as a table is."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Any, NamedTuple

from torch import Tensor

from twotower.audit.served_recall import METRIC, evaluate_with_features, tested_on
from twotower.core.errors import InputError
from twotower.core.records import FIRST_KNOWN
from twotower.evaluation.compare import compare
from twotower.serving.bundle import Bundle


class Served(NamedTuple):
    """Hold values of item features in place of those of training: one for all known items, or one a known item."""

    values: dict[str, Tensor]


def recall_of(
    source: Bundle, cases: Sequence[tuple[str, Bundle, Served]], notes: list[str], seed: int
) -> dict[str, Any] | None:
    """Return mean, 95 % interval over users and p-value against "before" of each case, by name.

    Args:
        source: whose events and run say what is to be found.
        cases: a name, the bundle that answers, and what it is served with; the users are the same.
        notes: gets a line when nothing can be measured.
        seed: of intervals and tests.
    """
    try:
        targets, protocol = tested_on(source)
    except InputError as error:
        notes.append(f"recall not measured: {error}")
        return None
    results = {}
    for name, bundle, served in cases:
        columns = dict(bundle.dataset.item_features)
        for feature, value in served.values.items():
            columns[feature] = columns[feature].clone()
            columns[feature][FIRST_KNOWN:] = value
        results[name] = evaluate_with_features(
            bundle, replace(bundle.dataset, item_features=columns), targets, protocol
        )
    compared = compare(results, [METRIC], reference="before", seed=seed)
    found: dict[str, Any] = {"metric": METRIC, "users": compared.users}
    for row in compared.rows:
        found[row.model] = {"value": row.mean, "interval": [row.low, row.high], "p_value": row.p_value}
    return found
