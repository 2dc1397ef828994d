"""Users or items named by a file: a text file with one id a line, or a table with the column of ids."""

from __future__ import annotations

import logging
import tempfile
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from twotower.core.errors import InputError, shown
from twotower.core.schema import Side
from twotower.data.prepare.database import as_pattern, database
from twotower.data.prepare.given import source_of
from twotower.data.prepare.read import Faults, load, relations
from twotower.data.prepare.values import canonical, text_of
from twotower.data.prepare.vocabulary import read_columns
from twotower.serving.bundle import Bundle

log = logging.getLogger(__name__)


def listed_rows(bundle: Bundle, path: Path, side: Side) -> Tensor:
    """Return the rows of the users or items that a file names, in its order, each once: int64 [named].

    Raises:
        InputError: if the file cannot be read, has no column of ids, or names none that the bundle knows.
    """
    vocabulary = bundle.folder / "vocabulary"
    with tempfile.TemporaryDirectory(prefix="twotower-") as name, database(Path(name)) as connection:
        connection.execute("CREATE TABLE loaded (__id VARCHAR, __fault VARCHAR)")
        if path.suffix.lower() == ".txt":
            connection.register("lines", {"id": np.array(_lines(path), dtype=object)})
            connection.execute("INSERT INTO loaded SELECT id::VARCHAR, NULL FROM lines")
        else:
            readers, faults = read_columns(connection, vocabulary, side), Faults()
            source = source_of(connection, path, vocabulary, side, Path(name))
            for relation in relations(connection, source, Path(), Path(name)):
                key = readers.id if readers.id in relation.types or "id" not in relation.types else "id"
                id_text = canonical(text_of(key, relation.require(key)), readers.forms.get("", ""))
                load(connection, "loaded", relation, id_text, f"CASE WHEN ({id_text}) IS NULL THEN 'no id' END", faults)
            faults.check(0.0, str(path))
        connection.execute(
            "CREATE TABLE asked AS SELECT __id AS id, min(rowid) AS place FROM loaded WHERE __id IS NOT NULL GROUP BY 1"
        )
        known = f"read_parquet({as_pattern(vocabulary / f'{side}s.parquet')})"
        unknown = f"FROM asked WHERE id NOT IN (SELECT id FROM {known})"
        number = connection.execute(f"SELECT count(*) {unknown}").fetchone()[0]
        first = connection.execute(f"SELECT id {unknown} ORDER BY place LIMIT 3").fetchall()
        rows = connection.execute(
            f"SELECT known.row FROM asked JOIN {known} AS known USING (id) ORDER BY asked.place"
        ).fetchnumpy()["row"]
    if not len(rows):
        said = f"names no {side}"
        if number:
            said = f"none of its {number:,} {side}s is known, such as {shown(first[0][0], 40)}"
        raise InputError(f"{path}: {said}")
    if number:
        names = ", ".join(shown(id, 40) for (id,) in first) + (", …" if number > len(first) else "")
        log.warning("%d of %d %ss are unknown here and left out: %s", number, number + len(rows), side, names)
    return torch.from_numpy(np.ascontiguousarray(rows, dtype=np.int64))


def _lines(path: Path) -> list[str]:
    try:
        text = path.read_text(encoding="utf-8-sig")
    except FileNotFoundError:
        raise InputError(f"{path}: no such file") from None
    except UnicodeDecodeError:
        raise InputError(f"{path}: its text is not UTF-8; write it as UTF-8") from None
    return [id for line in text.splitlines() if (id := line.strip())]
