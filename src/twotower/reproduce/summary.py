"""Summary of raw cells as a table: means with intervals over seeds, and paired tests against the reference."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any, TypeVar

import numpy as np
from torch import Tensor

from twotower.core.files import read_json, replacing_file, write_json
from twotower.experiment.run import Run
from twotower.metrics.intervals import holm
from twotower.reproduce.study import Cell, Table, cells_of
from twotower.reproduce.users import mean_over_seeds, users_test, write_users

Value = TypeVar("Value")
ROUNDING = 1e-12
"""Differences that vary by no more than this share of the values are taken to be all the same."""


@dataclass(frozen=True)
class Figure:
    """Hold one metric of one variant over seeds.

    ``low`` and ``high`` bound the mean by Student's t over seeds (None with one seed). ``p_seeds`` is a paired t-test
    over seeds against the reference, ``p_users`` a paired permutation test over users of the mean over seeds; both
    two-sided, not corrected for the number of comparisons. ``holm_seeds`` and ``holm_users`` are the same after Holm's
    correction for all rows and shown columns of the data set's table; None for other metrics. They and ``difference``
    are None where they cannot be had: some metrics are of some models alone.
    """

    variant: str
    metric: str
    mean: float
    low: float | None
    high: float | None
    difference: float | None
    p_seeds: float | None
    p_users: float | None
    values: tuple[float, ...]
    holm_seeds: float | None = None
    holm_users: float | None = None


def summarise(
    table: Table, data: Mapping[str, Path], chosen: Mapping[str, Mapping[str, Run]], seeds: int, folder: Path
) -> dict[str, list[Figure]]:
    """Summarise every data set, variant by variant, and write ``NAME.json`` and ``NAME.md`` in ``folder``.

    ``NAME-DATA-users.npz`` beside them holds what tests over users compare: see `write_users`.
    """
    figures: dict[str, list[Figure]] = {}
    for name, variants in chosen.items():
        cells = {variant: cells_of(table, name, data[name], variant, run, seeds) for variant, run in variants.items()}
        records = {variant: [read_json(cell.path(folder)) for cell in part] for variant, part in cells.items()}
        users = {variant: mean_over_seeds(part, folder) for variant, part in cells.items()}
        base = records[reference_among(records, table.reference)]
        for part in records.values():
            for own, other in zip(part, base, strict=False):
                own["metrics"] |= table.beside(own["metrics"], other["metrics"])
        tested = _tested(users, cells, reference_among(cells, table.reference), folder)
        for view, (variant, prefix) in table.views.items():
            if variant in records and any(key.startswith(prefix) for key in records[variant][0]["metrics"]):
                records[view] = [{"metrics": _without(prefix, record["metrics"])} for record in records[variant]]
                users[view] = _users_without(prefix, users[variant])
                tested[view] = _users_without(prefix, tested[variant][0]), tested[variant][1]
        write_users(users, table.columns, folder / f"{table.name}-{name}-users.npz")
        for record in (record for part in records.values() for record in part):
            shown = {name: value for name, value in record["metrics"].items() if not _is_of_view(name, table)}
            record["metrics"] = shown
        figures[name] = corrected(_figures(_in_order(records, table), tested, table.reference), table.columns)
    write_summary(table, figures, chosen, seeds, folder)
    return figures


def write_summary(
    table: Table,
    figures: Mapping[str, Sequence[Figure]],
    chosen: Mapping[str, Mapping[str, Run]],
    seeds: int,
    folder: Path,
) -> None:
    """Write ``NAME.json`` and ``NAME.md`` in ``folder``."""
    write_json(
        folder / f"{table.name}.json",
        {
            "table": table.name,
            "seeds": seeds,
            "figures": {name: [asdict(figure) for figure in part] for name, part in figures.items()},
            "chosen": {
                name: {variant: run.to_toml() for variant, run in part.items()} for name, part in chosen.items()
            },
        },
    )
    with replacing_file(folder / f"{table.name}.md") as partial:
        partial.write_text(as_markdown(table, figures, seeds), encoding="utf-8")


def _without(prefix: str, values: Mapping[str, Value]) -> dict[str, Value]:
    return {name.removeprefix(prefix): value for name, value in values.items() if name.startswith(prefix)}


def _users_without(prefix: str, values: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """The values of a view, with the users that they are of."""
    return {name: values[name] for name in ("users",) if name in values} | _without(prefix, values)


def _is_of_view(metric: str, table: Table) -> bool:
    return any(metric.startswith(prefix) for _, prefix in table.views.values())


def _in_order(records: dict[str, list[dict[str, Any]]], table: Table) -> dict[str, list[dict[str, Any]]]:
    """Each view after the variant that it is of."""
    order = []
    for variant in records:
        if variant not in table.views:
            order += [variant, *(view for view, (of, _) in table.views.items() if of == variant and view in records)]
    return {name: records[name] for name in order}


def reference_among(variants: Iterable[str], reference: str) -> str:
    """Return the variant that others are tested against: the table's reference, or the first variant if it was not run.

    Examples:
        >>> reference_among(["cold", "fit"], "two_tower")
        'cold'
    """
    there = list(variants)
    return reference if reference in there else there[0]


Pair = tuple[Mapping[str, Tensor], Mapping[str, Tensor]]
"""Values of users of a variant and of the reference."""


def _tested(
    users: Mapping[str, Mapping[str, Tensor]], cells: Mapping[str, Sequence[Cell]], base: str, folder: Path
) -> dict[str, Pair]:
    """What a test over users compares: where every seed asks other users, the seeds alone that both have."""
    pairs: dict[str, Pair] = {}
    for variant, own in users.items():
        both = min(len(cells[variant]), len(cells[base]))
        if "users" in own and len(cells[variant]) != len(cells[base]):
            pairs[variant] = mean_over_seeds(cells[variant][:both], folder), mean_over_seeds(cells[base][:both], folder)
        else:
            pairs[variant] = own, users[base]
    return pairs


def _figures(
    records: Mapping[str, Sequence[dict[str, Any]]], users: Mapping[str, Pair], reference: str
) -> list[Figure]:
    figures = []
    base = reference_among(records, reference)
    for variant, part in records.items():
        for metric in shared_metrics(part):
            values = np.array([record["metrics"][metric] for record in part])
            # Both lists begin with seed 1, so a variant of fewer seeds is paired with the first of the reference.
            others = np.array([record["metrics"].get(metric, np.nan) for record in records[base]])
            difference = float(values.mean() - others.mean())
            pairs = min(len(values), len(others))
            low, high = t_interval(values)
            figures.append(
                Figure(
                    variant,
                    metric,
                    float(values.mean()),
                    low,
                    high,
                    difference if np.isfinite(difference) else None,
                    None if variant == base else paired_t(values[:pairs], others[:pairs]),
                    None if variant == base else users_test(*users[variant], metric),
                    tuple(values.tolist()),
                )
            )
    return figures


def shared_metrics(records: Sequence[Mapping[str, Any]]) -> list[str]:
    """Return the metrics that every training of a variant has, in order.

    Examples:
        >>> shared_metrics([{"metrics": {"auc": 0.9, "new": 1.0}}, {"metrics": {"auc": 0.8}}])
        ['auc']
    """
    return [name for name in records[0]["metrics"] if all(name in record["metrics"] for record in records)]


def corrected(figures: Sequence[Figure], columns: Sequence[str]) -> list[Figure]:
    """Return the figures with Holm's correction for all comparisons of the shown columns, each kind of test apart."""
    found: dict[str, dict[int, float]] = {"seeds": {}, "users": {}}
    for kind, values in found.items():
        plain = {at: getattr(figure, f"p_{kind}") for at, figure in enumerate(figures) if figure.metric in columns}
        tested = {at: p for at, p in plain.items() if p is not None}
        values.update(zip(tested, holm(list(tested.values())), strict=True))
    return [
        replace(figure, holm_seeds=found["seeds"].get(at), holm_users=found["users"].get(at))
        for at, figure in enumerate(figures)
    ]


def t_interval(values: np.ndarray, confidence: float = 0.95) -> tuple[float | None, float | None]:
    """Return bounds of the mean by Student's t; (None, None) with fewer than two values.

    Examples:
        >>> [round(bound, 3) for bound in t_interval(np.array([1.0, 2.0, 3.0]))]
        [-0.484, 4.484]
    """
    from scipy.stats import t

    if len(values) < 2:
        return None, None
    margin = t.ppf(0.5 + confidence / 2, len(values) - 1) * values.std(ddof=1) / len(values) ** 0.5
    return float(values.mean() - margin), float(values.mean() + margin)


def paired_t(first: np.ndarray, second: np.ndarray) -> float | None:
    """Return the two-sided p of a paired t-test.

    None with fewer than two pairs or differences that are all the same up to rounding, such as numbers of parameters.

    Examples:
        >>> paired_t(np.full(3, 71 / 70_000), np.full(3, 0.126)) is None
        True
    """
    from scipy.stats import t

    difference = first - second
    if len(difference) < 2 or not np.isfinite(difference).all():
        return None
    if difference.std(ddof=1) <= ROUNDING * max(np.abs(first).max(), np.abs(second).max()):
        return None
    statistic = difference.mean() / (difference.std(ddof=1) / len(difference) ** 0.5)
    return float(2.0 * t.sf(abs(statistic), len(difference) - 1))


def as_markdown(table: Table, figures: Mapping[str, Sequence[Figure]], seeds: int) -> str:
    """Return the table for people: one part a data set, one row a variant, mean ± half of the interval."""
    lines = [f"# {table.title}", ""]
    for name, part in figures.items():
        found = {(figure.variant, figure.metric): figure for figure in part}
        columns = [metric for metric in table.columns if any(key[1] == metric for key in found)]
        lines += [f"## {name}", "", f"| variant | {' | '.join(columns)} |", "|---" * (1 + len(columns)) + "|"]
        for variant in dict.fromkeys(figure.variant for figure in part):
            cells = [_cell(found.get((variant, metric))) for metric in columns]
            lines.append(f"| {variant} | {' | '.join(cells)} |")
        lines.append("")
    bases = {reference_among([figure.variant for figure in part], table.reference): None for part in figures.values()}
    over_seeds = f"Mean ± half of the 95 % interval over {_counts(table, seeds)} seeds (Student's t)."
    base = " or ".join(bases)
    shown = {figure.metric for part in figures.values() for figure in part} & set(table.columns)
    lines += [
        f"{over_seeds if seeds > 1 else 'One seed, so no intervals.'} Differs from {base} with p < 0.05: "
        "* over seeds (paired t-test), † over users (paired permutation of means over seeds); ** and †† after Holm's "
        "correction for all rows and columns of a data set's table, each kind of test apart."
        f"{f' RelaImpr is over {base}.' if 'relaimpr' in shown else ''}",
        "",
    ]
    if seeds < table.seeds:
        lines += [f"The table has {table.seeds} seeds; {seeds} {'was' if seeds == 1 else 'were'} run.", ""]
    for name, part in figures.items():
        lines += _missing(table, name, part)
    variants = {figure.variant for part in figures.values() for figure in part}
    for variant, note in table.notes.items():
        lines += [f"{variant}: {note}", ""] if variant in variants else []
    return "\n".join(lines)


def _missing(table: Table, name: str, figures: Sequence[Figure]) -> list[str]:
    """What a reader may take for granted and the part of one data set has not: rows, columns, and tests over users."""
    shown = dict.fromkeys(figure.variant for figure in figures)
    tested = dict.fromkeys(figure.variant for figure in figures if figure.p_users is not None)
    reference = reference_among(shown, table.reference)
    untested = [variant for variant in shown if variant not in {*tested, reference}]
    rows = [variant for variant in {**table.variants(name), **table.twins(name)} if variant not in shown]
    columns = [metric for metric in table.columns if not any(figure.metric == metric for figure in figures)]
    lines = [f"Rows of this table without a result on {name}: {', '.join(rows)}.", ""] if rows else []
    lines += [f"Columns of this table without a value on {name}: {', '.join(columns)}.", ""] if columns else []
    if tested and untested:
        lines += [
            f"No test over users on {name} of {', '.join(untested)}: values of users were not kept, of them or of "
            f"{reference}.",
            "",
        ]
    elif untested:
        lines += [f"No test over users on {name}: no values of users are kept.", ""]
    return lines


def _counts(table: Table, seeds: int) -> str:
    fewer = [
        f"{variant}: {len(table.seeds_of(variant, seeds))}" for variant, most in table.fewer.items() if most < seeds
    ]
    return f"{seeds} ({', '.join(fewer)})" if fewer else str(seeds)


def _cell(figure: Figure | None) -> str:
    if figure is None:
        return ""
    margin = "" if figure.low is None or figure.high is None else f" ± {(figure.high - figure.low) / 2:.4f}"
    tests = (("*", figure.p_seeds, figure.holm_seeds), ("†", figure.p_users, figure.holm_users))
    marks = "".join(mark * (1 + _below(whole)) for mark, plain, whole in tests if _below(plain))
    return f"{figure.mean:.4f}{margin}{marks}"


def _below(p: float | None) -> bool:
    return p is not None and p < 0.05
