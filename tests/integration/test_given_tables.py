"""New tables beside a bundle are read as the training table was: separator, encoding, quote sign, names of columns."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from twotower.cli.main import main

FEATURES = '[items.features]\ngenre = "categorical"\n'


def call(capsys: pytest.CaptureFixture[str], *words: object) -> tuple[int, str, str]:
    with pytest.raises(SystemExit) as stop:
        main([str(word) for word in words])
    out, err = capsys.readouterr()
    assert isinstance(stop.value.code, int)
    return stop.value.code, out, err


def bundle(folder: Path, capsys: pytest.CaptureFixture[str], table: str, source: str, encoding: str) -> Path:
    """A bundle whose items have a genre, from a table that is written as ``source`` says."""
    (folder / "items.dat").write_bytes(table.encode(encoding))
    events = [
        f"{user},{(user * 3 + place) % 12 + 1},{100 * user + place}" for user in range(1, 13) for place in range(5)
    ]
    (folder / "log.csv").write_text("user,item,time\n" + "\n".join(events) + "\n")
    (folder / "spec.toml").write_text(
        'name = "given"\n[interactions]\npath = "log.csv"\nuser = "user"\nitem = "item"\n'
        'time = "time"\nunit = "order"\n'
        f'[items]\npath = "items.dat"\nid = "item"\ntitle = "title"\n{source}\n{FEATURES}'
    )
    for words in (
        ("data", "prepare", folder / "spec.toml", "--to", folder / "out"),
        ("train", "--data", folder / "out", "--model", "two_tower", "--to", folder / "b", "--set", "training.epochs=1"),
    ):
        status, _, err = call(capsys, *words)
        assert status == 0, err
    return folder / "b"


LATIN = 'format = "csv"\nseparator = ";"\nencoding = "latin-1"'
MOVIELENS = 'format = "csv"\nseparator = "::"\nquote = ""\ncolumns = ["item", "title", "genre"]'


def lines(separator: str, header: bool = True) -> str:
    rows = [f"{item}{separator}Amélie {item}{separator}g{item % 3}" for item in range(1, 13)]
    return "\n".join([*([separator.join(("item", "title", "genre"))] if header else []), *rows]) + "\n"


@pytest.fixture(scope="module")
def kept() -> dict[tuple[str, str], Path]:
    """The bundle of each table, which is trained once and only read."""
    return {}


@pytest.mark.parametrize(
    ("source", "table", "name", "new", "encoding"),
    [
        (LATIN, lines(";"), "new.csv", "item;title;genre\nn1;Été;g1\nn2;Fin;g2\n", "latin-1"),
        (LATIN, lines(";"), "new.dat", "item;title;genre\nn1;Été;g1\nn2;Fin;g2\n", "latin-1"),
        (LATIN, lines(";"), "new.csv", "item,title,genre\nn1,Été,g1\nn2,Fin,g2\n", "utf-8"),
        (LATIN, lines(";"), "new.tsv", "item\ttitle\tgenre\nn1\tÉté\tg1\nn2\tFin\tg2\n", "utf-8"),
        (MOVIELENS, lines("::", header=False), "new.dat", "n1::Été::g1\nn2::Fin::g2\n", "utf-8"),
        (MOVIELENS, lines("::", header=False), "new.dat", "genre::item::title\ng1::n1::Été\ng2::n2::Fin\n", "utf-8"),
    ],
    ids=["latin-1", "without an extension that is known", "plain", "tabs", "no header", "own header"],
)
def test_new_items_are_read_as_the_training_table_was(
    source: str,
    table: str,
    name: str,
    new: str,
    encoding: str,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    tmp_path_factory: pytest.TempPathFactory,
    kept: dict[tuple[str, str], Path],
) -> None:
    if (table, source) not in kept:
        folder = tmp_path_factory.mktemp("given")
        kept[table, source] = bundle(folder, capsys, table, source, "latin-1" if source == LATIN else "utf-8")
    made = kept[table, source]
    (tmp_path / name).write_bytes(new.encode(encoding))
    status, out, err = call(capsys, "similar", made, "--items", tmp_path / name, "-k", "1", "--json", "--among", "file")
    assert status == 0, err
    assert [(row["query"], row["title"]) for row in json.loads(out)["items"]] == [("n1", "Fin"), ("n2", "Été")]
    status, out, err = call(capsys, "diagnose", tmp_path / name, "--bundle", made, "--json")
    assert status in (0, 3), err
    assert json.loads(out)["serving"]["rows"] == 2
    assert not [note for note in json.loads(out)["notes"] if "no column" in note]


def test_a_column_of_unknown_values_is_told_in_every_verb_that_reads_a_table(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], caplog: pytest.LogCaptureFixture
) -> None:
    folder = bundle(tmp_path, capsys, lines(","), 'format = "csv"', "utf-8")
    new, some = tmp_path / "new.csv", tmp_path / "some.csv"
    new.write_text("item,title,genre\nn1,Été,G1\nn2,Fin,G2\n")
    some.write_text("item,title,genre\nn1,Été,G1\nn2,Fin,g2\n")
    expected = f"{new}: training had none of the values of column 'genre': all are unknown"
    assert notices(capsys, folder, new) == [expected]
    assert notices(capsys, folder, some) == []
    caplog.clear()
    assert call(capsys, "add-items", folder, new, "--to", tmp_path / "grown")[0] == 0
    assert expected in caplog.messages


def notices(capsys: pytest.CaptureFixture[str], folder: Path, table: Path) -> list[str]:
    told: list[str] = json.loads(call(capsys, "similar", folder, "--items", table, "-k", 1, "--json")[1])["notices"]
    return told
