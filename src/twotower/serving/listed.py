"""Users or items named by a file: a text file with one id a line, or a table with the column of ids.

In a table that is the column that the training table of users or items had its ids in, else the log's own column of
them, else ``id``, else ``user`` or ``item``, as this package's own files call them.
"""

from __future__ import annotations

import logging
import tempfile
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from twotower.core.errors import InputError, shown
from twotower.core.files import read_json
from twotower.core.schema import Side
from twotower.data.prepare.database import database, parquet
from twotower.data.prepare.given import source_of
from twotower.data.prepare.ids import id_text_of
from twotower.data.prepare.read import Faults, Relation, load, relations
from twotower.data.prepare.values import canonical
from twotower.data.prepare.vocabulary import Columns, read_columns
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
        readers, faults = read_columns(connection, vocabulary, side), Faults()
        form = readers.forms.get("", "")
        if path.suffix.lower() == ".txt":
            connection.register("lines", {"id": np.array(_lines(path), dtype=object)})
            connection.execute(f"INSERT INTO loaded SELECT {canonical('id::VARCHAR', form)}, NULL FROM lines")
        else:
            source = source_of(connection, path, vocabulary, side, Path(name))
            for relation in relations(connection, source, Path(), Path(name)):
                key = _id_column(bundle, readers, side, relation)
                id_text = canonical(id_text_of(connection, relation, key), form)
                load(connection, "loaded", relation, id_text, f"CASE WHEN ({id_text}) IS NULL THEN 'no id' END", faults)
            faults.check(0.0, str(path))
        connection.execute(
            "CREATE TABLE asked AS SELECT __id AS id, min(rowid) AS place FROM loaded WHERE __id IS NOT NULL GROUP BY 1"
        )
        known = parquet(vocabulary / f"{side}s.parquet")
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


def _id_column(bundle: Bundle, readers: Columns, side: Side, relation: Relation) -> str:
    """The column of ids, with a warning where it is not plain to see that it is the one."""
    spec = read_json(bundle.folder / "data.json").get("spec")
    log_section = spec.get("interactions") if isinstance(spec, dict) else None
    own = log_section.get(side) if isinstance(log_section, dict) else None
    wanted = [readers.id] if readers.named else []
    wanted += [own] if isinstance(own, str) else []
    there = [name for name in dict.fromkeys([*wanted, "id", side]) if name in relation.types]
    if not there:
        relation.require(wanted[0] if wanted else "id")
    if len(there) > 1:
        log.warning("%s: ids are read from column %s, not from %s", relation.path, *map(shown, there[:2]))
    elif there[0] not in ("id", readers.id):
        log.warning("%s: ids are read from column %s", relation.path, shown(there[0]))
    return there[0]


def _lines(path: Path) -> list[str]:
    try:
        text = path.read_text(encoding="utf-8-sig")
    except FileNotFoundError:
        raise InputError(f"{path}: no such file") from None
    except UnicodeDecodeError:
        raise InputError(f"{path}: its text is not UTF-8; write it as UTF-8") from None
    return [id for line in text.splitlines() if (id := line.strip())]
