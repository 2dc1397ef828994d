"""Diagnosis of a table that a bundle is about to serve: its states, and which columns cause what is wrong."""

from __future__ import annotations

import tempfile
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, NamedTuple

import torch
from torch import Tensor

from twotower.audit.causes_recall import recall_cost
from twotower.audit.chance import judge_texts
from twotower.core.errors import InputError, unknown_name
from twotower.core.records import FIRST_KNOWN, UNKNOWN, Features, Items, State, Users
from twotower.core.schema import Feature, Side
from twotower.core.seeds import torch_generator
from twotower.data.prepare.database import database
from twotower.data.prepare.encode import cells_of, prepare_table
from twotower.data.prepare.given import source_of
from twotower.data.prepare.read import relations
from twotower.data.prepare.spec import FeatureSpec
from twotower.data.prepare.vocabulary import read_columns
from twotower.diagnosis import Diagnosis, diagnose
from twotower.diagnosis.causes.causes import SAMPLE, VERDICTS, Case, Causes, find_causes, key_figures
from twotower.diagnosis.causes.contribution import Encode, Inputs
from twotower.diagnosis.report import write_report
from twotower.diagnosis.report.source import columns_of_ids
from twotower.diagnosis.thresholds import Thresholds, load_thresholds
from twotower.models.encode import TILE, inference, training_length
from twotower.serving.bundle import Bundle
from twotower.serving.neighbours import flat

TRAINING_ROWS = 50_000
"""Known rows of the bundle, at most, that a table is held against."""


class Events(NamedTuple):
    """Hold histories as a column: what users did, and when (zeros without a clock)."""

    items: Tensor
    times: Tensor


def diagnose_table(
    table: Path | str,
    bundle: Bundle | Path | str,
    *,
    side: Side = "item",
    thresholds: Thresholds | Path | str | None = None,
    seed: int = 0,
    html: Path | None = None,
) -> Diagnosis:
    """Diagnose the states that a bundle's model would give to a table of items or users, and name the causing columns.

    The table's features count, also for ids that the bundle knows; a known id brings its embedding (and a known user
    its history), any other is unknown to the model. Training rows are the bundle's known items or users, each once.

    `Diagnosis.causes` has one entry an input, the most to blame first (`find_causes`); `Diagnosis.serving` tells which
    tower is at fault, and how much recall on the run's own test split is lost when the catalogue drifts as the table
    did.

    Args:
        table: CSV, TSV, JSON lines or Parquet, with the columns of the raw table that the bundle was trained on.
        bundle: or its folder.
        side: what the rows of the table are, "item" or "user".
        thresholds: as in `diagnose`.
        seed: of samples and draws.
        html: write the report to this file, coloured by the columns of the table.

    Raises:
        InputError: if the bundle or the table cannot be read, they do not fit together, the model reads no such
            features, or there are fewer than two rows.
    """
    if side not in ("item", "user"):
        raise unknown_name("side", side, ("item", "user"))
    table = Path(table)
    if table.is_dir():
        raise InputError(
            f"{table}: a folder; beside a bundle, give a table of {side}s: CSV, TSV, JSON lines or Parquet"
        )
    bundle = bundle if isinstance(bundle, Bundle) else Bundle.load(bundle)
    limits = thresholds if isinstance(thresholds, dict) else load_thresholds(thresholds)
    if side == "item" and not bundle.schema.item_features:
        raise InputError(f"{bundle.folder}: its items have no features, so no table can tell which is to blame")
    notes = _columns(table, bundle, side)
    ids, features = prepare_table(table, bundle.schema, bundle.folder / "vocabulary", side)
    if len(ids) < 2:
        raise InputError(f"{table}: 1 row; a geometry needs at least two")
    known = (bundle.item_vocabulary if side == "item" else bundle.user_vocabulary).known(ids)
    rows = torch.tensor([known.get(id, UNKNOWN) for id in ids], device=bundle.device)

    with inference(bundle.model):
        case = Case(
            _inputs(bundle, side),
            _columns_of(bundle, side, rows, {name: column.to(bundle.device) for name, column in features.items()}),
            _known(bundle, side, TRAINING_ROWS, seed),
            _encoder(bundle, side),
        )
        states = case.encode(case.now)
        _check_model(bundle, side, case, states)
        training = case.encode(case.training) if side == "item" else states[:0]
        found = diagnose(states, ids=ids, thresholds=limits, seed=seed)
        causes = find_causes(case, thresholds=limits, seed=seed)
        other = _other_side(bundle, side, limits, seed)
    drifted = [cause["feature"] for cause in causes.causes if cause["drifted"]]
    texts: dict[str, Any] | None = None
    if side == "item":
        known_rows = case.training[case.inputs[0].name]
        assert isinstance(known_rows, Tensor)
        texts, chance = judge_texts(
            table,
            bundle,
            states=states,
            training=training,
            training_rows=known_rows,
            drifted=drifted,
            thresholds=limits,
            seed=seed,
        )
        if chance is not None:
            verdict = "suspect" if found.verdict == "healthy" else found.verdict
            found = replace(found, verdict=verdict, reasons=[*found.reasons, chance])
    recall, why = recall_cost(bundle, side, rows, features, drifted, seed=seed)
    serving = {
        "side": side,
        "rows": len(ids),
        "known_rows": int((rows != UNKNOWN).sum()),
        "to_blame": [cause["feature"] for cause in causes.causes if cause["to_blame"]],
        "drifted": drifted,
        "restored": causes.restored,
        "removed": causes.removed,
        **_towers(side, found.verdict, causes, other),
        "recall": recall,
        "texts": texts,
    }
    notes += [_tower_note(serving), *why, *_id_note(causes, case.inputs[0].name)]
    found = replace(found, causes=causes.causes, serving=serving, notes=[*found.notes, *notes])
    if html is not None:
        columns = columns_of_ids(table, ids)
        write_report(html, found, states, ids=ids, columns=columns, title=f"{table.name}, {side} states", seed=seed)
    return found


def _columns(table: Path, bundle: Bundle, side: Side) -> list[str]:
    """What to tell of the table's columns: those missing, and those that nobody reads.

    Raises:
        InputError: if none of the columns that the bundle reads is there.
    """
    features = bundle.schema.features(side)
    with tempfile.TemporaryDirectory(prefix="twotower-") as name, database(Path(name)) as connection:
        stored = read_columns(connection, bundle.folder / "vocabulary", side)
        source = source_of(connection, table, bundle.folder / "vocabulary", side, Path(name))
        types = next(relations(connection, source, Path(), Path(name))).types
    read = {stored.id if stored.id in types else "id"}
    absent = []
    for feature in features:
        spec = stored.features.get(feature.name, FeatureSpec(feature.name, feature.kind))
        if cells_of(spec, types) is None:
            absent.append(feature.name)
        read |= set(spec.columns or (spec.column if spec.column in types else spec.name,))
    if features and len(absent) == len(features):
        raise InputError(
            f"{table}: has none of the columns that {bundle.folder} reads ({', '.join(absent)}); is it another's table?"
        )
    ignored = [column for column in types if column not in read]
    return [
        *([f"no column for {', '.join(absent)}: missing in every row"] if absent else []),
        *([f"columns that the bundle does not read: {', '.join(ignored)}"] if ignored else []),
    ]


def _inputs(bundle: Bundle, side: Side) -> tuple[Feature, ...]:
    """What one tower reads: the id first, then the features; a user's history last."""
    features = bundle.schema.features(side)
    count = bundle.schema.num_items if side == "item" else bundle.schema.num_users
    taken = {feature.name for feature in features}
    id = Feature("id" if "id" not in taken else "row id", "id", count)
    if side == "item":
        return (id, *features)
    name = "history" if "history" not in taken else "events"
    return (id, *features, Feature(name, "multi_categorical", bundle.schema.num_items, width=_length(bundle)))


def _length(bundle: Bundle) -> int:
    """Events of a history that the user tower is given."""
    longest = int(bundle.positives.lengths.max()) if bundle.positives.num_events else 1
    return max(1, min(training_length(bundle.model), longest))


def _columns_of(bundle: Bundle, side: Side, rows: Tensor, features: Features) -> Inputs:
    """The inputs of rows: ids, these features, and for users the histories that the bundle keeps."""
    names = [feature.name for feature in _inputs(bundle, side)]
    columns: Inputs = {names[0]: rows, **features}
    if side == "user":
        width = _length(bundle)
        users = bundle.users(rows)
        history = _wide(users.history, width)
        times = torch.zeros_like(history) if users.history_times is None else _wide(users.history_times, width)
        columns[names[-1]] = Events(history, times)
    return columns


def _wide(values: Tensor, width: int) -> Tensor:
    return torch.nn.functional.pad(values, (0, max(0, width - values.shape[1])))[:, :width]


def _known(bundle: Bundle, side: Side, most: int, seed: int) -> Inputs:
    """The inputs of the bundle's known rows, or of ``most`` of them at random."""
    total = bundle.schema.num_items if side == "item" else bundle.schema.num_users
    rows = torch.randperm(total - FIRST_KNOWN, generator=torch_generator(seed, "training rows"))[:most] + FIRST_KNOWN
    rows = rows.sort().values.to(bundle.device)
    stored = bundle.dataset.item_features if side == "item" else bundle.dataset.user_features
    return _columns_of(bundle, side, rows, {name: column[rows] for name, column in stored.items()})


def _encoder(bundle: Bundle, side: Side) -> Encode:
    """One tower as a function of its inputs, in tiles."""
    inputs = _inputs(bundle, side)
    features = [feature.name for feature in bundle.schema.features(side)]

    def tile(columns: Inputs) -> Tensor:
        ids, values = columns[inputs[0].name], {name: columns[name] for name in features}
        if side == "item":
            return flat(bundle.model.encode_items(Items(ids, values))).cpu()
        items, times = columns[inputs[-1].name]
        timed = bundle.schema.has_times and bundle.dataset.log.times is not None
        states = bundle.model.encode_users(Users(ids, values, items, times if timed else None))
        if isinstance(states, Tensor) and states.ndim == 4:  # a user once for every query: on their average
            states = states.mean(dim=1)
        return flat(states).cpu()

    def encode(columns: Inputs) -> Tensor:
        count = len(columns[inputs[0].name])
        parts = [slice(start, start + TILE) for start in range(0, count, TILE)]
        return torch.cat([tile({name: _cut(column, part) for name, column in columns.items()}) for part in parts])

    return encode


def _cut(column: State, part: slice) -> State:
    return column[part] if isinstance(column, Tensor) else Events(*(piece[part] for piece in column))


def _check_model(bundle: Bundle, side: Side, case: Case, states: Tensor) -> None:
    """Refuse a model whose states no feature can move."""
    name = bundle.manifest["model"]["name"]
    if states.shape[1] < 2:
        raise InputError(f"{bundle.folder}: '{name}' has no {side} vectors, so there is no geometry to judge")
    read = [feature.name for feature in case.inputs[1:]]
    if not any(_moves(case.encode, case.training, name) for name in read):
        raise InputError(f"{bundle.folder}: '{name}' reads no {side} features, so none of the table's can be to blame")


def _moves(encode: Encode, columns: Inputs, name: str) -> bool:
    few = {other: _cut(column, slice(0, SAMPLE)) for other, column in columns.items()}
    column = few[name]
    turned = column.roll(1, 0) if isinstance(column, Tensor) else Events(*(part.roll(1, 0) for part in column))
    return not torch.equal(encode(few), encode({**few, name: turned}))


def _other_side(bundle: Bundle, side: Side, limits: Thresholds, seed: int) -> dict[str, Any] | None:
    """Key figures of the other tower on the rows that the bundle knows; None when it has nothing to read."""
    other: Side = "user" if side == "item" else "item"
    if other == "user" and not bundle.dataset.log.num_events:
        return None
    columns = _known(bundle, other, SAMPLE, seed)
    if len(columns[_inputs(bundle, other)[0].name]) < 2:
        return None
    return key_figures(_encoder(bundle, other)(columns), limits, seed)


def _towers(side: Side, verdict: str, causes: Causes, other: dict[str, Any] | None) -> dict[str, Any]:
    """The geometry of both towers, and which is at fault: the table's when its states are not healthy, and the other
    one too when it is as bad.
    """
    far: Side = "user" if side == "item" else "item"
    at_fault: str | None = side if verdict != "healthy" else None
    if at_fault is not None and other is not None and VERDICTS.index(other["verdict"]) >= VERDICTS.index(verdict):
        at_fault = "both"
    return {
        "towers": {side: {"now": causes.now, "training": causes.training}, far: {"now": other, "training": other}},
        "at_fault": at_fault,
    }


def _tower_note(serving: dict[str, Any]) -> str:
    side = serving["side"]
    far = "user" if side == "item" else "item"
    here, there = serving["towers"][side], serving["towers"][far]["now"]
    fault = {None: "neither tower is at fault", "both": "both towers are at fault"}.get(
        serving["at_fault"], f"the {serving['at_fault']} tower is at fault"
    )
    rest = "not checked, as the bundle keeps no histories" if there is None else there["verdict"]
    return (
        f"{fault} for this table: its {side} states are {here['now']['verdict']} and those of training rows "
        f"{here['training']['verdict']}; {far} states are {rest}"
    )


def _id_note(causes: Causes, id_name: str) -> Sequence[str]:
    """A warning where known ids hide what new rows would get."""
    id = next(cause for cause in causes.causes if cause["feature"] == id_name)
    gone = [cause["feature"] for cause in causes.causes if cause["drifted"] and cause["feature"] != id_name]
    if causes.now["verdict"] == "healthy" and gone and id["removed"]["verdict"] != "healthy":
        return [
            f"healthy by the ids alone: rows that the catalogue does not know would be {id['removed']['verdict']} "
            f"({', '.join(gone)} drifted)"
        ]
    return []
