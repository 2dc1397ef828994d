"""Description of a run: one frozen dataclass a section, read from and written to TOML."""

from __future__ import annotations

import dataclasses
import tomllib
import types
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, get_args, get_origin, get_type_hints

import tomli_w

from twotower.core.errors import InputError, cut, shown, unknown_name
from twotower.core.files import check_depth, read_toml
from twotower.evaluation.protocol import check_lengths
from twotower.training.clustered import ClusterSchedule
from twotower.training.config import Objective, Sampling, Training
from twotower.training.sources import kept_settings, named_sources, plain_sources, read_old_options, set_in_source


@dataclass(frozen=True)
class Data:
    """Configure the data of a run."""

    path: str = ""
    """A prepared folder."""
    split: str = ""
    """Name from `twotower.SPLITTERS`, or "pre-ranking" for labelled pairs; empty: what the data set's spec says, else
    leave_one_out."""
    split_options: dict[str, Any] = field(default_factory=dict)
    """Options of the split by name."""


@dataclass(frozen=True)
class ModelSection:
    """Configure the model and its settings: ``name`` and any keyword of its class."""

    name: str = "two_tower"
    """Name from `twotower.MODELS`."""
    settings: dict[str, Any] = field(default_factory=dict)
    """Keywords of the model; in TOML they stand beside ``name``."""


@dataclass(frozen=True)
class Evaluation:
    """Configure what is measured at the end, over the whole catalogue."""

    ks: tuple[int, ...] = (1, 5, 10, 20, 50, 100)
    """List lengths."""
    mask_seen: bool = True
    """Whether items of the history are left out of answers."""

    def __post_init__(self) -> None:
        check_lengths("evaluation.ks", self.ks)


@dataclass(frozen=True)
class IndexSection:
    """Configure how the bundle answers: ``kind`` and any keyword of its class."""

    kind: str = "exact"
    """Name from `twotower.INDEXES`."""
    settings: dict[str, Any] = field(default_factory=dict)
    """Keywords of the index; in TOML they stand beside ``kind``."""


@dataclass(frozen=True, repr=False)
class Run:
    """Describe a whole run. Written to TOML and read back, it is equal."""

    data: Data = field(default_factory=Data)
    model: ModelSection = field(default_factory=ModelSection)
    objective: Objective = field(default_factory=Objective)
    sampling: Sampling = field(default_factory=Sampling)
    clusters: ClusterSchedule = field(default_factory=ClusterSchedule)
    training: Training = field(default_factory=Training)
    evaluation: Evaluation = field(default_factory=Evaluation)
    index: IndexSection = field(default_factory=IndexSection)

    def __repr__(self) -> str:
        data = f" on {self.data.path}" if self.data.path else ""
        return f"Run({self.model.name}{data}: {self.objective.loss}, {self.training.epochs} epochs; to_toml() has all)"

    def to_toml(self) -> str:
        """Return the run as TOML."""
        return tomli_w.dumps(self.to_dict())

    def to_dict(self) -> dict[str, Any]:
        """Return the run as plain values, one table a section; `from_dict` reads them back."""
        values = dataclasses.asdict(self)
        values["model"] = {"name": self.model.name, **self.model.settings}
        values["index"] = {"kind": self.index.kind, **self.index.settings}
        values["sampling"]["sources"] = plain_sources(self.sampling.sources)
        return values

    @staticmethod
    def from_dict(values: dict[str, Any], where: str = "run", *, override: bool = False) -> Run:
        """Build a run from plain values.

        Args:
            values: one table a section.
            where: for messages.
            override: keys of [sampling] in the form before 0.2, such as ``bank_start``, take the place of the settings
                of the source that reads them; otherwise a run that gives both is refused.

        Raises:
            InputError: for an unknown section or key (the closest is named) or a value of the wrong kind.
        """
        check_depth(values, where)
        sections = {part.name: part for part in dataclasses.fields(Run)}
        built: dict[str, Any] = {}
        for name, value in values.items():
            if name == "tune":
                raise InputError(f"{where}: the section [tune] is read by 'twotower tune' alone: train its best.toml")
            if name not in sections:
                raise unknown_name("section", name, sections, where)
            if not isinstance(value, dict):
                raise InputError(f"{where}: {shown(name)} is a section: write [{name}] and its keys below")
            if name == "model":
                value = dict(value)
                built[name] = ModelSection(str(value.pop("name", "two_tower")), value)
            elif name == "index":
                value = dict(value)
                built[name] = IndexSection(str(value.pop("kind", "exact")), value)
            else:
                if name == "sampling":
                    value = read_old_options(value, where, override=override)
                    if "sources" in value:
                        value = {**value, "sources": named_sources(value["sources"], where)}
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
        """Return a variant from texts like ``training.epochs=3`` or ``sampling.sources.memory_bank.start=500``.

        Values are TOML, and bare words are texts. Sources that stay under their names keep their settings.

        Raises:
            InputError: if a text has no ``=`` or names an unknown key.
        """
        values = tomllib.loads(self.to_toml())
        for setting in settings:
            name, equals, text = setting.partition("=")
            section, dot, key = name.strip().partition(".")
            if not (equals and dot and key):
                raise InputError(f"--set {cut(setting, 80)}: write section.key=value, such as training.epochs=3")
            if section not in values:
                raise unknown_name("section", section, values, f"--set {cut(setting, 80)}")
            table, inner, value = values[section], key, _toml_value(text.strip())
            outer, dot, last = key.partition(".")
            if section == "sampling" and outer == "sources":
                if dot:
                    set_in_source(table, last, value, "--set")
                    continue
                value = kept_settings(value, table["sources"], "--set")
            if dot and isinstance(table.get(outer), dict):
                table, inner = table[outer], last
            table[inner] = value
        return Run.from_dict(values, "--set", override=True)


def read_run_file(path: Path) -> dict[str, Any]:
    """Return the tables of a run file, not yet checked.

    Raises:
        InputError: if it is missing or not TOML.
    """
    return read_toml(path, "run file")


def _toml_value(text: str) -> Any:
    try:
        return tomllib.loads(f"value = {text}")["value"]
    except (ValueError, RecursionError):  # no TOML, or a number or nesting beyond what it can read
        return text


def _section(kind: type[Any], name: str, values: dict[str, Any], where: str) -> Any:
    hints = get_type_hints(kind)
    for key, value in values.items():
        if key not in hints:
            raise unknown_name("key", f"{name}.{key}", [f"{name}.{known}" for known in hints], where)
        if not _fits(value, hints[key]):
            bits = " of at most 64 bits" if _is_wide(value) else ""
            raise InputError(f"{where}: {name}.{key} must be {_words(hints[key])}{bits}, got {shown(value)}")
    kept = {key: tuple(value) if isinstance(value, list) else value for key, value in values.items()}
    return kind(**{key: float(str(value)) if hints[key] is float else value for key, value in kept.items()})


def _is_wide(value: Any) -> bool:
    """Whether it is, or holds, a whole number that is too large for a computer's."""
    if isinstance(value, (list, tuple)):
        return any(map(_is_wide, value))
    return isinstance(value, int) and not -(2**63) <= value < 2**63


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
