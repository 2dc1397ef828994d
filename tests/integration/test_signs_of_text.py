"""Signs of text files: decimal commas, quotes behind a backslash, gzip that is none; and what cannot be a split."""

from __future__ import annotations

import csv
import gzip
import io
import itertools
import logging
import zipfile
from pathlib import Path

import duckdb
import numpy as np
import pytest

from twotower.core.errors import InputError
from twotower.data.dataset import Dataset
from twotower.data.prepare.arrays import equal_seconds
from twotower.data.prepare.encode import prepare_table
from twotower.data.prepare.prepare import prepare
from twotower.data.prepare.rows import rows_of
from twotower.data.prepare.spec import Spec
from twotower.data.sources.archives import unpack
from twotower.diagnosis.load import load_table

LOG = "user;item;stars;when\n" + "".join(
    f"u{user};i{item};{item % 5},5;16000{user}{item}000,25\n" for user in range(6) for item in range(5)
)
ITEMS = "id;price;place;name\n" + "".join(f"i{item};{item},{item}5;0,{item} -1,5 ,25;1,{item}\n" for item in range(5))
TABLE = """[label]
at_least = 2.5
keep = "all"
[items]
path = "items.csv"
separator = ";"
id = "id"
decimal = ","
[items.features]
price = "numeric"
place = "vector"
name = "categorical"
"""


def made(folder: Path, log: str | bytes, keys: str = "", tables: str = "", name: str = "log.csv") -> Dataset:
    (folder / name).write_bytes(log.encode() if isinstance(log, str) else log)
    spec = f'name = "t"\n[interactions]\npath = "{name}"\nuser = "user"\nitem = "item"\n{keys}\n{tables}'
    (folder / "spec.toml").write_text(spec, encoding="utf-8")
    return Dataset.load(prepare(Spec.from_toml(folder / "spec.toml"), folder / "out"))


def treatments(data: Dataset) -> str:
    return "\n".join(data.manifest["treatments"])


RATED = 'separator = ";"\ntime = "when"\nvalue = "stars"\n'


def test_numbers_with_a_decimal_comma_are_read_where_the_spec_says_so(tmp_path, caplog):
    (tmp_path / "items.csv").write_text(ITEMS)
    data = made(tmp_path, LOG, RATED + 'decimal = ","', TABLE)
    assert data.log.labels.tolist() == [0.0, 0.0, 1.0, 1.0, 1.0] * 6
    assert data.log.times[:3].tolist() == [1600000000, 1600001000, 1600002000]
    assert data.item_features["price"][2:].tolist() == pytest.approx([item + item / 10 + 0.05 for item in range(5)])
    places = np.array([[item / 10, -1.5, 0.25] for item in range(5)])
    np.testing.assert_allclose(data.item_features["place"][2:].numpy(), places, rtol=1e-6)
    (tmp_path / "more.csv").write_text("id;price;place;name\nz;7,5;1,5 2 3;1,3\ny;1;1 2;no\n")
    with caplog.at_level(logging.WARNING):
        ids, features = prepare_table(tmp_path / "more.csv", data.schema, data.folder / "vocabulary", "item")
    assert (ids, features["price"].tolist()) == (["z", "y"], [7.5, 1.0])
    assert features["place"].tolist() == [[1.5, 2.0, 3.0], [0.0, 0.0, 0.0]]
    assert features["name"].tolist()[1] == 1 < features["name"].tolist()[0]  # "1,3" is a word and was not made "1.3"
    assert caplog.messages == [
        f"{tmp_path}/more.csv: feature 'place': rows that do not hold 3 finite numbers: 1; they are zeros"
    ]


def test_cells_that_are_no_numbers_are_told_wherever_a_table_is_read(tmp_path, caplog):
    (tmp_path / "items.csv").write_text(ITEMS)
    data = made(tmp_path, LOG, RATED + 'decimal = ","', TABLE)
    rows = [{"id": "z", "price": "cheap", "name": "1,1", "place": [1.0, 2.0, 3.0]}, {"id": "y", "price": None}]
    prepare_table(rows, data.schema, data.folder / "vocabulary", "item")
    assert caplog.messages == ["the item: feature 'price': cells that are no finite number: 1; they count as missing"]


def test_points_among_decimal_commas_are_no_numbers_alone_and_stay_in_lists(tmp_path):
    vectors = ["0,5 -1,5 ,25", "[0.5,-1.5,.25]", "0.5 -1.5 0.25", "[0,5 -1,5 0,25]"]
    rows = [f"i{row};1,5;{vector};a" for row, vector in enumerate(vectors)] + ["i4;1.234;0,5 -1,5 0,25;a"]
    (tmp_path / "items.csv").write_text("\n".join(["id;price;place;name", *rows]))
    data = made(
        tmp_path, LOG.replace("u5;i4;4,5", "u5;i4;1.234,5"), RATED + 'max_bad_share = 0.1\ndecimal = ","', TABLE
    )
    assert data.manifest["rows"]["log"]["first_malformed"] == [
        "log.csv line 31: stars is '1.234,5 (with a point)', not a number"
    ]
    assert data.item_features["price"][2:].isnan().tolist() == [False] * 4 + [True]
    places = data.item_features["place"][2:]
    assert places.tolist() == [[0.5, -1.5, 0.25]] * 5
    assert "item feature price: 1 cells are not finite numbers" in treatments(data)


def test_a_decimal_comma_that_nobody_announced_is_told_with_its_cure(tmp_path):
    with pytest.raises(InputError, match=r"line 2: time is .* for decimal commas set decimal = ','; over the 1.00%"):
        made(tmp_path, LOG.replace("when", "time"), 'separator = ";"\ntime = "time"')
    words = "user,item,when\n" + "a,b,x\n" * 9
    with pytest.raises(InputError) as caught:
        made(tmp_path, words, 'time = "when"')
    assert "decimal" not in str(caught.value)


ESCAPED = 'user,item,note\nu1,"i ""1""",a\n' + "".join(
    f'u{user},"i \\"{item}\\", and\nmore \\\\",x\n' for user in range(5) for item in range(4)
)


def test_quotes_behind_a_backslash_are_read_where_the_spec_says_so(tmp_path):
    text = ESCAPED.replace('u1,"i ""1""",a\n', "")
    wanted = {row["item"] for row in csv.DictReader(io.StringIO(text), doublequote=False, escapechar="\\")}
    data = made(tmp_path, text, r"escape = '\'")
    assert data.manifest["counts"]["events"] == 20
    with duckdb.connect() as connection:
        found = connection.execute(f"SELECT id FROM '{tmp_path}/out/vocabulary/items.parquet'").fetchall()
    assert {id for (id,) in found} == wanted
    lines = data.manifest["rows"]["log"]["lines"]
    assert lines == {"read": 40, "malformed": 0, "blank": 0, "header": 1}
    with pytest.raises(
        InputError, match=r"a quote that is not closed.*for quotes behind a backslash set escape = '\\'"
    ):
        made(tmp_path, text)
    with pytest.raises(InputError) as caught:
        made(tmp_path, 'user,item\na,"b\n' * 9)
    assert "backslash" not in str(caught.value)


def test_lines_of_faults_are_right_beside_escaped_quotes(tmp_path):
    text = ESCAPED.replace('u1,"i ""1""",a\n', "") + "bad\n" + 'u9,"i \\"9\\"",x\n'
    data = made(tmp_path, text, "escape = '\\'\nmax_bad_share = 0.1")
    assert data.manifest["rows"]["log"]["first_malformed"] == ["log.csv line 42: too few columns: 1, not 3"]
    with pytest.raises(InputError) as caught:
        made(tmp_path, text.replace("bad\n", 'bad \\"\n' * 9), r"escape = '\'")
    assert "set escape" not in str(caught.value)


@pytest.mark.parametrize(
    ("text", "opened"),
    [
        ('a,"b\\"\nc",d\n', [(1, 2)]),
        ('a,"b\\\\"\nc,d\n', [(1, 1), (2, 1)]),
        ('a,b\\"\nc,d\n', [(1, 1), (2, 1)]),
        ('"a",b\\d,e\nf,g,h\n', [(1, 1), (2, 1)]),
    ],
)
def test_rows_with_an_escape(tmp_path, text, opened):
    (tmp_path / "t.csv").write_text(text)
    rows = rows_of(tmp_path / "t.csv", ",", '"', 3, "\\")
    assert [(row.first, row.lines) for row in rows] == opened


@pytest.mark.parametrize(
    ("keys", "said"),
    [
        ("decimal = ';'", "decimal must be '.' or ','"),
        ("escape = '--'", "escape must be one letter of ASCII"),
        ("escape = '|'\nseparator = '||'", "separator '||' holds the escape '|'; one must differ"),
        ("escape = 'x'\nquote = ''", "escape = 'x' is for quoted cells, and quote is empty"),
    ],
)
def test_signs_that_cannot_be(tmp_path, keys, said):
    with pytest.raises(InputError, match=said):
        made(tmp_path, "user,item\na,b\n", keys)


@pytest.mark.parametrize(
    ("split", "said"),
    [
        ("kind = 'last-n'\nn = -5", "n must be a whole number of at least 1, got -5"),
        ("kind = 'random-ratio'\nratio = [-8, 1, 1]", "ratio must be three positive numbers"),
        ("kind = 'cold-users'\nratio = [8, 1]", "ratio must be three positive numbers"),
        ("kind = 'by-user'\nfold_in = 1.5", "fold_in must be a number between 0 and 1, got 1.5"),
        ("kind = 'global-time'\ntest_share = 0.0", "test_share must be a number between 0 and 1, got 0.0"),
    ],
)
def test_a_split_that_nobody_can_make_is_refused_before_work(tmp_path, split, said):
    with pytest.raises(InputError, match=rf"spec\.toml: split .*{said}"):
        made(tmp_path, "user,item\na,b\n", "", f"[split]\n{split}")
    assert not (tmp_path / "out").exists()


def test_an_empty_path_is_told_with_the_spec(tmp_path):
    (tmp_path / "spec.toml").write_text('name = "t"\n[interactions]\npath = ""\nuser = "u"\nitem = "i"\n')
    with pytest.raises(InputError, match=r"spec\.toml: \[interactions\] path names no file"):
        Spec.from_toml(tmp_path / "spec.toml")


def test_files_called_gz_that_are_none_and_those_packed_twice(tmp_path):
    log = b"user,item\n" + b"a,b\na,c\nb,b\nb,c\n"
    assert made(tmp_path, log, name="plain.csv.gz").log.num_events == 4
    assert made(tmp_path, gzip.compress(log), name="once.csv.gz").log.num_events == 4
    with pytest.raises(InputError, match=r"twice\.csv\.gz: is packed by gzip twice; unpack it once"):
        made(tmp_path, gzip.compress(gzip.compress(log)), name="twice.csv.gz")
    with pytest.raises(InputError, match=r"noise\.csv\.gz: is called \.gz, but is neither packed by gzip nor text"):
        made(tmp_path, bytes(range(256)) * 9, name="noise.csv.gz")
    with pytest.raises(InputError, match=r"sheet\.csv\.gz: is a zip archive or a spreadsheet"):
        made(tmp_path, gzip.compress(b"PK\x03\x04" + log), name="sheet.csv.gz")


def test_a_link_in_a_zip_is_refused_as_in_a_tar(tmp_path):
    with zipfile.ZipFile(tmp_path / "a.zip", "w") as packed:
        link = zipfile.ZipInfo("passwords")
        link.external_attr = 0o120777 << 16
        packed.writestr(link, "/etc/passwd")
    with pytest.raises(InputError, match="its member 'passwords' is a link or device"):
        unpack(tmp_path / "a.zip", tmp_path / "to")
    assert not list((tmp_path / "to").iterdir())


def test_equal_seconds_are_counted_within_users_alone(tmp_path):
    rng = np.random.default_rng(0)
    lengths = rng.integers(0, 7, 60)
    offsets = np.concatenate([[0], np.cumsum(lengths)])
    times = np.concatenate([np.sort(rng.integers(0, 4, length)) for length in lengths])
    np.save(tmp_path / "times.npy", times)
    np.save(tmp_path / "offsets.npy", offsets)
    wanted = 0
    for start, end in itertools.pairwise(offsets):
        for place in range(start + 1, end):
            wanted += int(times[place] == times[place - 1])
    assert wanted > 0
    assert [equal_seconds(tmp_path, block) for block in (1, 2, 7, 1 << 20)] == [wanted] * 4


def test_equal_times_are_told_only_where_there_are_some(tmp_path):
    rows = "user,item,time\na,x,1600000000\na,y,1600000001\nb,x,1600000001\nb,y,1600000002\n"
    assert "same second" not in treatments(made(tmp_path, rows, 'time = "time"'))
    more = made(tmp_path, rows + "b,z,1600000002\nb,x,1600000002\n", 'time = "time"')
    assert "2 events fall in the same second as the user's event before: equal times" in treatments(more)


def test_a_time_that_is_infinite_is_no_date(tmp_path):
    rows = "user,item,time\n" + "a,x,inf\n" * 9
    with pytest.raises(InputError) as caught:
        made(tmp_path, rows, 'time = "time"')
    assert "time is 'inf', not a number" in str(caught.value)
    assert "date" not in str(caught.value)


def test_vectors_of_diagnose_in_a_text_of_json_and_in_another_encoding(tmp_path):
    rng = np.random.default_rng(0)
    vectors = rng.normal(size=(20, 4)).round(3)
    rows = [f'{{"id": "i{row}", "Vector": "{" ".join(map(str, vector))}"}}' for row, vector in enumerate(vectors)]
    (tmp_path / "v.jsonl").write_text("\n".join(rows))
    table = load_table(tmp_path / "v.jsonl")
    np.testing.assert_allclose(np.asarray(table.vectors), vectors)
    assert list(table.ids)[:2] == ["i0", "i1"]
    (tmp_path / "v.csv").write_bytes("id,title,a,b\ni1,Müll,1,2\n".encode("latin-1"))
    with pytest.raises(
        InputError,
        match=r"v\.csv: not a readable text table: byte 0xfc is none of UTF-8; save it as UTF-8, as by: iconv",
    ):
        load_table(tmp_path / "v.csv")
