"""Raw tables to a prepared folder of arrays, vocabularies and a manifest, in memory that does not grow with the log."""

from __future__ import annotations

import tempfile
from pathlib import Path
from typing import Any

from twotower.core.engines.base import Engine
from twotower.core.errors import InputError, shown
from twotower.core.files import read_json
from twotower.core.folders import replacing_folder
from twotower.core.records import FIRST_KNOWN
from twotower.core.schema import Schema, Side
from twotower.core.version import __version__
from twotower.data.folder import finish_folder
from twotower.data.prepare.arrays import equal_seconds
from twotower.data.prepare.database import database, one
from twotower.data.prepare.here import Here
from twotower.data.prepare.log import LogReport, Progress, read_log
from twotower.data.prepare.missing_words import tell_missing_words
from twotower.data.prepare.nested_ids import tell_nested_ids
from twotower.data.prepare.spec import Spec
from twotower.data.prepare.spread import Shared, Spread, is_by_user, read_shared
from twotower.data.prepare.tables import TableReport, drop_repeats, read_table, write_table
from twotower.data.prepare.values import unify
from twotower.data.prepare.vocabulary import write_columns
from twotower.data.repeats import figures


def prepare(
    spec: Spec | Path | str,
    target: Path | str,
    *,
    memory_limit: str = "1GB",
    engine: Engine | None = None,
    progress: Progress | None = None,
) -> Path:
    """Prepare a data set: read the raw files of ``spec`` and write the folder ``target`` in one go.

    Users are those with a kept event; items are those with a kept event and, as cold items, those that the table of
    items lists and the log never had. Both are numbered in the order of their ids as text, so a row number tells
    nothing of popularity or age. A stop or failure at any moment leaves no folder, and one of before as it was.

    Args:
        spec: the spec, or the path of its TOML.
        target: the folder to write; one that `prepare` wrote before is replaced.
        memory_limit: of DuckDB, as 500MB or 2GB, here and in each worker; beyond it, work spills to disk, here beside
            ``target``.
        engine: reads the files of the log, each as a part, and then treats users in parts by a hash of their ids;
            None: this process. Its workers read the files, and write parts beside ``target``, by the same paths as this
            process. Tables, the numbers of users and items and the merge are done here.
        progress: is told in a few words what is being done.

    Returns:
        ``target``.

    Raises:
        InputError: if the spec or the data cannot be used; says what, where and what to do. Or if ``target`` holds
            something other than a prepared data set, or lies inside a bundle.
        ConnectionError: if the engine or an address cannot be reached.
        OSError: if the disk is full.
    """
    spec = spec if isinstance(spec, Spec) else Spec.from_toml(spec)
    target = Path(target)
    tell = progress or (lambda text: None)
    with (
        replacing_folder(target, kind="prepared-data", what="a prepared data set") as folder,
        tempfile.TemporaryDirectory(
            dir=folder.parent, prefix=f".{target.name}.work.", ignore_cleanup_errors=True
        ) as work,
        database(Path(work), memory_limit) as connection,
    ):
        shared = None if engine is None else Shared(engine, memory_limit)
        _prepare(connection, spec, folder, Path(work), tell, shared)
    return target


def _prepare(connection: Any, spec: Spec, folder: Path, work: Path, progress: Progress, shared: Shared | None) -> None:
    tables = {"user": spec.users, "item": spec.items}
    types: dict[str, dict[str, str]] = {"user": {}, "item": {}}
    reports = {"user": TableReport(), "item": TableReport()}
    sides: tuple[Side, Side] = ("user", "item")
    for side in sides:
        if (table := tables[side]) is not None:
            progress(f"reading the table of {side}s")
            share = spec.interactions.max_bad_share
            types[side], reports[side] = read_table(connection, side, table, spec.folder, work, share)
    events = _events(connection, spec, work, progress, shared)
    log = events.report
    forms: dict[Side, dict[str, str]] = {"user": {}, "item": {}}
    for side in sides:
        listed = [(f"{side}_table", "__id")] if tables[side] is not None else []
        here, elsewhere = events.ids(side)
        forms[side][""] = unify(connection, [*here, *listed], elsewhere)
        if listed:
            drop_repeats(connection, side, reports[side])
    num = events.number({side: forms[side][""] for side in sides})
    for side in sides:
        if num[side] - FIRST_KNOWN < 2:
            raise InputError(f"the log has a single {side} after all treatments; a model needs at least two")
    counts = {
        "users": num["user"] - FIRST_KNOWN,
        "items": num["item"] - FIRST_KNOWN,
        "events": log.events,
        "cold_items": one(connection, "SELECT count(*) FROM items WHERE code IS NULL"),
        **{f"{side}s_without_row": _without_row(connection, side) for side in sides if tables[side] is not None},
    }
    if spec.users is not None:
        unused = "SELECT count(*) FROM user_table WHERE __id NOT IN (SELECT id FROM users)"
        counts["listed_users_without_events"] = one(connection, unused)
    events.write(folder / "log", num["user"])
    (folder / "vocabulary").mkdir()
    features = {
        side: write_table(
            connection, side, tables[side], types[side], folder, num[side], reports[side], progress, forms[side]
        )
        for side in sides
    }
    write_columns(connection, {side: tables[side] for side in sides}, forms, folder / "vocabulary")
    clock = bool(spec.interactions.time) and spec.interactions.unit != "order"
    schema = Schema(num["user"], num["item"], features["user"], features["item"], has_times=clock)
    progress("hashing")
    manifest = {
        "name": spec.name,
        "counts": counts,
        "rows": _rows(log, reports),
        "treatments": _treatments(spec, log, reports, counts, equal_seconds(folder / "log") if clock else 0)
        + tell_nested_ids(connection, features)
        + tell_missing_words(connection, features, folder / "vocabulary"),
        "split": spec.split,
        "ordered": not spec.interactions.is_unordered,
        "spec": spec.to_dict(),
        "made_by": {"twotower": __version__, "duckdb": one(connection, "SELECT version()")},
    }
    if source := _source(spec.folder):
        manifest["source"] = source
    finish_folder(folder, schema, manifest)


def _events(connection: Any, spec: Spec, work: Path, progress: Progress, shared: Shared | None) -> Here | Spread:
    """Read the log, here or by an engine."""
    if shared is None:
        return Here(connection, spec, read_log(connection, spec, work, progress), progress)
    report, notes = read_shared(connection, spec, work, progress, shared)
    if is_by_user(spec):
        return Spread(connection, spec, report, progress, notes=notes, work=work, shared=shared)
    return Here(connection, spec, report, progress)


def _source(folder: Path) -> dict[str, str]:
    """What ``twotower data get`` noted of a public data set beside its spec: name, home, licence, citation."""
    if not all((folder / name).is_file() for name in ("source.json", "spec.toml")):
        return {}
    found = read_json(folder / "source.json")
    names = ("name", "home", "licence", "citation")
    return {name: str(found[name]) for name in names if found.get(name)} if isinstance(found, dict) else {}


def _without_row(connection: Any, side: str) -> Any:
    return one(connection, f"SELECT count(*) FROM {side}s WHERE id NOT IN (SELECT __id FROM {side}_table)")


def _rows(log: LogReport, tables: dict[str, TableReport]) -> dict[str, Any]:
    """What became of the raw rows, as numbers."""
    return {
        "log": {
            "read": log.faults.rows,
            "malformed": log.faults.malformed,
            "lines": log.faults.count(),
            "first_malformed": log.faults.first,
            "negative": log.negatives,
            "negative_dropped": log.negatives_dropped,
            "repeated": log.repeats,
            "repeated_dropped": log.repeats_dropped,
            "too_few_dropped": log.core_dropped,
            "kept": log.events,
        },
        **{
            f"{side}s": {
                "read": report.faults.rows,
                "malformed": report.faults.malformed,
                "lines": report.faults.count(),
                "first_malformed": report.faults.first,
                "repeated": report.repeats,
            }
            for side, report in tables.items()
            if report.faults.rows
        },
    }


def _treatments(
    spec: Spec, log: LogReport, tables: dict[str, TableReport], counts: dict[str, int], equal: int
) -> list[str]:
    """One sentence for each thing that was done to the data and that a reader should know."""
    said: list[str] = []
    if log.faults.malformed:
        said.append(log.faults.describe("log") + ": left out")
    if log.faults.within:
        said.append(f"log: {log.faults.within:,} lines go on in a quoted cell of the line before")
    if spec.label is not None:
        rule = f"at least {spec.label.at_least:g}" if spec.label.at_least is not None else shown(spec.label.equals)
        done = "dropped" if spec.label.keep == "positive" else "kept as label 0"
        column = spec.label.column or spec.interactions.value
        said.append(f"positives are events whose {column} is {rule}; the other {log.negatives:,} are {done}")
    if log.repeats:
        done = f"only each pair's {spec.interactions.duplicates} event is kept" if log.repeats_dropped else "kept"
        said.append(f"{log.repeats:,} events repeat a user's earlier item: {done}")
        is_whole = not log.repeats_dropped and not log.core_dropped  # else the share of what is left is another
        if is_whole and (what := figures(log.repeats, log.events - counts["users"])["advice"]):
            said.append(what)
    if log.core_dropped:
        said.append(f"{log.core_dropped:,} events of users or items with too few events are dropped")
    if spec.interactions.is_unordered:
        said.append(
            "no time column: a user's events are a set, in an order that is drawn; unit = 'order' says that the order "
            "of the file is real"
        )
    elif not spec.interactions.time:
        said.append("a user's events are in the order of the file, as unit = 'order' says; histories carry no clock")
    elif spec.interactions.unit == "order":
        said.append(f"'{spec.interactions.time}' gives the order of a user's events; histories carry no clock")
    elif equal:
        what = "event falls" if equal == 1 else "events fall"
        said.append(
            f"{equal:,} {what} in the same second as the user's event before: equal times keep the file's order"
        )
    if log.step:
        what, unit = ("places", "") if spec.interactions.unit == "order" else ("times", " seconds")
        said.append(
            f"{what} in '{spec.interactions.time}' are float32, which here step by up to {log.step:,.0f}{unit}: "
            "what was finer is lost, and events of one step keep the order of the file; write whole numbers or float64"
        )
    if log.early:
        said.append(
            f"every time lies before 1972 when '{spec.interactions.time}' is read as unit "
            f"'{spec.interactions.unit}': is it another unit ('s', 'ms', 'us', 'ns'), spreadsheet days, or 'order'?"
        )
    if log.none:
        said.append(
            f"{log.none:,} events have a time in '{spec.interactions.time}' of 0 or less, in 1970 or before, and "
            "others lie later: if it stands for a missing time, leave these events out; they come first in histories"
        )
    if log.mixed:
        said.append(
            f"{log.mixed:,} events lie before 1972 when '{spec.interactions.time}' is read as unit "
            f"'{spec.interactions.unit}', and others later: are their times in another unit?"
        )
    if log.late:
        said.append(
            f"{log.late:,} events lie after the year 2100 when '{spec.interactions.time}' is read as unit "
            f"'{spec.interactions.unit}': are they in another unit?"
        )
    if counts["cold_items"]:
        said.append(f"{counts['cold_items']:,} listed items have no event: they are in the catalogue as cold items")
    if counts.get("listed_users_without_events"):
        said.append(f"{counts['listed_users_without_events']:,} listed users have no event and are left out")
    for side, report in tables.items():
        if report.faults.malformed:
            said.append(report.faults.describe(f"table of {side}s") + ": left out")
        if report.faults.within:
            said.append(f"table of {side}s: {report.faults.within:,} lines go on in a quoted cell of the line before")
        if report.repeats:
            said.append(f"table of {side}s: {report.repeats:,} rows repeat an id; the first row of each counts")
        if missing := counts.get(f"{side}s_without_row"):
            said.append(f"{missing:,} {side}s of the log are not in the table of {side}s: their features are missing")
        said += report.notes
    return said
