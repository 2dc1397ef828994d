"""Data frames in memory to a prepared data set: a spec made in code, then the same way as for files."""

from __future__ import annotations

import logging
import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from twotower.core.errors import InputError
from twotower.core.files import read_json
from twotower.core.folders import check_replaceable
from twotower.core.manifest import write_signed
from twotower.data.frame_features import Given, Table, choose_features
from twotower.data.frame_guesses import candidates, find_column, find_id
from twotower.data.frame_notices import Notices, logger
from twotower.data.frame_reader import Frame, types_of
from twotower.data.frame_times import read_times
from twotower.data.prepare.database import database, one, parquet, quoted
from twotower.data.prepare.ids import check_digits
from twotower.data.prepare.prepare import prepare
from twotower.data.prepare.spec import Spec
from twotower.data.prepare.values import number_of, text_of

_RESERVED = ("__id", "__row", "__fault")

_FAR_MORE = 20
"""Items per user from which a notice asks whether the two columns are exchanged."""


def prepare_frames(
    folder: Path,
    events: Any,
    *,
    items: Any,
    users: Any,
    columns: Mapping[str, str | None],
    unit: str | None,
    label: str | Mapping[str, Any] | None,
    features: Given,
    name: str,
    split: str | Mapping[str, Any],
    treatment: Mapping[str, Any],
    memory_limit: str,
) -> None:
    """Write frames as a prepared data set into ``folder``; see `Dataset.from_frames`.

    Args:
        columns: what the caller says of user, item, time, value and title.
        treatment: further keys of [interactions] in a spec.
    """
    frames = {what: Frame.of(value, what) for what, value in _given(events, items, users).items()}
    notices = Notices()
    check_replaceable(folder)
    folder.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(
        dir=folder.parent, prefix=f".{folder.name}.frames.", ignore_cleanup_errors=True
    ) as made:
        work = Path(made)
        with database(work, memory_limit) as connection:
            log = _log(connection, frames["events"], work, columns, unit, label, notices)
            title = _title(frames.get("items"), columns["title"], notices)
            tables = {
                what: _table(connection, frame, work, log[what.removesuffix("s")], title, notices)
                for what, frame in frames.items()
                if what != "events"
            }
            source = parquet(work / "events")
            check_sides(connection, source, log, tables, notices)
            chosen = choose_features(connection, tables, features, notices)
        values: dict[str, Any] = {
            "name": name,
            "interactions": {"path": "events", "format": "parquet", **log, **treatment},
            "split": {"kind": split} if isinstance(split, str) else dict(split),
        }
        if label is not None:
            rule = {"column": label, "equals": 1, "keep": "all"} if isinstance(label, str) else dict(label)
            values["label"] = rule
        for what, table in tables.items():
            values[what] = {"path": what, "format": "parquet", "id": table.id, "features": chosen[what]}
            if table.title:
                values[what]["title"] = table.title
        prepare(Spec.from_dict(values, folder=work), folder, memory_limit=memory_limit)
    _note(folder, frames, notices)


def _given(events: Any, items: Any, users: Any) -> dict[str, Any]:
    return {"events": events} | {k: frame for k, frame in (("users", users), ("items", items)) if frame is not None}


def _log(
    connection: Any,
    frame: Frame,
    work: Path,
    columns: Mapping[str, str | None],
    unit: str | None,
    label: str | Mapping[str, Any] | None,
    notices: Notices,
) -> dict[str, Any]:
    """Store the events; returns user, item, time, unit and value as [interactions] of a spec wants them."""
    found = {
        role: find_column(frame, role, columns[role], required=role != "time") for role in ("user", "item", "time")
    }
    if found["user"] == found["item"]:
        raise InputError(f"events: column '{found['user']}' is given as user and as item; name two")
    if unit not in (None, "order") and not found["time"]:
        raise InputError(f"events: unit='{unit}' without a time column; say which with time='...'")
    unit_alone = {} if found["time"] or unit is None else {"unit": unit}
    if columns["value"] is not None:
        found["value"] = frame.require(columns["value"], "value")
    rule = label if isinstance(label, str) or label is None else label.get("column")
    if rule is not None:
        frame.require(rule, "label")
    used = list(dict.fromkeys(name for name in (*found.values(), rule) if name))
    types = frame.store(connection, work / "events", used, strict=used)
    for role in ("user", "item", "time"):
        if found[role] and columns[role] is None:
            notices.tell(f"events: {role} is read from column '{found[role]}'")
    if unused := [name for name in frame.columns if name not in used]:
        notices.tell(f"events: columns not used: {', '.join(unused)}")
    for role in ("user", "item"):
        _check_ids(connection, work / "events", "events", found[role], types[found[role]])
    if isinstance(label, str):
        _check_label(connection, work / "events", label, types[label])
    if found["time"]:
        zone = frame.zone(found["time"])
        found["unit"] = read_times(connection, work / "events", found["time"], unit, zone, notices)
    return {key: value for key, value in found.items() if value} | unit_alone


def _table(connection: Any, frame: Frame, work: Path, in_events: str, title: str, notices: Notices) -> Table:
    """Store a table of users or items with all its columns."""
    path, role = work / frame.what, frame.what.removesuffix("s")
    key = find_id(frame, role, in_events)
    for column in frame.columns:
        if column.lower() in _RESERVED:
            raise InputError(f"{frame.what}: column '{column}' has a name that preparing uses itself; rename it")
    if key != in_events:
        notices.tell(f"{frame.what}: ids are read from column '{key}'")
    types = frame.store(connection, path, frame.columns, strict=[key])
    _check_ids(connection, path, frame.what, key, types[key])
    return Table(frame, parquet(path), key, types, title if frame.what == "items" else "")


def _title(frame: Frame | None, given: str | None, notices: Notices) -> str:
    if frame is None:
        if given is not None:
            raise InputError(f"title='{given}' is a column of items; give items=... as a frame")
        return ""
    if given is not None:
        return frame.require(given, "title")
    found = candidates(frame, "title")
    if len(found) != 1:
        return ""
    notices.tell(f"items: titles are read from column '{found[0]}'")
    return found[0]


def _check_ids(connection: Any, path: Path, what: str, column: str, kind: str) -> None:
    """Refuse ids that are lists or records, or floats too large to have kept their last digits."""
    if kind.endswith("]") or kind.startswith(("STRUCT", "MAP")):
        raise InputError(f"{what}: ids in column '{column}' are of type {kind}; an id is a number or a text")
    check_digits(connection, parquet(path), column, kind, what, quoted)


def _check_label(connection: Any, path: Path, column: str, kind: str) -> None:
    number = number_of(column, kind, quoted)
    other = one(
        connection,
        f"SELECT min({text_of(column, kind, quoted)}) FROM {parquet(path)} "
        f"WHERE {text_of(column, kind, quoted)} IS NOT NULL AND coalesce({number} NOT IN (0, 1), true)",
    )
    if other is not None:
        raise InputError(
            f"events: label column '{column}' holds '{other}', not only 0 and 1; say which events are positives, as "
            f"label={{'column': '{column}', 'at_least': 4}}"
        )


def check_sides(
    connection: Any,
    source: str,
    log: Mapping[str, Any],
    tables: Mapping[str, Table],
    notices: Notices,
    where: str = "in the frame",
) -> None:
    """Log how many users and items there are; refuse where the tables show that the two columns are exchanged.

    Args:
        connection: to DuckDB.
        source: SQL of the events.
        log: names of their columns ``user`` and ``item``.
        tables: of users and items, as far as there are any.
        notices: hear the counts.
        where: the events are, for the sentence with the counts.

    Raises:
        InputError: if a table has none of the log's ids.
    """
    num_users, num_items, rows = connection.execute(
        f"SELECT count(DISTINCT {quoted(log['user'])}), count(DISTINCT {quoted(log['item'])}), count(*) FROM {source}"
    ).fetchall()[0]
    counts = f"{num_users:,} users, {num_items:,} items, {rows:,} events"
    many = num_items > _FAR_MORE * num_users
    doubt = f"; are user='{log['user']}' and item='{log['item']}' exchanged?" if many else ""
    notices.tell(f"{counts} {where}{doubt}", doubtful=many)
    types = types_of(connection, source)
    ids = {side: text_of(log[side], types[log[side]], quoted) for side in ("user", "item")}
    for side, other in (("user", "item"), ("item", "user")):
        if (table := tables.get(f"{side}s")) is None:
            continue
        key = text_of(table.id, table.types[table.id], quoted)
        shared = {
            column: one(
                connection,
                f"SELECT count(*) FROM (SELECT DISTINCT {ids[column]} AS id FROM {source}) "
                f"WHERE id IN (SELECT {key} FROM {table.source})",
            )
            for column in (side, other)
        }
        if not shared[side]:
            raise InputError(
                f"no id of the events' {side} column '{log[side]}' is in column '{table.id}' of {side}s"
                + (
                    f", but {shared[other]:,} ids of '{log[other]}' are: exchange user and item"
                    if shared[other]
                    else "; give both the same ids"
                )
            )


def _note(folder: Path, frames: Mapping[str, Frame], notices: Notices) -> None:
    """Add to the manifest what the frames were and what was guessed; log what preparing did."""
    manifest = read_json(folder / "manifest.json")
    for sentence in manifest["treatments"]:
        logger.log(logging.WARNING if "malformed" in sentence else logging.INFO, "%s", sentence)
    manifest["treatments"] = [*notices.said, *manifest["treatments"]]
    manifest["made_from"] = {what: frame.library for what, frame in frames.items()}
    write_signed(folder, manifest)
