"""Files that stand where an archive would be unpacked, with links and where links are not allowed."""

from __future__ import annotations

from pathlib import Path

import pytest

from twotower.data.sources.fetch import _stand_in


@pytest.mark.parametrize("allowed", [True, False])
def test_a_file_or_folder_stands_there_with_or_without_links(allowed, tmp_path, monkeypatch):
    if not allowed:

        def refused(*_: object, **__: object) -> None:
            raise OSError("a required privilege is not held by the client")

        monkeypatch.setattr(Path, "symlink_to", refused)
    (tmp_path / "folder").mkdir()
    (tmp_path / "folder" / "a.csv").write_text("one")
    (tmp_path / "b.csv").write_text("two")
    _stand_in(tmp_path / "c.csv", tmp_path / "b.csv")
    _stand_in(tmp_path / "there", tmp_path / "folder")
    assert (tmp_path / "c.csv").read_text() == "two"
    assert (tmp_path / "there" / "a.csv").read_text() == "one"
    assert (tmp_path / "c.csv").is_symlink() == allowed
