"""The description of a run: one frozen dataclass a section, read from and written to TOML."""

from __future__ import annotations

import dataclasses
import tomllib
import types
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, get_args, get_origin, get_type_hints

import tomli_w

from twotower.core.errors import InputError, shown, unknown_name
from twotower.training.clustered import ClusterSchedule
from twotower.training.config import Objective, Sampling, Training


@dataclass(frozen=True)
class Data:
    """What is learnt from."""

    path: str = ""
    """A prepared folder."""
    split: str = ""
    """Name from `twotower.SPLITTERS`, or "pre-ranking" for labelled pairs; empty: what the data set's spec says, else
    leave_one_out."""
    split_options: dict[str, Any] = field(default_factory=dict)
    """Options of the split by name."""


@dataclass(frozen=True)
class ModelSection:
    """Which model, and its settings: ``name`` and any keyword of its class."""

    name: str = "two_tower"
    """Name from `twotower.MODELS`."""
    settings: dict[str, Any] = field(default_factory=dict)
    """Keywords of the model; in TOML they stand beside ``name``."""


@dataclass(frozen=True)
class Evaluation:
    """What is measured at the end, over the whole catalogue."""

    ks: tuple[int, ...] = (1, 5, 10, 20, 50, 100)
    """List lengths."""
    mask_seen: bool = True
    """Whether items of the history are left out of answers."""

    def __post_init__(self) -> None:
        if not self.ks or min(self.ks) < 1:
            raise InputError(f"evaluation.ks must be list lengths of at least 1, got {list(self.ks)}")


@dataclass(frozen=True)
class IndexSection:
    """How the bundle answers: ``kind`` and any keyword of its class."""

    kind: str = "exact"
    """Name from `twotower.INDEXES`."""
    settings: dict[str, Any] = field(default_factory=dict)
    """Keywords of the index; in TOML they stand beside ``kind``."""


@dataclass(frozen=True)
class Run:
    """A whole run. Written to TOML and read back, it is equal."""

    data: Data = field(default_factory=Data)
    model: ModelSection = field(default_factory=ModelSection)
    objective: Objective = field(default_factory=Objective)
    sampling: Sampling = field(default_factory=Sampling)
    clusters: ClusterSchedule = field(default_factory=ClusterSchedule)
    training: Training = field(default_factory=Training)
    evaluation: Evaluation = field(default_factory=Evaluation)
    index: IndexSection = field(default_factory=IndexSection)

    def to_toml(self) -> str:
        """Return the run as TOML."""
        return tomli_w.dumps(self.to_dict())

    def to_dict(self) -> dict[str, Any]:
        """Return the run as plain values, one table a section; `from_dict` reads them back."""
        values = dataclasses.asdict(self)
        values["model"] = {"name": self.model.name, **self.model.settings}
        values["index"] = {"kind": self.index.kind, **self.index.settings}
        return values

    @staticmethod
    def from_dict(values: dict[str, Any], where: str = "run") -> Run:
        """A run from plain values.

        Raises:
            InputError: for an unknown section or key (the closest is named) or a value of the wrong kind.
        """
        sections = {part.name: part for part in dataclasses.fields(Run)}
        built: dict[str, Any] = {}
        for name, value in values.items():
            if name == "tune":
                raise InputError(f"{where}: the section [tune] is read by 'twotower tune' alone: train its best.toml")
            if name not in sections:
                raise unknown_name("section", name, sections, where)
            if not isinstance(value, dict):
                raise InputError(f"{where}: '{name}' is a section: write [{name}] and its keys below")
            if name == "model":
                value = dict(value)
                built[name] = ModelSection(str(value.pop("name", "two_tower")), value)
            elif name == "index":
                value = dict(value)
                built[name] = IndexSection(str(value.pop("kind", "exact")), value)
            else:
                built[name] = _section(get_type_hints(Run)[name], name, value, where)
        return Run(**built)

    @staticmethod
    def load(path: Path) -> Run:
        """Read a run file.

        Raises:
            InputError: if it is missing, not TOML, or not a run.
        """
        return Run.from_dict(read_run_file(path), str(path))

    def with_settings(self, settings: list[str]) -> Run:
        """A variant from texts like ``training.epochs=3`` or ``data.split_options.reading=last``.

        Values are TOML, and bare words are texts.

        Raises:
            InputError: if a text has no ``=`` or names an unknown key.
        """
        values = tomllib.loads(self.to_toml())
        for setting in settings:
            name, equals, text = setting.partition("=")
            section, dot, key = name.strip().partition(".")
            if not (equals and dot and key):
                raise InputError(f"--set {setting}: write section.key=value, such as training.epochs=3")
            if section not in values:
                raise unknown_name("section", section, values, f"--set {setting}")
            table, inner = values[section], key
            outer, dot, last = key.partition(".")
            if dot and isinstance(table.get(outer), dict):
                table, inner = table[outer], last
            table[inner] = _toml_value(text.strip())
        return Run.from_dict(values, "--set")


def read_run_file(path: Path) -> dict[str, Any]:
    """The tables of a run file, not yet checked.

    Raises:
        InputError: if it is missing or not TOML.
    """
    try:
        return tomllib.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise InputError(f"{path}: no such run file") from None
    except IsADirectoryError:
        raise InputError(f"{path}: a folder; give the run file itself, such as run.toml in it") from None
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise InputError(f"{path}: not valid TOML: {error}") from None


def _toml_value(text: str) -> Any:
    try:
        return tomllib.loads(f"value = {text}")["value"]
    except tomllib.TOMLDecodeError:
        return text


def _section(kind: type[Any], name: str, values: dict[str, Any], where: str) -> Any:
    hints = get_type_hints(kind)
    for key, value in values.items():
        if key not in hints:
            raise unknown_name("key", f"{name}.{key}", [f"{name}.{known}" for known in hints], where)
        if not _fits(value, hints[key]):
            raise InputError(f"{where}: {name}.{key} must be {_words(hints[key])}, got {shown(value)}")
    kept = {key: tuple(value) if isinstance(value, list) else value for key, value in values.items()}
    return kind(**{key: float(str(value)) if hints[key] is float else value for key, value in kept.items()})


def _fits(value: Any, hint: Any) -> bool:
    origin = get_origin(hint) or hint
    if origin is tuple:
        return isinstance(value, (list, tuple)) and all(_fits(part, get_args(hint)[0]) for part in value)
    if origin is float:
        return isinstance(value, (int, float)) and not isinstance(value, bool)
    if origin is int:
        return isinstance(value, int) and not isinstance(value, bool) and -(2**63) <= value < 2**63
    return isinstance(value, origin)


def _words(hint: Any) -> str:
    names = {int: "a whole number", float: "a number", str: "a text", bool: "true or false"}
    if isinstance(hint, types.GenericAlias) and get_origin(hint) is tuple:
        return f"a list, each {names[get_args(hint)[0]]}"
    return names.get(hint, "a table")
