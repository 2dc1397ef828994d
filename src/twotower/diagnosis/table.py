"""Table of vectors read from a file, the columns beside them, and the account of each column's role."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any, NamedTuple

from numpy.typing import NDArray

ID_NAMES = ("id", "item_id", "user_id", "key", "code", "session_code")
TITLE_NAMES = ("title", "name", "label")
LABEL_NAMES = ("label", "labels", "class", "category", "target", "cluster")
POPULARITY_NAMES = ("popularity", "count", "interactions")
VECTOR_NAMES = ("vector", "embedding", "state", "vectors", "embeddings")
_SHOWN = 6


@dataclass(frozen=True)
class Account:
    """Hold which parts of a file were read as what, in the file's own names."""

    vector: tuple[str, ...] = ()
    """The columns, the array or the tensor that hold the coordinates."""
    id: str | None = None
    title: str | None = None
    label: str | None = None
    popularity: str | None = None
    left_out: dict[str, str] = field(default_factory=dict)
    """Columns that were not read, and why."""
    notices: tuple[str, ...] = ()
    """Rules that were applied where the names did not say it."""

    def to_json(self) -> dict[str, Any]:
        """Return plain values; the first and last of many vector columns represent all."""
        return {
            "vector": list(_ends(self.vector)),
            "id": self.id,
            "title": self.title,
            "label": self.label,
            "popularity": self.popularity,
            "left_out": dict(self.left_out),
            "notices": list(self.notices),
        }


class Table(NamedTuple):
    """Hold vectors [rows, dimensions] as an array, mapped from disk where possible, and the columns beside them."""

    vectors: Any
    ids: list[str] | None = None
    titles: list[str] | None = None
    popularity: NDArray[Any] | None = None
    account: Account = Account()


def describe_account(read: dict[str, Any]) -> str:
    """Describe in one line what was read: rows, columns of the vector, of ids, titles and labels, and the rest.

    Examples:
        >>> account = Account(("d0", "d1"), id="key", left_out={"genre": "text"})
        >>> describe_account({"rows": 9, **account.to_json()})
        'read: 9 rows; vector: d0, d1; id: key; left out: genre (text)'
    """
    parts = [f"{read['rows']:,} rows"]
    parts += ["vector: " + ", ".join(read["vector"])] if read["vector"] else []
    parts += [f"{role}: {read[role]}" for role in ("id", "title", "label", "popularity") if read[role] is not None]
    left = [f"{name} ({why})" for name, why in read["left_out"].items()]
    more = [] if len(left) <= _SHOWN else [f"and {len(left) - _SHOWN} more"]
    parts += ["left out: " + ", ".join(left[:_SHOWN] + more)] if left else []
    return "read: " + "; ".join([*parts, *read["notices"]])


def _ends(names: tuple[str, ...]) -> tuple[str, ...]:
    return names if len(names) <= 4 else (names[0], names[1], "…", f"{names[-1]} ({len(names)} columns)")
