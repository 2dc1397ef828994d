import errno
import os
import stat
import sys
from pathlib import Path

import pytest

from twotower.core import folders
from twotower.core.errors import InputError
from twotower.core.exchange import exchange
from twotower.core.files import write_json
from twotower.core.folders import check_outside, replacing_folder


def disk_full(*_args, **_kwargs):
    raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))


def names(folder: Path) -> list[str]:
    return [path.name for path in folder.iterdir()]


def made_folder(path: Path, text: str) -> Path:
    path.mkdir()
    (path / "manifest.json").write_text("{}")
    (path / "data").write_text(text)
    return path


def test_folder_gets_the_usual_permissions(tmp_path):
    old = os.umask(0o027)
    try:
        with replacing_folder(tmp_path / "b"):
            pass
    finally:
        os.umask(old)
    assert stat.S_IMODE((tmp_path / "b").stat().st_mode) == 0o750


@pytest.mark.parametrize("before", ["missing", "empty", "ours"])
def test_folder_is_swapped_in_whole(tmp_path, before):
    target = tmp_path / "bundle"
    if before == "empty":
        target.mkdir()
    if before == "ours":
        made_folder(target, "old")
    with replacing_folder(target) as partial:
        (partial / "new").write_text("new")
        assert not (target / "new").exists()
    assert names(target) == ["new"]
    assert names(tmp_path) == ["bundle"]


def test_disk_full_in_a_folder_leaves_the_old_one_and_no_litter(tmp_path):
    target = made_folder(tmp_path / "bundle", "old")
    with pytest.raises(OSError, match="No space left"), replacing_folder(target) as partial:
        (partial / "data").write_text("half")
        disk_full()
    assert (target / "data").read_text() == "old"
    assert names(tmp_path) == ["bundle"]


@pytest.mark.parametrize("failure", [OSError(errno.EIO, "Input/output error"), KeyboardInterrupt()])
def test_a_stop_between_the_two_renames_puts_the_old_folder_back(tmp_path, monkeypatch, failure):
    target = made_folder(tmp_path / "bundle", "old")
    rename, calls = Path.replace, []

    def second_fails(self, to):
        calls.append(self)
        if len(calls) == 2:
            raise failure
        return rename(self, to)

    monkeypatch.setattr(Path, "replace", second_fails)
    monkeypatch.setattr(folders, "exchange", lambda one, other: False)  # a system that cannot
    with pytest.raises(type(failure)), replacing_folder(target) as partial:
        (partial / "data").write_text("new")
    assert (target / "data").read_text() == "old"
    assert names(tmp_path) == ["bundle"]


def test_a_folder_is_never_away_from_its_place_where_folders_can_be_exchanged(tmp_path, monkeypatch):
    target = made_folder(tmp_path / "bundle", "old")
    if not exchange(made_folder(tmp_path / "a", "a"), made_folder(tmp_path / "b", "b")):
        pytest.skip("this system or file system has no such step")
    monkeypatch.setattr(Path, "replace", lambda self, to: pytest.fail(f"{self} is away for a moment"))
    with replacing_folder(target) as partial:
        (partial / "data").write_text("new")
    assert (target / "data").read_text() == "new"
    assert sorted(names(tmp_path)) == ["a", "b", "bundle"]


def test_where_folders_cannot_be_exchanged_they_are_renamed(tmp_path, monkeypatch):
    target = made_folder(tmp_path / "bundle", "old")
    monkeypatch.setattr(folders, "exchange", lambda one, other: False)
    with replacing_folder(target) as partial:
        (partial / "data").write_text("new")
    assert (target / "data").read_text() == "new"
    assert names(tmp_path) == ["bundle"]


@pytest.mark.skipif(sys.platform != "linux", reason="other systems cannot")
def test_an_exchange_is_of_two_that_are_there(tmp_path):
    first, second = made_folder(tmp_path / "first", "1"), made_folder(tmp_path / "second", "2")
    if exchange(first, second):
        assert [(folder / "data").read_text() for folder in (first, second)] == ["2", "1"]
    with pytest.raises(FileNotFoundError, match="none"):
        exchange(first, tmp_path / "none")


@pytest.mark.parametrize("kind", ["folder", "file"])
def test_what_is_not_ours_is_refused_before_any_work(tmp_path, kind):
    target = tmp_path / "thesis"
    if kind == "folder":
        target.mkdir()
        (target / "chapter1").write_text("years of work")
    else:
        target.write_text("years of work")
    with pytest.raises(InputError, match="thesis: exists and has no manifest.json"), replacing_folder(target):
        pytest.fail("the block must not run")
    assert "years of work" in (target / "chapter1" if kind == "folder" else target).read_text()


@pytest.mark.parametrize("listed", ["hashes", "files"])
def test_a_file_that_somebody_put_into_a_folder_of_ours_is_not_lost(tmp_path, listed):
    target = made_folder(tmp_path / "bundle", "old")
    write_json(target / "manifest.json", {listed: {"data": "its hash"}})
    (target / ".DS_Store").write_text("a desktop's")
    (target / "notes").mkdir()
    (target / "notes" / "chapter1").write_text("years of work")
    with pytest.raises(InputError, match=r"bundle: notes/chapter1 in it .* would be lost"), replacing_folder(target):
        pytest.fail("the block must not run")
    assert (target / "notes" / "chapter1").read_text() == "years of work"
    (target / "notes" / "chapter1").unlink()
    with replacing_folder(target) as partial:
        (partial / "data").write_text("new")
    assert (target / "data").read_text() == "new"


def test_a_folder_without_a_manifest_may_hold_the_names_it_may_hold(tmp_path):
    (tmp_path / "a").mkdir()
    for name in ("mark", "part-1.csv"):
        (tmp_path / "a" / name).write_text("old")
    own = ("mark", "part-*.csv")
    with replacing_folder(tmp_path / "a", marker="mark", own=own) as partial:
        (partial / "mark").write_text("new")
    (tmp_path / "a" / "log.csv").write_text("years of work")
    with (
        pytest.raises(InputError, match=r"a: log\.csv in it"),
        replacing_folder(tmp_path / "a", marker="mark", own=own),
    ):
        pytest.fail("the block must not run")


@pytest.mark.parametrize(
    ("kind", "words"), [("bundle", "the bundle"), ("prepared-data", "the prepared data set"), ("onnx", "the export")]
)
def test_nothing_is_written_into_a_folder_that_holds_what_its_manifest_lists(tmp_path, kind, words):
    (tmp_path / "b" / "items").mkdir(parents=True)
    write_json(tmp_path / "b" / "manifest.json", {"kind": kind})
    with pytest.raises(InputError, match=f"lies inside {words} .*b, which takes no other files"):
        check_outside(tmp_path / "b" / "items" / "vectors.parquet")
    check_outside(tmp_path / "b-vectors.parquet")
    (tmp_path / "b" / "manifest.json").write_text("{")  # of another program
    check_outside(tmp_path / "b" / "items" / "vectors.parquet")


def test_the_current_folder_and_a_link_can_be_targets(tmp_path, monkeypatch):
    made_folder(tmp_path / "real", "old")
    (tmp_path / "link").symlink_to(tmp_path / "real")
    with replacing_folder(tmp_path / "link") as partial:
        (partial / "manifest.json").write_text("{}")
        (partial / "data").write_text("by link")
    assert (tmp_path / "link").is_symlink()
    assert (tmp_path / "real" / "data").read_text() == "by link"
    monkeypatch.chdir(tmp_path / "real")
    with replacing_folder(Path()) as partial:
        (partial / "data").write_text("by dot")
    assert (tmp_path / "real" / "data").read_text() == "by dot"
