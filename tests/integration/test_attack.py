"""What somebody else could do to a user's files: parts of another bundle, titles with code, a second writer."""

from __future__ import annotations

import json
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from twotower.cli.main import main
from twotower.core.errors import InputError
from twotower.core.lock import writing_alone
from twotower.models.encode import encode_known_items
from twotower.models.registry import build_model
from twotower.serving.bundle import changing_bundle
from twotower.serving.contents import Contents, write_bundle
from twotower.serving.retriever import load

NASTY = "</script><script>alert(1)</script>\x1b[31m\x1b]0;owned\x07\u202e [red]x[/red]"
SMALL = {"dim": 5, "field_dim": 3, "hidden": [4]}
HIDDEN = {"\x1b", "\x07", "\u202e", "\x9b"}


@pytest.fixture
def refused(capsys):
    """Run a command that must end with one short line and status 2; gives the line."""

    def refused(*words: object) -> str:
        with pytest.raises(SystemExit) as ended:
            main([str(word) for word in words])
        out, line = capsys.readouterr()
        assert (ended.value.code, out) == (2, ""), line[:300]
        assert line.count("\n") == 1
        assert len(line) < 500
        return line

    return refused


def files_of(folder: Path) -> list[str]:
    return sorted(path.relative_to(folder).as_posix() for path in folder.rglob("*") if path.is_file())


def test_a_file_of_another_bundle_of_equal_shape_is_refused_by_name(tmp_path, titled_dataset):
    one, other = tmp_path / "one", tmp_path / "other"
    for seed, folder in enumerate((one, other)):
        torch.manual_seed(seed)
        model = build_model("two_tower", titled_dataset.schema, SMALL)
        contents = Contents(
            model=model,
            model_name="two_tower",
            model_parameters=SMALL,
            dataset=titled_dataset,
            items=encode_known_items(model, titled_dataset),
            histories=titled_dataset.log,
        )
        write_bundle(folder, contents)
    assert files_of(one) == files_of(other)
    differ = [name for name in files_of(one) if (one / name).read_bytes() != (other / name).read_bytes()]
    assert {"weights.safetensors", "items/states.safetensors"} <= set(differ)
    for name in differ:
        mixed = tmp_path / "mixed" / name.replace("/", "-")
        shutil.copytree(one, mixed)
        shutil.copyfile(other / name, mixed / name)
        with pytest.raises(InputError, match="was changed after it was written"):
            load(mixed)


def test_two_files_of_a_bundle_in_each_other_s_place_are_refused(tmp_path, titled_dataset, write):
    write(tmp_path / "b", titled_dataset)
    first, second = (tmp_path / "b" / "vocabulary" / f"{side}.parquet" for side in ("users", "items"))
    kept = first.read_bytes()
    first.write_bytes(second.read_bytes())
    second.write_bytes(kept)
    with pytest.raises(InputError, match=r"vocabulary/items.parquet was changed"):
        load(tmp_path / "b")


@pytest.fixture
def nasty(tmp_path, monkeypatch) -> Path:
    """A prepared data set whose ids and titles hold code for a page and for a terminal."""
    monkeypatch.chdir(tmp_path)
    cell = f'"{NASTY}"'
    Path("log.csv").write_text(
        "user,item\n" + "".join(f"u{row % 4},i{row % 7}{'<b>' if row % 7 == 3 else ''}\n" for row in range(40))
    )
    Path("items.csv").write_text(
        "item,title\n" + "".join(f"i{row}{'<b>' if row == 3 else ''},{cell}\n" for row in range(7))
    )
    Path("spec.toml").write_text(
        'name = "n"\n[interactions]\npath = "log.csv"\nuser = "user"\nitem = "item"\n'
        '[items]\npath = "items.csv"\nid = "item"\ntitle = "title"\n'
    )
    with pytest.raises(SystemExit) as ended:
        main(["data", "prepare", "spec.toml", "--to", "prepared"])
    assert ended.value.code == 0
    settings = [word for pair in ("model.dim=4", "training.epochs=1") for word in ("--set", pair)]
    with pytest.raises(SystemExit) as ended:
        main(["train", "--model", "two_tower", "--data", "prepared", "--to", "bundle", *settings])
    assert ended.value.code == 0
    return tmp_path


@pytest.mark.slow
def test_titles_with_code_reach_neither_the_terminal_nor_the_page(nasty, capsys):
    capsys.readouterr()
    for words in (
        ["recommend", "bundle", "--user", "u1", "-k", "7"],
        ["recommend", "bundle", "--user", "u1", "--json"],
        ["similar", "bundle", "--item", "i3<b>"],
        ["diagnose", "bundle", "--html", "page.html"],
        ["data", "describe", "prepared"],
        ["similar", "bundle", "--item", NASTY],
    ):
        with pytest.raises(SystemExit):
            main(words)
        out, errors = capsys.readouterr()
        assert not HIDDEN & set(out + errors), words
        if words[0] == "recommend" and "--json" not in words:
            assert "<script>alert(1)" in re.sub(r"\s", "", out)
    page = Path("page.html").read_text(encoding="utf-8")
    assert page.count("<script") == 2  # its data and its own
    assert page.count("</script>") == 2
    assert "alert(1)" in page  # the title is there, as text
    data = json.loads(re.search(r'id="data">(.*?)</script>', page, re.S)[1])
    assert NASTY.split("\x1b")[0] in json.dumps(data)
    assert "<b>" not in page


def test_a_second_writer_is_refused_by_every_verb_that_writes_a_folder(nasty, refused, capsys):
    capsys.readouterr()
    hold = (
        "import sys, pathlib; from twotower.core.lock import writing_alone\n"
        "with writing_alone(pathlib.Path('out')), writing_alone(pathlib.Path('bundle')):\n"
        "    print('held', flush=True); sys.stdin.readline()"
    )
    first = subprocess.Popen([sys.executable, "-c", hold], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
    try:
        assert first.stdout is not None
        assert first.stdout.readline() == "held\n"
        before = {name: (nasty / "bundle" / name).read_bytes() for name in files_of(nasty / "bundle")}
        told = f"another process ({first.pid} on "
        assert told in refused("data", "prepare", "spec.toml", "--to", "out")
        assert told in refused("train", "--model", "popularity", "--data", "prepared", "--to", "out")
        assert told in refused("train", "--model", "popularity", "--data", "prepared", "--to", "bundle")
        assert told in refused("data", "get", "synthetic", "--to", "out", "--users", "20", "--items", "90")
        assert told in refused("index", "bundle", "--kind", "hnsw")
        assert {name: (nasty / "bundle" / name).read_bytes() for name in files_of(nasty / "bundle")} == before
        assert not Path("out").exists()
        assert not Path("out.run").exists()
    finally:
        first.communicate("done\n")


def test_a_bundle_is_changed_by_one_at_a_time(tmp_path, titled_dataset, write):
    write(tmp_path / "b", titled_dataset)
    with changing_bundle(tmp_path / "b") as (copy, _), writing_alone(tmp_path / "b"):
        (copy / "notes.txt").write_text("mine")
    assert (tmp_path / "b" / "notes.txt").read_text() == "mine"
