"""Reading of a new table beside a data set or bundle: as the training table was, where it is written like it."""

from __future__ import annotations

import logging
from dataclasses import replace
from pathlib import Path
from typing import Any

from twotower.core.errors import InputError
from twotower.core.files import read_json
from twotower.core.schema import Side
from twotower.data.prepare.read import format_of, relations
from twotower.data.prepare.spec import FORMATS, Source
from twotower.data.prepare.vocabulary import read_columns

logger = logging.getLogger(__name__)

WORDS = ("format", "separator", "quote", "escape", "decimal", "encoding")
"""Keys of a source that say how its files are written; the names of columns come beside them."""


def source_of(connection: Any, path: Path, vocabulary: Path, side: Side, work: Path) -> Source:
    """Choose how to read a new table of users or items: with the training table's signs, encoding, columns.

    A file whose name tells another format is read as what it is, and so is one in which the id's column is found only
    without the training table's settings. Column names that the spec gave are for files without a header line: a file
    that has the id's column in its first line keeps its own header.

    Args:
        connection: the engine.
        path: the new table.
        vocabulary: the folder ``vocabulary`` of a prepared data set or a bundle, beside which lies what it came from.
        side: whether rows are users or items.
        work: a folder for copies in UTF-8.
    """
    plain = Source((str(path),))
    trained = _trained(vocabulary, side)
    if trained is None or not path.is_file():
        return plain
    kind = trained.format or format_of(Path(trained.path[0]))
    if format_of(path) not in ("", kind):
        return plain
    alike = replace(trained, path=plain.path, format=kind)
    if alike == replace(plain, format=kind) and format_of(path):
        return plain
    id = read_columns(connection, vocabulary, side).id
    choices = [replace(alike, columns=()), alike] if alike.columns else [alike]
    for source in [*choices, plain]:
        if _has_id(connection, source, id, work):
            if source is not plain:
                said = ", ".join(
                    f"{word} {value!r}" for word in WORDS if (value := getattr(source, word)) not in ("", ".")
                )
                logger.info("%s: read as the training table was: %s", path, said)
            return source
    return alike


def _has_id(connection: Any, source: Source, id: str, work: Path) -> bool:
    try:
        types = next(relations(connection, source, Path(), work)).types
    except InputError:  # read so, the file is no table; the choice that is left says why
        return False
    return id in types or "id" in types


def _trained(vocabulary: Path, side: Side) -> Source | None:
    """The training table's source; None where it is not known, as for data made in memory."""
    for name in ("data.json", "manifest.json"):  # a bundle's, a prepared data set's
        file = vocabulary.parent / name
        manifest = read_json(file) if file.is_file() else None
        spec = manifest.get("spec") if isinstance(manifest, dict) else None
        table = spec.get(f"{side}s") if isinstance(spec, dict) else None
        if isinstance(table, dict) and table.get("path"):
            source = Source(
                tuple(table["path"]),
                columns=tuple(table.get("columns", ())),
                **{word: table[word] for word in WORDS if word in table},
            )
            return source if source.format or format_of(Path(source.path[0])) in FORMATS else None
    return None
