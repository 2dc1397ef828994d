"""Words for a missing value, and lists, that a table holds as text, as other programs write them."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from twotower.core.errors import shown
from twotower.core.schema import Feature, Side
from twotower.data.prepare.database import literal, parquet
from twotower.data.prepare.vocabulary import feature_path

WORDS = ("nan", "none", "null", "<na>", "nat", "n/a", "#n/a", r"\n", "undefined")
"""In lower case; "na" is none of them: it is Namibia, and a syllable."""


def tell_missing_words(connection: Any, features: dict[Side, tuple[Feature, ...]], vocabulary: Path) -> list[str]:
    """Return one sentence for each kind of id and each feature of categories with such a word among its values.

    They are kept as the text that they are: a title or a brand may be called None.

    Args:
        connection: to the database, with the tables ``users`` and ``items``.
        features: of both sides.
        vocabulary: the folder of the features' values.
    """
    columns = [(f"the id of a{'n' * (side == 'item')} {side}", f"{side}s", "id") for side in features]
    columns += [
        (f"a value of {side} feature {shown(feature.name)}", parquet(path), "value")
        for side, listed in features.items()
        for feature in listed
        if feature.kind in ("id", "categorical", "multi_categorical")
        if (path := feature_path(vocabulary, side, feature.name)).is_file()
    ]
    said = []
    for what, table, column in columns:
        wanted = f"lower({column}) IN ({', '.join(map(literal, WORDS))})"
        found = connection.execute(f"SELECT {column} FROM {table} WHERE {wanted} ORDER BY 1 LIMIT 7").fetchall()
        if found:
            words = ", ".join(shown(word) for (word,) in found[:6]) + (", …" if len(found) > 6 else "")
            said.append(f"{words} is {what}, as text: where it means that there is none, leave the cell empty")
    return said


def tell_brackets(connection: Any, where: str, values: Path, notes: list[str]) -> None:
    """Add a sentence to ``notes`` where values of a feature of lists look like lists that were not taken for such."""
    pattern = r"\s*(\[.*\]|\(.*,.*\)|\{.*\}|[\[{(][^\[\](){}]*|[^\[\](){}]*[\]})])\s*"
    found = connection.execute(
        f"SELECT value, count(*) OVER () FROM {parquet(values)} "
        f"WHERE regexp_full_match(value, {literal(pattern)}, 's') ORDER BY count DESC, value LIMIT 1"
    ).fetchall()
    if found:
        value, number = found[0]
        notes.append(
            f"{where}: {number:,} values stand in brackets, such as {shown(value, 60)}, and count as one value each: "
            "only a list of quoted texts or of numbers is taken apart"
        )
