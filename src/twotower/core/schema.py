"""Schema of the features of users and items: the description that data, towers, diagnosis and bundles share."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Literal, get_args

from twotower.core.errors import InputError, shown, unknown_name
from twotower.core.files import read_json, write_json

Kind = Literal["id", "categorical", "multi_categorical", "numeric", "text", "vector"]
Side = Literal["user", "item"]
KINDS: tuple[str, ...] = get_args(Kind)


@dataclass(frozen=True)
class Feature:
    """Describe one feature of users or of items."""

    name: str
    kind: Kind
    size: int
    """Rows of its vocabulary with padding (0) and unknown (1): id, categorical, multi_categorical, text. The width of
    a vector. 1 for a number."""
    width: int = 1
    """Values a row may hold: over 1 for multi_categorical and text."""
    mean: float = 0.0
    """Mean over known training rows; numeric only. Towers subtract it."""
    std: float = 1.0
    """Standard deviation over known training rows, 1 where it would be 0; numeric only. Towers divide by it."""

    def __post_init__(self) -> None:
        if self.kind not in KINDS:
            raise unknown_name("feature kind", self.kind, KINDS, f"feature '{self.name}'")
        if not self.name or self.name.startswith(".") or set(self.name) & set("/\\\0"):
            raise InputError(
                f"feature {shown(self.name)}: its column becomes a file; rename it, without slash or leading dot"
            )
        if self.size < 1 or self.width < 1:
            raise InputError(f"feature '{self.name}': size and width must be at least 1, got {self.size}, {self.width}")

    @property
    def is_discrete(self) -> bool:
        """Return True when values are rows of a vocabulary."""
        return self.kind in ("id", "categorical", "multi_categorical", "text")


@dataclass(frozen=True)
class Schema:
    """Hold the counts of users and items (rows, with padding and unknown) and the features of both."""

    num_users: int
    num_items: int
    user_features: tuple[Feature, ...] = ()
    item_features: tuple[Feature, ...] = ()
    has_times: bool = True
    """True when the log has a clock, so that histories carry Unix seconds."""

    def __post_init__(self) -> None:
        for side in (self.user_features, self.item_features):
            names = [feature.name for feature in side]
            for name in names:
                if names.count(name) > 1:
                    raise InputError(f"feature '{name}' is there twice; rename one")

    def features(self, side: Side) -> tuple[Feature, ...]:
        """Return the features of one side."""
        return self.user_features if side == "user" else self.item_features

    def to_dict(self) -> dict[str, Any]:
        """Return plain values, for JSON."""
        return asdict(self)

    @staticmethod
    def from_dict(values: dict[str, Any]) -> Schema:
        """Return the schema that `to_dict` gave.

        Raises:
            InputError: if a key is missing or unknown.
        """
        try:
            sides = {side: tuple(Feature(**row) for row in values[side]) for side in ("user_features", "item_features")}
            return Schema(**{**values, **sides})
        except (KeyError, TypeError) as error:
            raise InputError(f"not a schema of this version: {error}") from None

    def save(self, path: Path) -> None:
        """Write as JSON."""
        write_json(path, self.to_dict())

    @staticmethod
    def load(path: Path) -> Schema:
        """Read what `save` wrote."""
        return Schema.from_dict(read_json(path))
