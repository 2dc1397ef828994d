"""Spec: the few lines of TOML on a raw data set, its files, columns, feature kinds, label rule and split."""

from __future__ import annotations

import math
from dataclasses import MISSING, Field, dataclass, field, fields
from pathlib import Path
from typing import Any, TypeVar, get_type_hints

import tomli_w

from twotower.core.address import is_address
from twotower.core.errors import InputError, shown, unknown_name
from twotower.core.files import read_toml, replacing_file
from twotower.core.schema import KINDS, Feature
from twotower.data.splitters import check_split

FORMATS = ("csv", "tsv", "jsonl", "parquet")
TIME_UNITS = ("s", "ms", "us", "ns", "iso", "order")
DUPLICATES = ("keep", "first", "last")
KEEP = ("positive", "all")


@dataclass(frozen=True)
class Source:
    """Describe the files of one table."""

    path: tuple[str, ...]
    """Files or glob patterns, read in this order: relative to the folder of the TOML, or fsspec addresses."""
    format: str = ""
    """csv, tsv, jsonl or parquet; empty: by the file's extension (.gz is read too)."""
    separator: str = ""
    """Between values of a csv line, up to four characters, as '::'; empty: a comma, or a tab for tsv."""
    quote: str = '"'
    """The quote sign of csv and tsv; empty: a quote is a letter like any other."""
    escape: str = ""
    """The sign before a quote inside a quoted cell, as a backslash; empty: a quote there is written twice."""
    decimal: str = "."
    """The decimal sign of numbers in csv and tsv: a point or a comma."""
    columns: tuple[str, ...] = ()
    """Column names, for csv and tsv files without a header line."""
    encoding: str = "utf-8"
    """Of csv, tsv and jsonl: any that Python knows."""

    def __post_init__(self) -> None:
        if not self.path or not all(self.path):
            raise InputError("path names no file")
        if self.format and self.format not in FORMATS:
            raise unknown_name("format", self.format, FORMATS)
        if len(self.quote.encode()) > 1 or self.quote in ("\r", "\n"):
            raise InputError(f"quote must be one letter of ASCII, or empty for none, got {shown(self.quote)}")
        if len(self.separator.encode()) > 4 or "\n" in self.separator or "\r" in self.separator:
            raise InputError(f"separator must be up to four letters of one line, got {shown(self.separator)}")
        if len(self.escape.encode()) > 1 or self.escape in ("\r", "\n"):
            raise InputError(f"escape must be one letter of ASCII, or empty for none, got {shown(self.escape)}")
        if self.escape and not self.quote:
            raise InputError(f"escape = {shown(self.escape)} is for quoted cells, and quote is empty")
        if self.escape and self.escape in self.separator:
            raise InputError(
                f"separator {shown(self.separator)} holds the escape {shown(self.escape)}; one must differ"
            )
        if self.decimal not in (".", ","):
            raise InputError(f"decimal must be '.' or ',', got {shown(self.decimal)}")
        if self.quote and self.quote in self.separator:
            raise InputError(f"separator {shown(self.separator)} holds the quote {shown(self.quote)}; set quote = ''")


@dataclass(frozen=True)
class Interactions:
    """Describe the log: one row an event."""

    source: Source
    user: str
    """Column of the user's id."""
    item: str
    """Column of the item's id."""
    time: str = ""
    """Column that orders a user's events; empty: no clock, and see ``unit``."""
    unit: str = "s"
    """Unix seconds (s), milliseconds (ms), micro- (us) or nanoseconds (ns), dates as text (iso), or a place in an order
    (order: no clock). A date or timestamp column of Parquet needs none. Without a time column, "order" says that the
    order of the file is real; else a user's events are a set, and stand in an order that is drawn."""
    value: str = ""
    """Column of a rating: rows where it is missing or not a finite number are malformed."""
    duplicates: str = "keep"
    """Events that repeat a user's earlier item: keep them, or only each pair's first or last event in time."""
    min_user_events: int = 1
    """Users with fewer kept events are dropped, and items likewise, in turn until nothing changes (a k-core)."""
    min_item_events: int = 1
    """The same for items."""
    max_bad_share: float = 0.01
    """The job stops when more than this share of a table's rows is malformed; 0 to 1."""

    @property
    def numbers(self) -> tuple[str, ...]:
        """Return the columns that are read as numbers."""
        return tuple(name for name in (self.time if self.unit != "iso" else "", self.value) if name)

    @property
    def is_unordered(self) -> bool:
        """Return whether a user's events are a set: neither time nor order is known."""
        return not self.time and self.unit != "order"

    def __post_init__(self) -> None:
        if self.unit not in TIME_UNITS:
            raise unknown_name("unit", self.unit, TIME_UNITS)
        if self.duplicates not in DUPLICATES:
            raise unknown_name("duplicates", self.duplicates, DUPLICATES)
        if self.min_user_events < 1 or self.min_item_events < 1:
            raise InputError("min_user_events and min_item_events must be at least 1")
        if not 0 <= self.max_bad_share <= 1:
            raise InputError(f"max_bad_share must be between 0 and 1, got {self.max_bad_share}")


@dataclass(frozen=True)
class Label:
    """Describe which events are positives: those whose column is at least, or equals, a value."""

    column: str = ""
    """Empty: the value column of the log."""
    at_least: float | None = None
    equals: str | int | float | bool | None = None
    keep: str = "positive"
    """positive: the others are dropped; all: they stay as label 0."""

    def __post_init__(self) -> None:
        if (self.at_least is None) == (self.equals is None):
            raise InputError("needs one of at_least and equals")
        for name, value in (("at_least", self.at_least), ("equals", self.equals)):
            if isinstance(value, float) and not math.isfinite(value):
                raise InputError(f"{name} is a finite number, got {value}")
        if self.keep not in KEEP:
            raise unknown_name("keep", self.keep, KEEP)


@dataclass(frozen=True)
class FeatureSpec:
    """Describe a feature and the column it is read from."""

    name: str
    kind: str
    column: str = ""
    """Empty: the column of the feature's name."""
    columns: tuple[str, ...] = ()
    """Several columns of numbers that make one vector."""
    separator: str = ""
    """Between the values of a text cell; empty: '|' for multi_categorical, a space for a vector."""
    width: int = 0
    """Values kept of a row, the first ones; 0: 16 for multi_categorical, 32 for text."""
    min_count: int = 1
    """Rarer values are unknown."""
    max_values: int = 0
    """Only the most frequent values are known; 0: 50,000 for text, no limit otherwise."""

    @property
    def numbers(self) -> tuple[str, ...]:
        """Return the columns that are read as numbers: none of a feature of words."""
        return self.columns or (self.column or self.name,) if self.kind in ("numeric", "vector") else ()

    def __post_init__(self) -> None:
        if self.kind not in KINDS:
            raise unknown_name("kind", self.kind, KINDS, f"feature '{self.name}'")
        for name, least, most in (("width", 0, 100_000), ("min_count", 1, 2**31), ("max_values", 0, 2**31)):
            if not least <= getattr(self, name) <= most:
                value = shown(getattr(self, name))
                raise InputError(f"feature '{self.name}': {name} = {value} must lie between {least} and {most:,}")
        if self.columns and self.kind != "vector":
            raise InputError(f"feature '{self.name}': columns are for kind 'vector', not '{self.kind}'; use column")
        Feature(self.name, "numeric", 1)  # the schema's own rules for names


@dataclass(frozen=True)
class Entities:
    """Describe a table of users or of items."""

    source: Source
    id: str
    """Column of the id, with the same values as in the log."""
    title: str = ""
    """Column shown with recommendations; items only."""
    features: tuple[FeatureSpec, ...] = ()

    @property
    def numbers(self) -> tuple[str, ...]:
        """Return the columns that are read as numbers, alone or as parts of a vector."""
        return tuple(name for spec in self.features for name in spec.numbers)


@dataclass(frozen=True)
class Spec:
    """Describe a raw data set for `twotower data prepare`."""

    name: str
    interactions: Interactions
    label: Label | None = None
    users: Entities | None = None
    items: Entities | None = None
    split: dict[str, Any] = field(default_factory=lambda: {"kind": "leave-one-out"})
    """The kind of split and its options: see `twotower.data.splitters`."""
    folder: Path = field(default=Path(), compare=False)
    """What paths are relative to."""

    def __post_init__(self) -> None:
        if self.split and "kind" not in self.split:
            raise unknown_name("key", next(iter(self.split)), ["kind"], "[split]")
        kind = self.split.get("kind", "")
        if not isinstance(kind, str):
            raise InputError(f"[split] kind must be a text, got {shown(kind)}")
        check_split(**self.split)
        if self.label is not None and not (self.label.column or self.interactions.value):
            raise InputError("[label] names no column and [interactions] has no value; set one of them")
        if self.users is not None and self.users.title:
            raise InputError("[users] has no title; titles belong to items")

    @property
    def numbers(self) -> tuple[str, ...]:
        """Return the columns of the log that are read as numbers."""
        rated = self.label is not None and self.label.column and not isinstance(self.label.equals, str)
        return (*self.interactions.numbers, *([self.label.column] if self.label is not None and rated else []))

    @staticmethod
    def from_toml(path: Path | str) -> Spec:
        """Read a spec.

        Raises:
            InputError: if the file is missing, is not TOML, or has an unknown key, a wrong type or a contradiction.
        """
        path = Path(path)
        values = read_toml(path)
        try:
            return Spec.from_dict(values, folder=path.parent)
        except InputError as error:
            raise InputError(f"{path}: {error}") from None

    @staticmethod
    def from_dict(values: dict[str, Any], *, folder: Path = Path()) -> Spec:
        """Return the spec that `to_dict` gave, or that a TOML holds."""
        sections = {key: value for key, value in values.items() if key != "folder"}
        return _build(Spec, sections, "", folder=folder)

    def to_dict(self) -> dict[str, Any]:
        """Return plain values, as in the TOML; what has its default is left out."""
        return plain_table(self)

    def to_toml(self, path: Path | str) -> None:
        """Write it; paths become absolute when ``path`` is in another folder than the spec's own."""
        path = Path(path)
        values = self.to_dict()
        if path.parent.resolve() != self.folder.resolve():
            for section in ("interactions", "users", "items"):
                if section in values:
                    values[section]["path"] = [
                        name if is_address(name) else str((self.folder / name).resolve())
                        for name in values[section]["path"]
                    ]
        with replacing_file(path) as partial:
            partial.write_text(tomli_w.dumps(values), encoding="utf-8")


Part = TypeVar("Part")
_SECTIONS: dict[str, type[Any]] = {"interactions": Interactions, "label": Label, "users": Entities, "items": Entities}


def _build(kind: type[Part], values: dict[str, Any], where: str, **more: Any) -> Part:
    """A dataclass from a table of TOML; ``source`` stands for the keys of a `Source` beside the others."""
    own = {item.name: item for item in fields(kind) if item.name not in more}  # type: ignore[arg-type]
    inner = {item.name for item in fields(Source)} if "source" in own else set()
    place = f"[{where}]" if where else ""
    for key in values:
        if key not in (own.keys() | inner) - {"source"}:
            raise unknown_name("key", key, (own.keys() | inner) - {"source"}, place)
    hints = get_type_hints(kind)
    found: dict[str, Any] = {}
    if inner:
        found["source"] = _build(Source, {key: values[key] for key in values if key in inner}, where)
    for key, value in values.items():
        if key in inner:
            continue
        if key == "features":
            found[key] = tuple(_feature(name, given, where) for name, given in _table(value, f"{where}.{key}").items())
        elif kind is Spec and key in _SECTIONS:
            found[key] = _build(_SECTIONS[key], _table(value, key), key)
        else:
            found[key] = _typed(value, str(hints[key]), f"{place} {key}".strip())
    for key, item in own.items():
        if key not in found and _is_required(item):
            raise InputError(f"{place} {key} is missing".strip())
    try:
        return kind(**found, **more)
    except InputError as error:
        raise InputError(f"{place} {error}".strip()) from None


def _is_required(item: Field[Any]) -> bool:
    return item.default is MISSING and item.default_factory is MISSING


def _table(value: Any, where: str) -> dict[str, Any]:
    if not isinstance(value, dict):
        raise InputError(f"[{where}] must be a table, got {shown(value)}")
    return value


def _feature(name: str, given: Any, where: str) -> FeatureSpec:
    values = {"kind": given} if isinstance(given, str) else _table(given, f"{where}.features.{name}")
    return _build(FeatureSpec, {"name": name, **values}, f"{where}.features.{name}")


def _typed(value: Any, hint: str, where: str) -> Any:
    """The value as its field wants it: a lone word is a list of one where a list is wanted."""
    if "tuple" in hint:
        listed = [value] if isinstance(value, str) else value
        if isinstance(listed, list | tuple) and all(isinstance(word, str) for word in listed):
            return tuple(listed)
        raise InputError(f"{where} must be a text or a list of texts, got {shown(value)}")
    allowed = [dict] if "dict" in hint else [kind for word, kind in _TYPES.items() if word in hint]
    if "float" in hint and isinstance(value, int) and not isinstance(value, bool):
        return value if "str" in hint else float(value)
    if not isinstance(value, tuple(allowed)) or (isinstance(value, bool) and "bool" not in hint):
        raise InputError(f"{where} must be {' or '.join(_WORDS[kind] for kind in allowed)}, got {shown(value)}")
    return value


_TYPES: dict[str, type[Any]] = {"str": str, "int": int, "float": float, "dict": dict}
_WORDS: dict[type[Any], str] = {str: "a text", int: "a whole number", float: "a number", dict: "a table"}


def plain_table(part: Any) -> dict[str, Any]:
    """Return a dataclass as a table of TOML, without defaults; the inverse of `_build`."""
    table: dict[str, Any] = {}
    for item in fields(part):
        value = getattr(part, item.name)
        if item.name == "folder" or (not _is_required(item) and item.name != "split" and value == item.default):
            continue
        if item.name == "source":
            table.update(plain_table(value))
        elif item.name == "features":
            table["features"] = {
                feature.name: {key: cell for key, cell in plain_table(feature).items() if key != "name"}
                for feature in value
            }
        elif item.name in _SECTIONS and not isinstance(part, FeatureSpec):
            table[item.name] = plain_table(value)
        else:
            table[item.name] = list(value) if isinstance(value, tuple) else value
    return table
