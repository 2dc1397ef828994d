"""Write the vectors of a bundle for one vector store."""

from __future__ import annotations

import logging
import re
from pathlib import Path
from typing import NamedTuple

from twotower.core.errors import InputError, shown, unknown_name
from twotower.core.files import replacing_file
from twotower.core.folders import check_outside
from twotower.serving.retriever import Retriever
from twotower.serving.stores.forms import FORMS
from twotower.serving.stores.rows import Rows

log = logging.getLogger(__name__)


class Stored(NamedTuple):
    """Hold what was written: rows, and numbers of a vector."""

    rows: int
    dim: int


def write_for_store(retriever: Retriever, to: Path | str, *, store: str, side: str = "items", name: str = "") -> Stored:
    """Write one row an item (or known user) in the form that a store's bulk loader takes.

    Args:
        retriever: of the bundle.
        to: file, replaced whole; its name ends as the form is: ``.jsonl``, ``.ndjson`` or ``.sql``.
        store: "qdrant", "milvus", "opensearch" or "pgvector".
        side: "items" or "users".
        name: of the collection or table, where the file has it (Milvus, pgvector); empty: the side.

    Raises:
        InputError: if the store or the side is unknown, the model has no vectors, the file's name ends otherwise, or
            the store cannot take an id or the size.
    """
    if store not in FORMS:
        raise unknown_name("store", store, FORMS)
    to, form, name = Path(to), FORMS[store], name or side
    if to.suffix.lower() != form.suffix:
        raise InputError(f"{to}: name it *{form.suffix}, as {store} loads it")
    if not re.fullmatch(r"[A-Za-z_][A-Za-z0-9_]{0,62}", name):
        raise InputError(f"name {shown(name)}: letters without accents, digits and _, up to 63, no digit first")
    check_outside(to)
    rows = Rows(retriever, side)
    if not retriever.bundle.model.inner_product:
        log.warning(
            "model '%s' has another score than the inner product: what a store finds are candidates for it at best",
            retriever.bundle.manifest["model"]["name"],
        )
    with replacing_file(to) as partial, partial.open("w", encoding="utf-8", newline="\n") as file:
        for line in form.lines(rows, name):
            file.write(line + "\n")
    return Stored(len(rows), rows.dim)
