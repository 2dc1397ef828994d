"""Archives are unpacked whole, and those that reach outside the folder are refused."""

from __future__ import annotations

import gzip
import io
import random
import shutil
import tarfile
import warnings
import zipfile
from pathlib import Path

import pytest

from twotower.core.errors import InputError
from twotower.data.sources import archives
from twotower.data.sources.archives import unpack
from twotower.data.sources.base import need


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


class Zeros(io.RawIOBase):
    """So many zeros, without their memory."""

    def __init__(self, size: int) -> None:
        self.left = size

    def read(self, size: int = -1) -> bytes:
        given = min(self.left, size)
        self.left -= given
        return bytes(given)


@pytest.fixture
def small_limit(monkeypatch: pytest.MonkeyPatch) -> None:
    """Bombs of a few megabytes instead of gigabytes."""
    monkeypatch.setattr(archives, "ALWAYS", 1 << 20)


@pytest.mark.parametrize("name", ["a.zip", "a.tar.gz", "a.csv.gz"])
def test_a_bomb_is_refused_and_takes_no_more_than_its_share(tmp_path: Path, name: str, small_limit: None) -> None:
    size, path = 50 << 20, tmp_path / name
    if name.endswith("zip"):
        with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as packed:
            for number in range(5):
                packed.writestr(f"rows{number}.csv", bytes(size // 5))
    elif name.endswith("tar.gz"):
        with tarfile.open(path, "w:gz") as packed_tar:
            member = tarfile.TarInfo("rows.csv")
            member.size = size
            packed_tar.addfile(member, Zeros(size))  # type: ignore[arg-type]
    else:
        path.write_bytes(gzip.compress(bytes(size)))
    with pytest.raises(InputError, match=r"unpacks to over .* more than data do; it is not unpacked"):
        unpack(path, tmp_path / "out")
    written = sum(file.stat().st_size for file in (tmp_path / "out").rglob("*") if file.is_file())
    assert written <= max(archives.ALWAYS, archives.MOST_TIMES * path.stat().st_size)


def test_a_zip_that_lies_about_its_size_is_stopped_where_it_overflows(tmp_path: Path, small_limit: None) -> None:
    path = tmp_path / "a.zip"
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as packed:
        packed.writestr("rows.csv", bytes(20 << 20))
    told, claimed = (20 << 20).to_bytes(4, "little"), (100).to_bytes(4, "little")
    path.write_bytes(path.read_bytes().replace(told, claimed))
    with pytest.raises(InputError, match="broken archive|more than data do"):
        unpack(path, tmp_path / "out")
    assert all(file.stat().st_size <= 8 << 20 for file in (tmp_path / "out").rglob("*") if file.is_file())


def test_more_than_the_disk_holds_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(shutil, "disk_usage", lambda folder: shutil._ntuple_diskusage(10**9, 10**9, 1000))  # type: ignore[attr-defined]
    path = zip_with(tmp_path / "a.zip", "rows.csv", bytes(1001))
    with pytest.raises(InputError, match=r"all that is free on the disk; make room"):
        unpack(path, tmp_path / "out")


def test_a_table_that_shrinks_well_is_unpacked(tmp_path: Path) -> None:
    (tmp_path / "rows.csv.gz").write_bytes(gzip.compress(b"1,2\n" * 1_000_000))
    unpack(tmp_path / "rows.csv.gz", tmp_path / "out")
    assert (tmp_path / "out" / "rows.csv").stat().st_size == 4_000_000


def test_a_member_that_is_file_and_folder_is_one_line(tmp_path: Path) -> None:
    members = [(tarfile.TarInfo("a"), b"x"), (tarfile.TarInfo("a/b"), b"y")]
    with pytest.raises(InputError, match="in each other's way"):
        unpack(tar_with(tmp_path / "a.tar.gz", *members), tmp_path / "out")


@pytest.mark.parametrize("kind", ["zip", "tar.gz"])
def test_two_members_of_one_name_are_refused_since_one_would_be_lost(tmp_path: Path, kind: str) -> None:
    path = tmp_path / f"a.{kind}"
    if kind == "zip":
        with zipfile.ZipFile(path, "w") as packed, warnings.catch_warnings(action="ignore"):
            packed.writestr("set/rows.csv", "1")
            packed.writestr("set/rows.csv", "2")
    else:
        tar_with(path, *[(tarfile.TarInfo("set/rows.csv"), content) for content in (b"1", b"2")])
    with pytest.raises(InputError, match=r"two of its members are called 'rows.csv'"):
        unpack(path, tmp_path / "out")


def test_a_copy_with_a_file_in_two_versions_says_so(tmp_path: Path) -> None:
    for name, content in (("a", "1"), ("b", "1"), ("deeper/c", "2")):
        (tmp_path / name).mkdir(parents=True)
        (tmp_path / name / "u.data").write_text(content)
    assert need(tmp_path, "u.data") == tmp_path / "a" / "u.data"
    (tmp_path / "b" / "u.data").write_text("3")
    with pytest.raises(InputError, match=r"holds u.data more than once, 'a/u.data' and 'b/u.data' are not the same"):
        need(tmp_path, "u.data")


def test_a_name_that_no_disk_takes_is_one_line(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="names that cannot be written"):
        unpack(tar_with(tmp_path / "a.tar.gz", (tarfile.TarInfo("x" * 5000), b"x")), tmp_path / "out")


@pytest.mark.parametrize("name", ["a.zip", "a.tar.gz", "a.tar", "a.csv.gz"])
def test_whatever_byte_of_an_archive_is_changed_it_is_unpacked_or_one_line(tmp_path: Path, name: str) -> None:
    path, random_ = tmp_path / name, random.Random(name)
    if name.endswith("zip"):
        zip_with(path, "rows.csv", b"user,item\n" * 50)
    elif name.endswith("csv.gz"):
        path.write_bytes(gzip.compress(b"user,item\n" * 50))
    else:
        with tarfile.open(path, "w:gz" if name.endswith("gz") else "w") as packed:
            member = tarfile.TarInfo("rows.csv")
            member.size = 500
            packed.addfile(member, io.BytesIO(b"user,item\n" * 50))
    healthy = path.read_bytes()
    for number in range(200):
        place = random_.randrange(min(len(healthy), 600))
        path.write_bytes(healthy[:place] + bytes([random_.randrange(256)]) + healthy[place + 1 :])
        line = ""
        try:
            unpack(path, tmp_path / "in" / f"out{number}")
        except InputError as error:
            line = str(error)
        assert "\n" not in line
        assert len(line) < 500
    assert not [file for file in tmp_path.iterdir() if file.name not in ("in", name)]
