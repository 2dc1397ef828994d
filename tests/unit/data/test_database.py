"""What DuckDB refuses, as one line of ours."""

from __future__ import annotations

from pathlib import Path

import duckdb
import pytest

from twotower.data.prepare.database import database


@pytest.mark.parametrize(
    ("text", "place"),
    [
        ('IO Error: Could not write file "/full/lists.parquet": No space left on device', "/full/lists.parquet"),
        ("", ""),
    ],
)
def test_a_full_disk_is_said_where_it_is(tmp_path: Path, text: str, place: str) -> None:
    with pytest.raises(OSError, match="no space left on the disk") as refused, database(tmp_path):
        raise duckdb.IOException(text or "IO Error: not enough space")
    assert refused.value.filename == (place or str(tmp_path))
