import errno
import hashlib
import os
import stat
from pathlib import Path

import pytest

from twotower.core.errors import InputError
from twotower.core.files import hash_folder, read_json, replacing_file, sha256, write_json


def disk_full(*_args, **_kwargs):
    raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))


def names(folder: Path) -> list[str]:
    return [path.name for path in folder.iterdir()]


def test_file_appears_only_when_complete(tmp_path):
    target = tmp_path / "deep" / "a.txt"
    with replacing_file(target) as partial:
        partial.write_text("new")
        assert not target.exists()
    assert target.read_text() == "new"
    assert names(target.parent) == ["a.txt"]


def test_file_gets_the_usual_permissions(tmp_path):
    old = os.umask(0o027)
    try:
        with replacing_file(tmp_path / "a") as partial:
            partial.write_text("x")
    finally:
        os.umask(old)
    assert stat.S_IMODE((tmp_path / "a").stat().st_mode) == 0o640


@pytest.mark.parametrize("failure", [OSError(errno.ENOSPC, "No space left on device"), KeyboardInterrupt()])
def test_a_failed_file_leaves_the_old_one_and_no_litter(tmp_path, failure):
    target = tmp_path / "a.txt"
    target.write_text("old")
    with pytest.raises(type(failure)), replacing_file(target) as partial:
        partial.write_text("half")
        raise failure
    assert target.read_text() == "old"
    assert names(tmp_path) == ["a.txt"]


def test_disk_full_while_writing_json_leaves_the_old_file(tmp_path, monkeypatch):
    target = tmp_path / "a.json"
    write_json(target, {"old": 1})
    monkeypatch.setattr(Path, "write_text", disk_full)
    with pytest.raises(OSError, match="No space left"):
        write_json(target, {"new": 2})
    monkeypatch.undo()
    assert read_json(target) == {"old": 1}
    assert names(tmp_path) == ["a.json"]


def test_disk_full_at_the_flush_leaves_the_old_file(tmp_path, monkeypatch):
    target = tmp_path / "a.json"
    write_json(target, {"old": 1})
    monkeypatch.setattr(os, "fsync", disk_full)
    with pytest.raises(OSError, match="No space left"):
        write_json(target, {"new": 2})
    assert read_json(target) == {"old": 1}
    assert names(tmp_path) == ["a.json"]


def test_what_is_flushed_may_be_written_as_windows_wants_it(tmp_path, monkeypatch):
    flushed = []

    def flush(handle):
        flushed.append(os.write(handle, b""))  # fails on a handle for reading

    monkeypatch.setattr(os, "fsync", flush)
    write_json(tmp_path / "a.json", {"new": 2})
    assert flushed == [0]
    assert read_json(tmp_path / "a.json") == {"new": 2}


def test_json_keeps_text_and_refuses_what_json_lacks(tmp_path):
    path = tmp_path / "a.json"
    write_json(path, {"title": "Amélie", "score": 0.1})
    assert "Amélie" in path.read_text(encoding="utf-8")
    assert read_json(path) == {"title": "Amélie", "score": 0.1}
    with pytest.raises(ValueError, match="JSON"):
        write_json(path, {"score": float("nan")})
    assert read_json(path)["score"] == 0.1


@pytest.mark.parametrize(
    ("content", "message"), [(None, "no such file"), (b"{", "not valid JSON"), (b"\xff\xfe{}", "not valid JSON")]
)
def test_bad_json_is_named_in_one_line(tmp_path, content, message):
    path = tmp_path / "a.json"
    if content is not None:
        path.write_bytes(content)
    with pytest.raises(InputError, match=f"a.json: {message}"):
        read_json(path)


def test_hashes_are_sha256_by_relative_path(tmp_path):
    (tmp_path / "log").mkdir()
    (tmp_path / "log" / "a").write_bytes(b"abc")
    (tmp_path / "manifest.json").write_text("{}")
    expected = hashlib.sha256(b"abc").hexdigest()
    assert sha256(tmp_path / "log" / "a") == expected
    assert hash_folder(tmp_path) == {"log/a": expected}
    assert set(hash_folder(tmp_path, leave_out=())) == {"log/a", "manifest.json"}
