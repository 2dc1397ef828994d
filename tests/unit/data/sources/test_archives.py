"""Archives are unpacked whole, and those that reach outside the folder are refused."""

from __future__ import annotations

import gzip
import io
import random
import tarfile
import zipfile
from pathlib import Path

import pytest

from twotower.core.errors import InputError
from twotower.data.sources.archives import unpack


def tar_with(path: Path, *members: tuple[tarfile.TarInfo, bytes]) -> Path:
    with tarfile.open(path, "w:gz") as packed:
        for member, content in members:
            member.size = len(content)
            packed.addfile(member, io.BytesIO(content))
    return path


def zip_with(path: Path, name: str, content: bytes = b"x") -> Path:
    with zipfile.ZipFile(path, "w") as packed:
        packed.writestr(name, content)
    return path


@pytest.mark.parametrize("name", ["a.zip", "a.tar.gz", "a.tgz"])
def test_files_arrive_in_their_folders(tmp_path: Path, name: str) -> None:
    path = tmp_path / name
    if name.endswith("zip"):
        zip_with(path, "set/data/rows.csv", b"1,2")
    else:
        tar_with(path, (tarfile.TarInfo("set/data/rows.csv"), b"1,2"))
    unpack(path, tmp_path / "out")
    assert (tmp_path / "out" / "set" / "data" / "rows.csv").read_bytes() == b"1,2"


def test_single_gz_loses_its_suffix(tmp_path: Path) -> None:
    (tmp_path / "rows.csv.gz").write_bytes(gzip.compress(b"1,2"))
    unpack(tmp_path / "rows.csv.gz", tmp_path / "out")
    assert (tmp_path / "out" / "rows.csv").read_bytes() == b"1,2"


@pytest.mark.parametrize("name", ["../out.txt", "/etc/out.txt", "a/../../out.txt", "..\\out.txt", "C:\\out.txt"])
def test_member_outside_the_folder_is_refused(tmp_path: Path, name: str) -> None:
    with pytest.raises(InputError, match="outside the folder"):
        unpack(zip_with(tmp_path / "a.zip", name), tmp_path / "in" / "out")
    with pytest.raises(InputError, match="outside the folder"):
        unpack(tar_with(tmp_path / "a.tar.gz", (tarfile.TarInfo(name), b"x")), tmp_path / "in" / "out")
    assert list(tmp_path.rglob("*.txt")) == []


@pytest.mark.parametrize("kind", [tarfile.SYMTYPE, tarfile.LNKTYPE, tarfile.FIFOTYPE])
def test_links_and_devices_are_refused(tmp_path: Path, kind: bytes) -> None:
    member = tarfile.TarInfo("link")
    member.type, member.linkname = kind, "/etc/passwd"
    with pytest.raises(InputError, match="link or device"):
        unpack(tar_with(tmp_path / "a.tar.gz", (member, b"")), tmp_path / "out")


@pytest.mark.parametrize("name", ["a.zip", "a.tar.gz", "a.json.gz"])
def test_broken_archive_is_named(tmp_path: Path, name: str) -> None:
    (tmp_path / name).write_bytes(b"no archive at all")
    with pytest.raises(InputError, match="broken archive"):
        unpack(tmp_path / name, tmp_path / "out")


def test_cut_archive_is_named(tmp_path: Path) -> None:
    path = tar_with(tmp_path / "a.tar.gz", (tarfile.TarInfo("rows"), random.Random(0).randbytes(100_000)))
    path.write_bytes(path.read_bytes()[:50_000])
    with pytest.raises(InputError, match="broken archive"):
        unpack(path, tmp_path / "out")
