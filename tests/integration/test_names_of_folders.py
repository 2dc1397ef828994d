"""Folders whose names hold pattern signs are those folders, in every verb, whatever lies beside them."""

from __future__ import annotations

import json
from pathlib import Path

import duckdb
import pytest

from twotower.cli.main import main


def call(capsys: pytest.CaptureFixture[str], *words: object) -> str:
    """What a command prints on standard output; the test fails when it fails."""
    with pytest.raises(SystemExit) as stop:
        main([str(word) for word in words])
    out, err = capsys.readouterr()
    assert stop.value.code == 0, err
    return out


def prepared(folder: Path, letter: str, capsys: pytest.CaptureFixture[str], days: int = 0) -> Path:
    """A data set in the folder, its items named by a letter."""
    folder.mkdir()
    rows = [
        f"u{u},{letter}{(u + step) % 6},{days * 86_400 + 1_600_000_000 + step}" for u in range(8) for step in range(4)
    ]
    (folder / "log.csv").write_text("user,item,time\n" + "\n".join(rows) + "\n")
    items = [f"{letter}{item},Title {letter}{item},{letter}{item % 2}" for item in range(6)]
    (folder / "items.csv").write_text("item,title,genre\n" + "\n".join(items) + "\n")
    (folder / "spec.toml").write_text(
        'name = "named"\n[interactions]\npath = "log.csv"\nuser = "user"\nitem = "item"\ntime = "time"\n'
        '[items]\npath = "items.csv"\nid = "item"\ntitle = "title"\n[items.features]\ngenre = "categorical"\n'
    )
    call(capsys, "data", "prepare", folder / "spec.toml", "--to", folder / "out")
    return folder / "out"


@pytest.mark.parametrize("name", ["d[1]", "d*?", "d 'x'"])
def test_a_folder_is_the_one_that_is_named(tmp_path: Path, capsys: pytest.CaptureFixture[str], name: str) -> None:
    for beside in ("d1", "d2"):  # what a pattern would bring along
        (tmp_path / beside / "b" / "vocabulary").mkdir(parents=True)
        for file, column in (("items", "id"), ("users", "id"), ("item.genre", "value"), ("columns", "side")):
            target = tmp_path / beside / "b" / "vocabulary" / f"{file}.parquet"
            duckdb.sql(f"SELECT range AS row, 'wrong' || range AS {column} FROM range(9)").write_parquet(str(target))
    folder = tmp_path / name
    data, bundle = prepared(folder, "a", capsys), folder / "b"
    call(capsys, "train", "--data", data, "--model", "two_tower", "--to", bundle, "--set", "training.epochs=1")
    told = json.loads(call(capsys, "recommend", bundle, "--user", "u1", "-k", 2, "--json"))
    assert {item["title"][:7] for item in told["items"]} == {"Title a"}
    (folder / "new.csv").write_text("item,title,genre\nn1,New,a1\n")
    nearest = json.loads(call(capsys, "similar", bundle, "--items", folder / "new.csv", "-k", 1, "--json"))
    assert nearest["items"][0]["id"].startswith("a")
    assert nearest["notices"] == []
    call(capsys, "evaluate", bundle, "--data", data)
    call(capsys, "recommend", bundle, "--all", "-k", 2, "--to", folder / "all.parquet")
    call(capsys, "vectors", bundle, "--to", folder / "vectors.parquet")
    call(capsys, "diagnose", bundle)
    call(capsys, "train", "--data", data, "--model", "popularity", "--to", folder / "other")
    call(capsys, "compare", bundle, folder / "other")


def test_newer_data_in_a_folder_named_by_a_pattern_are_taken_in(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    bundle = tmp_path / "bundle"
    data = prepared(tmp_path / "d*", "a", capsys)
    prepared(tmp_path / "d2", "b", capsys)
    call(capsys, "train", "--data", data, "--model", "two_tower", "--to", bundle, "--set", "training.epochs=1")
    newer = prepared(tmp_path / "e*", "a", capsys, days=3)
    prepared(tmp_path / "e2", "b", capsys)
    told = json.loads(call(capsys, "evaluate", bundle, "--data", newer, "--json"))
    assert told["items"] == 6
