"""Raw tables that other people's tools write: each test builds one kind of fault, small, and says what is right."""

import bz2
import gzip
import json
import lzma
from pathlib import Path

import duckdb
import numpy as np
import pytest

from twotower.core.engines.local import ThisProcess
from twotower.core.errors import InputError
from twotower.data.dataset import Dataset
from twotower.data.prepare.encode import prepare_table
from twotower.data.prepare.prepare import prepare
from twotower.data.prepare.spec import Spec
from twotower.serving.onnx.cells import Reader


def spec_of(tmp_path, path="log.csv", **more):
    sections = {key: more.pop(key) for key in ("label", "users", "items") if key in more}
    log = {"path": path, "user": "user", "item": "item"} | more
    return Spec.from_dict({"name": "made", "interactions": log, **sections}, folder=tmp_path)


def made(tmp_path, path="log.csv", **more):
    return Dataset.load(prepare(spec_of(tmp_path, path, **more), tmp_path / "out"))


def ids_of(data, side="item"):
    file = data.folder / "vocabulary" / f"{side}s.parquet"
    return [id for (id,) in duckdb.sql(f"SELECT id FROM read_parquet('{file}') ORDER BY row").fetchall()]


def values_of(data, feature):
    file = data.folder / "vocabulary" / f"item.{feature}.parquet"
    return [value for (value,) in duckdb.sql(f"SELECT value FROM read_parquet('{file}') ORDER BY value").fetchall()]


# One value, one text


@pytest.mark.parametrize("kind", ["DOUBLE", "FLOAT", "DECIMAL(38, 10)", "INTEGER", "BLOB", "csv", "jsonl"])
def test_whole_number_ids_have_one_text_whatever_the_file(tmp_path, kind):
    (tmp_path / "items.csv").write_text("item,colour\n1,red\n2,blue\n10,red\n")
    items = {"path": "items.csv", "id": "item", "features": {"colour": "categorical"}}
    pairs = [("a", 1), ("a", 2), ("b", 10), ("b", 1)]
    if kind == "csv":
        path = "log.csv"
        (tmp_path / path).write_text("user,item\n" + "".join(f"{user},{item}.000\n" for user, item in pairs))
    elif kind == "jsonl":
        path = "log.jsonl"
        lines = [json.dumps({"user": user, "item": float(item)}) for user, item in pairs]
        (tmp_path / path).write_text("\n".join(lines))
    else:
        path = "log.parquet"
        rows = ", ".join(f"('{user}', {item})" for user, item in pairs)
        cast = "item::VARCHAR::BLOB" if kind == "BLOB" else f"item::{kind}"
        duckdb.sql(f"COPY (SELECT u AS user, {cast} AS item FROM (VALUES {rows}) t(u, item)) TO '{tmp_path / path}'")
    data = made(tmp_path, path, items=items)
    assert ids_of(data) == ["1", "10", "2"]
    assert data.manifest["counts"]["items_without_row"] == 0


def test_text_that_only_looks_like_numbers_stays_as_it_is(tmp_path):
    for odd in ("007", "1e5", "1.0.2", "1.10"):
        (tmp_path / "log.csv").write_text(f"user,item\na,1.0\nb,{odd}\n")
        assert ids_of(made(tmp_path)) == sorted(["1.0", odd])


@pytest.mark.parametrize(
    ("number", "refused"), [("9007199254740993.0", True), ("9007199254740993", False), ("7.0", False)]
)
def test_ids_of_json_that_lost_digits_are_refused(tmp_path, number, refused):
    (tmp_path / "log.jsonl").write_text(f'{{"user": "a", "item": {number}}}\n{{"user": "b", "item": 1}}\n')
    if refused:
        with pytest.raises(InputError, match="floats of 9,007,199,254,740,992 and more, which have lost digits"):
            made(tmp_path, "log.jsonl")
    else:
        assert ids_of(made(tmp_path, "log.jsonl")) == ["1", number.removesuffix(".0")]


def test_a_broken_parquet_file_is_told_without_sql(tmp_path):
    (tmp_path / "log.parquet").write_text("user,item\na,x\n")
    with pytest.raises(InputError, match="log.parquet: cannot be read") as error:
        made(tmp_path, "log.parquet")
    assert "SELECT" not in str(error.value)


def test_ids_in_two_spellings_in_a_table_are_one_row(tmp_path):
    (tmp_path / "log.csv").write_text("user,item\na,1\nb,2.0\n")
    (tmp_path / "items.csv").write_text("item\n1.0\n1\n2\n")
    data = made(tmp_path, items={"path": "items.csv", "id": "item"})
    assert ids_of(data) == ["1", "2"]
    assert data.manifest["rows"]["items"]["repeated"] == 1


def test_years_and_booleans_with_gaps_are_read_later_as_in_training(tmp_path):
    (tmp_path / "log.csv").write_text("user,item\na,x\nb,y\n")
    (tmp_path / "items.csv").write_text("item,year,new,version\nx,1995.0,True,1.0\ny,,false,1.10\nz,1996.0,,1.1\n")
    features = {"year": "categorical", "new": "categorical", "version": "categorical"}
    data = made(tmp_path, items={"path": "items.csv", "id": "item", "features": features})
    assert values_of(data, "year") == ["1995", "1996"]
    assert values_of(data, "new") == ["false", "true"]
    assert values_of(data, "version") == ["1.0", "1.1", "1.10"]
    vocabulary = data.folder / "vocabulary"
    for year, new in ((1995, True), (1995.0, "TRUE"), ("1995.0", "true")):
        rows = [{"item": "x", "year": year, "new": new, "version": "1.0"}]
        _, read = prepare_table(rows, data.schema, vocabulary, "item")
        for name in features:
            assert read[name].tolist() == data.item_features[name][2:3].tolist(), (name, year)
    duckdb.sql(
        "COPY (SELECT 'x' AS item, 1995::DOUBLE AS year, true AS new, '1.0' AS version) "
        f"TO '{tmp_path / 'later.parquet'}'"
    )
    _, read = prepare_table(tmp_path / "later.parquet", data.schema, vocabulary, "item")
    assert all(read[name].tolist() == data.item_features[name][2:3].tolist() for name in features)


@pytest.mark.parametrize("equals", [1, 1.0, True, "true", "True"])
@pytest.mark.parametrize("yes", ["True", "true", "TRUE"])
def test_true_in_any_spelling_is_the_label_1(tmp_path, equals, yes):
    no = {"True": "False", "true": "false", "TRUE": "FALSE"}[yes]
    (tmp_path / "log.csv").write_text(f"user,item,liked\na,x,{yes}\nb,y,{yes}\na,y,{no}\n")
    data = made(tmp_path, label={"column": "liked", "equals": equals, "keep": "all"})
    assert data.log.labels.tolist() == [1, 0, 1]


# Files


LOG = "user,item\na,x\na,y\nb,x\n"


@pytest.mark.parametrize("ends", [("\r",), ("\r\n",), ("\n", "\r\n"), ("\r", "\n", "\r\n")])
@pytest.mark.parametrize("format", ["csv", "jsonl"])
def test_lines_end_in_any_way_and_in_several(tmp_path, ends, format, monkeypatch):
    monkeypatch.setattr("twotower.data.prepare.lines.BLOCK", 5)
    rows = LOG.splitlines() if format == "csv" else ['{"user":"a","item":"x"}'] * 2 + ['{"user":"b","item":"y"}']
    text = "".join(row + ends[place % len(ends)] for place, row in enumerate(rows))
    (tmp_path / f"log.{format}").write_bytes(text.encode())
    data = made(tmp_path, f"log.{format}")
    assert (data.log.num_events, ids_of(data)) == (3, ["x", "y"])


def test_a_packed_file_is_known_by_its_first_bytes(tmp_path):
    (tmp_path / "log.csv").write_bytes(gzip.compress(LOG.encode()))
    assert made(tmp_path).log.num_events == 3
    (tmp_path / "plain.csv.gz").write_text(LOG)
    assert made(tmp_path, "plain.csv.gz").log.num_events == 3
    (tmp_path / "half.csv.gz").write_bytes(gzip.compress(LOG.encode() * 99)[:40])
    with pytest.raises(InputError, match=r"half\.csv\.gz: begins as a gzip file but cannot be unpacked"):
        made(tmp_path, "half.csv.gz")


@pytest.mark.parametrize(
    ("content", "said"),
    [
        (bz2.compress(LOG.encode()), "is packed by bzip2; unpack it"),
        (lzma.compress(LOG.encode()), "is packed by xz; unpack it"),
        (b"\x28\xb5\x2f\xfd" + LOG.encode(), "is packed by zstd; unpack it"),
        (b"PK\x03\x04" + LOG.encode(), "is a zip archive or a spreadsheet; unpack it"),
        (b"PAR1" + LOG.encode(), "is a Parquet file: set format = 'parquet'"),
        (LOG.encode("utf-16"), "begins as UTF-16: set encoding = 'utf-16'"),
    ],
    ids=["bzip2", "xz", "zstd", "zip", "Parquet", "UTF-16"],
)
@pytest.mark.parametrize("name", ["log.csv", "log.jsonl"])
def test_a_file_that_is_no_plain_text_is_told_for_what_it_is(tmp_path, content, said, name):
    (tmp_path / name).write_bytes(content)
    with pytest.raises(InputError, match=rf"{name}: {said}"):
        made(tmp_path, name)


def test_a_folder_in_place_of_a_file_is_told_for_a_folder(tmp_path):
    (tmp_path / "log.csv").mkdir()
    with pytest.raises(InputError, match=r"log.csv: is a folder; name its files by a pattern, as log.csv/\*.csv"):
        made(tmp_path)
    (tmp_path / "gone.csv").symlink_to(tmp_path / "nothing.csv")
    with pytest.raises(InputError, match=r"gone.csv: no such file(?!.*gone)"):
        made(tmp_path, "gone.csv")


@pytest.mark.parametrize("name", ["log[1]", "log*", "log?", "~log"])
@pytest.mark.parametrize("format", ["csv", "jsonl", "parquet"])
def test_a_file_whose_name_holds_pattern_signs_is_that_file(tmp_path, name, format):
    copy = "(FORMAT json)" if format == "jsonl" else f"(FORMAT {format})"
    for stem, user in (("log1", "stranger"), (name, "own")):
        rows = f"('{user}', 'x'), ('{user}2', 'y')"
        made_file = tmp_path / f"made.{format}"
        duckdb.sql(f"COPY (FROM (VALUES {rows}) t(\"user\", item)) TO '{made_file}' {copy}")
        made_file.rename(tmp_path / f"{stem}.{format}")
    assert ids_of(made(tmp_path, f"{name}.{format}"), "user") == ["own", "own2"]


@pytest.mark.parametrize("name", ["~log.csv", "~/log.csv"])
def test_a_tilde_is_a_letter_of_a_name(tmp_path, monkeypatch, name):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "~").mkdir()
    (tmp_path / name).write_text(LOG)
    spec = {"name": "made", "interactions": {"path": name, "user": "user", "item": "item"}}
    data = Dataset.load(prepare(Spec.from_dict(spec, folder=Path()), Path("~out")))
    assert (data.log.num_events, (tmp_path / "~out").is_dir()) == (3, True)


@pytest.mark.parametrize("format", ["jsonl", "parquet"])
def test_ids_that_are_lists_or_objects_are_told(tmp_path, format):
    rows = "({'id': 'a b'}, ['x']), ({'id': 'b'}, ['y']), ({'id': 'b'}, ['x', 'z'])"
    copy = "(FORMAT json)" if format == "jsonl" else "(FORMAT parquet)"
    duckdb.sql(f"COPY (FROM (VALUES {rows}) t(\"user\", item)) TO '{tmp_path / 'log'}.{format}' {copy}")
    told = made(tmp_path, f"log.{format}").manifest["treatments"]
    assert any(line.startswith("2 ids of users are lists or objects, as text, such as '{") for line in told)
    assert any(line.startswith("3 ids of items are lists or objects, as text, such as '[") for line in told)


def test_ids_with_brackets_inside_are_not_told(tmp_path):
    (tmp_path / "log.csv").write_text("user,item\n[a] b,x\nc {d},{\ne,[x\n")
    assert not any("objects" in line for line in made(tmp_path).manifest["treatments"])


@pytest.mark.parametrize("format", ["csv", "jsonl"])
def test_names_are_compared_with_their_case(tmp_path, format):
    rows = [{"user": "a", "Item": "P", "item": "x"}, {"user": "b", "Item": "Q", "item": "y"}]
    if format == "csv":
        text = "user,Item,item\n" + "".join(",".join(row.values()) + "\n" for row in rows)
    else:
        text = "\n".join(map(json.dumps, rows))
    (tmp_path / f"log.{format}").write_text(text)
    assert ids_of(made(tmp_path, f"log.{format}")) == ["x", "y"]
    assert ids_of(Dataset.load(prepare(spec_of(tmp_path, f"log.{format}", item="Item"), tmp_path / "P"))) == ["P", "Q"]


@pytest.mark.parametrize("late_first", [False, True])
def test_a_json_key_counts_wherever_it_comes_first(tmp_path, late_first):
    (tmp_path / "log.csv").write_text("user,item\na,0\nb,1\n")
    rows = [{"item": number} | ({"brand": "b"} if number >= 2500 else {}) for number in range(2600)]
    lines = [json.dumps(row) for row in (reversed(rows) if late_first else rows)]
    (tmp_path / "items.jsonl").write_text("\n".join(lines))
    data = made(tmp_path, items={"path": "items.jsonl", "id": "item", "features": {"brand": "categorical"}})
    assert len(ids_of(data)) == 2600
    assert (data.item_features["brand"] == 2).sum() == 100


def test_a_column_may_have_any_name(tmp_path):
    names = ["__id", "__row", "__fault", "rowid", "place", "label", "a/b~c", 'with "quotes"', "row", "id"]
    (tmp_path / "log.csv").write_text("__fault,rowid\na,x\nb,y\n")
    header = ",".join('"' + name.replace('"', '""') + '"' for name in names)
    (tmp_path / "items.csv").write_text(f"{header}\n{','.join(['x', *'pqrstuvwz'])}\n")
    items = {"path": "items.csv", "id": "__id", "features": {"f": {"kind": "categorical", "column": "__row"}}}
    values = {"path": "log.csv", "user": "__fault", "item": "rowid"}
    spec = Spec.from_dict({"name": "made", "interactions": values, "items": items}, folder=tmp_path)
    data = Dataset.load(prepare(spec, tmp_path / "out"))
    assert ids_of(data) == ["x", "y"]
    assert values_of(data, "f") == ["p"]
    (tmp_path / "items.jsonl").write_text(json.dumps(dict(zip(names, ["x", *"pqrstuvwz"], strict=True))))
    ids, features = prepare_table(tmp_path / "items.jsonl", data.schema, data.folder / "vocabulary", "item")
    assert (ids, features["f"].tolist()) == (["x"], [2])


# Lines and rows


def titled(titles):
    return "user\titem\ttitle\n" + "".join(f"u{n % 9}\ti{n % 7}\t{title}\n" for n, title in enumerate(titles))


def lines_of(data, table="log"):
    lines = data.manifest["rows"][table]["lines"]
    return [lines[name] for name in ("read", "malformed", "blank", "header")]


def written(path, text, ends):
    """A file with these line ends on any machine."""
    path.write_bytes(text.replace("\n", ends).encode())


ENDS = pytest.mark.parametrize("ends", ["\n", "\r\n", "\r"], ids=["LF", "CRLF", "CR"])


@ENDS
@pytest.mark.parametrize(("close", "lost"), [(549, 251), (None, 301)])
def test_a_stray_quote_counts_every_line_that_it_swallows(tmp_path, close, lost, ends):
    titles = ["plain"] * 600
    titles[299] = '"open'
    if close:
        titles[close] = 'closed"'
    written(tmp_path / "log.tsv", titled(titles), ends)
    with pytest.raises(InputError, match=rf"log.tsv line 301: a quote .*, {lost} of 600 lines; over the 1.00%"):
        made(tmp_path, "log.tsv")
    data = made(tmp_path, "log.tsv", max_bad_share=0.6)
    assert lines_of(data) == [600 - lost, lost, 0, 1]
    assert data.log.num_events == 600 - lost
    assert f"{lost} of 600 lines" in "\n".join(data.manifest["treatments"])


@ENDS
def test_a_quoted_cell_over_several_lines_is_one_row_and_its_lines_are_told(tmp_path, ends):
    titles = ["plain"] * 20
    titles[3] = '"two\nlines"'
    titles[5] = '"a\n\ngap, and a ""quote"" in it"'
    titles[7] = 'an inch (") in a plain cell'
    written(tmp_path / "log.tsv", titled(titles).replace("u8", "\nu8"), ends)
    data = made(tmp_path, "log.tsv")
    assert data.log.num_events == 20
    assert lines_of(data) == [23, 0, 2, 1]
    assert "log: 3 lines go on in a quoted cell" in "\n".join(data.manifest["treatments"])


@ENDS
def test_lines_add_up_with_every_fault_at_once(tmp_path, ends):
    good = [f"u{n % 5},i{n % 7},{n}" for n in range(50)]
    bad = ['u1,"i\n1",soon', "u1", "", ",i1,3", "u1,i1,3,4", 'u1,"i2"x,3', ""]
    text = "\n".join(["user,item,time", *good[:20], *bad, *good[20:]])
    written(tmp_path / "log.csv", text, ends)
    data = made(tmp_path, time="time", max_bad_share=0.5)
    read, malformed, blank, header = lines_of(data)
    assert (read, malformed, blank, header) == (50, 6, 2, 1)
    assert read + malformed + blank + header == len(text.split("\n"))


@ENDS
@pytest.mark.parametrize("bad", ["u1", "u1,i1,3,4", "u1,\xff,3", "u1,i1,soon"])
@pytest.mark.parametrize("before", ["", "\n"], ids=["no gap", "gap"])
def test_a_fault_is_told_with_its_line(tmp_path, bad, ends, before):
    good = [f"u{n % 5},i{n % 7},{n}" for n in range(50)]
    text = "\n".join(["user,item,time", *good[:9], before + bad, *good[9:]])
    (tmp_path / "log.csv").write_bytes(text.replace("\n", ends).encode("latin-1"))
    data = made(tmp_path, time="time", max_bad_share=0.5)
    assert f"(log.csv line {12 if before else 11}: " in "\n".join(data.manifest["treatments"])


# Lists, times and specs


@pytest.mark.parametrize("separator", ["|", ","])
def test_lists_that_went_through_text_are_lists(tmp_path, separator):
    (tmp_path / "log.csv").write_text("user,item\na,x\nb,y\n")
    cells = ["['Action', 'Drama']", '["Action"]', "['Drama' \"Action\"]", "[]", "[The] Drama"]
    rows = "".join(f"{item}\t{cell}\n" for item, cell in zip("xyzvw", cells, strict=True))
    (tmp_path / "items.tsv").write_text("item\tgenres\n" + rows)
    genres = {"kind": "multi_categorical", "separator": separator}
    items = {"path": "items.tsv", "quote": "", "id": "item", "features": {"genres": genres}}
    assert values_of(made(tmp_path, items=items), "genres") == ["Action", "Drama", "[The] Drama"]


@pytest.mark.parametrize(
    ("cell", "values"),
    [
        ("[28, 12]", ["12", "28"]),
        ("[1.0, 2.0, nan]", ["1", "2"]),
        ("[]", ["other"]),
        ("('a', \"it's\")", ["a", "it's"]),
        ("{'a', 'b'}", ["a", "b"]),
        (r'["caf\u00e9", "a \"b\""]', ['a "b"', "café"]),
        (r"['it\'s \"so\"', 'b']", ["b", 'it\'s "so"']),
        ("['a', None]", ["a"]),
        ("['a, b' 'c|d']", ["a, b", "c|d"]),
        ("(1999)", ["(1999)"]),
    ],
)
def test_lists_of_any_kind_that_went_through_text_are_lists(tmp_path, cell, values):
    (tmp_path / "log.csv").write_text("user,item\na,x\nb,y\n")
    (tmp_path / "items.tsv").write_text(f"item\tgenres\nx\t{cell}\ny\t{'other' if values == ['other'] else cell}\n")
    genres = {"kind": "multi_categorical"}
    items = {"path": "items.tsv", "quote": "", "id": "item", "features": {"genres": genres}}
    data = made(tmp_path, items=items)
    assert values_of(data, "genres") == values
    assert "stand in brackets" not in "\n".join(data.manifest["treatments"])
    later = [{"item": "x", "genres": cell}]
    _, features = prepare_table(later, data.schema, data.folder / "vocabulary", "item")
    assert features["genres"].tolist() == np.load(data.folder / "items" / "genres.npy")[2:3].tolist()
    (tmp_path / "item.t.json").write_text(json.dumps({value: row for row, value in enumerate(values, start=2)}))
    told = {"columns": ["genres"], "joined": False, "kind": "multi_categorical", "size": 9, "width": 4}
    exported = Reader(tmp_path, "item", {**told, "separator": "", "form": "numbers", "table": "t"})
    found = exported.read({"genres": [cell if values != ["other"] else "other"]}, 1)[0]
    assert sorted(found[found > 0].tolist()) == list(range(2, 2 + len(values)))  # an export takes it apart alike


@pytest.mark.parametrize(
    ("cell", "separator"), [("[a, b]", "|"), ("[a, b]", ","), ('[{"id": 1}]', "|"), ("[['a'], ['b']]", "|")]
)
def test_brackets_that_are_no_list_are_told(tmp_path, cell, separator):
    (tmp_path / "log.csv").write_text("user,item\na,x\nb,y\n")
    (tmp_path / "items.tsv").write_text(f"item\tgenres\nx\t{cell}\ny\tc\n")
    genres = {"kind": "multi_categorical", "separator": separator}
    data = made(tmp_path, items={"path": "items.tsv", "quote": "", "id": "item", "features": {"genres": genres}})
    (told,) = [line for line in data.manifest["treatments"] if "brackets" in line]
    assert told.startswith("item feature genres: ")


@pytest.mark.parametrize("cell", ["[1, 2.5]", "(1,2.5)", "[1.\n  2.5]", "1 2.5", " [ 1e0 , 2.5 ] "])
def test_vectors_that_went_through_text_are_vectors(tmp_path, cell):
    (tmp_path / "log.csv").write_text("user,item\na,x\nb,y\n")
    (tmp_path / "items.csv").write_text(f'item,v\nx,"{cell}"\ny,"{cell}"\n')
    features = {"v": {"kind": "vector"}}
    data = made(tmp_path, items={"path": "items.csv", "id": "item", "features": features})
    assert np.load(data.folder / "items" / "v.npy")[2:].tolist() == [[1.0, 2.5]] * 2


@pytest.mark.parametrize(
    ("more", "said"),
    [
        ({"quote": "ab"}, "quote must be one letter"),
        ({"quote": "«"}, "quote must be one letter"),
        ({"separator": "\n"}, "separator must be up to four letters"),
        ({"separator": ":::::"}, "separator must be up to four letters"),
        ({"separator": '"'}, "holds the quote"),
    ],
)
def test_a_quote_or_separator_that_cannot_be_one_is_refused(tmp_path, more, said):
    with pytest.raises(InputError, match=said):
        spec_of(tmp_path, **more)


@pytest.mark.parametrize(
    ("unit", "when", "noticed"),
    [("ms", 1_700_000_000, True), ("s", 45_000, True), ("ns", 1_700_000_000 * 10**9, False), ("s", 10**9, False)],
)
def test_times_that_all_lie_in_the_first_years_are_noticed(tmp_path, unit, when, noticed):
    (tmp_path / "log.csv").write_text(f"user,item,time\na,x,{when}\nb,y,{when + 1}\n")
    data = made(tmp_path, time="time", unit=unit)
    assert ("is it another unit" in "\n".join(data.manifest["treatments"])) == noticed
    if unit == "ns":
        assert data.log.times.tolist() == [1_700_000_000] * 2


@pytest.mark.parametrize(
    ("odd", "said"),
    [
        ([0, 0, -1], "3 events have a time in 'time' of 0 or less, in 1970 or before, and others lie later"),
        ([4_102_444_800, 9_000_000_000], "2 events lie after the year 2100 when 'time' is read as unit 's'"),
        ([1_700_000_000, 40_000_000], None),
        ([3], None),
    ],
)
def test_some_times_that_stand_for_none_or_lie_far_off_are_told(tmp_path, odd, said):
    times = [*odd, 1_600_000_000, 1_600_000_001]
    rows = [f"u{row},i{row % 2},{time}" for row, time in enumerate(times)]
    (tmp_path / "log.csv").write_text("user,item,time\n" + "\n".join(rows) + "\n")
    told = [line for line in made(tmp_path, time="time").manifest["treatments"] if "1970" in line or "2100" in line]
    assert len(told) == (said is not None)
    assert said is None or told[0].startswith(said)


@pytest.mark.parametrize(("row", "said"), [("a", "few columns: 1, not 3"), ("a,x,1,2", "many columns: 4, not 3")])
def test_a_row_of_another_length_is_told_with_its_cells(tmp_path, row, said):
    (tmp_path / "log.csv").write_text(f"user,item,time\n{row}\n")
    with pytest.raises(InputError, match=rf"1 of 1 rows are malformed \(log.csv line 2: too {said}\)"):
        made(tmp_path, time="time")


@pytest.mark.parametrize(
    ("again", "key"), [('{"user": "a", "item": 1, "user": "b"}', "user"), ('{"x": 1, "\\u0078": 2}', "x")]
)
def test_an_object_with_a_key_twice_is_refused_by_line_and_key(tmp_path, again, key):
    good = '{"user": "a", "item": 1}\n{"user": "b", "item": 2}\n'
    (tmp_path / "log.jsonl").write_text(f"{good}\n{{broken\n{again}\n{good}{again}\n")
    with pytest.raises(InputError, match=f"log.jsonl: line 5 has the key '{key}' twice; an object has each key once"):
        made(tmp_path, "log.jsonl", max_bad_share=0.5)


def test_a_key_of_another_object_or_in_other_letter_case_is_no_repeat(tmp_path):
    lines = [f'{{"user": "u{row}", "item": {row}, "User": 1, "more": {{"user": 1}}}}' for row in range(3)]
    (tmp_path / "log.jsonl").write_text("\n".join(lines))
    assert ids_of(made(tmp_path, "log.jsonl")) == ["0", "1", "2"]


@pytest.mark.parametrize(
    ("kind", "unit", "first", "said"),
    [
        ("FLOAT", "s", 1_600_000_000, "times in 'time' are float32, which here step by up to 128 seconds"),
        ("FLOAT", "ms", 1_600_000_000_000, "times in 'time' are float32, which here step by up to 131 seconds"),
        ("FLOAT", "s", 1_000_000_000, "times in 'time' are float32, which here step by up to 64 seconds"),
        ("FLOAT", "order", 40_000_000, "places in 'time' are float32, which here step by up to 4:"),
        ("FLOAT", "order", 2**24 - 6, None),
        ("DOUBLE", "s", 1_600_000_000, None),
        ("BIGINT", "s", 1_600_000_000, None),
    ],
)
@pytest.mark.parametrize("in_parts", [False, True])
def test_times_in_floats_that_lost_seconds_are_told(tmp_path, kind, unit, first, said, in_parts):
    rows = f"SELECT i % 2 AS user, i % 3 AS item, ({first} + i)::{kind} AS time FROM range(6) t(i)"
    duckdb.sql(f"COPY ({rows}) TO '{tmp_path / 'log.parquet'}'")
    spec = spec_of(tmp_path, "log.parquet", time="time", unit=unit)
    engine = ThisProcess() if in_parts else None
    treatments = Dataset.load(prepare(spec, tmp_path / "out", engine=engine)).manifest["treatments"]
    told = [line for line in treatments if "float32" in line]
    assert len(told) == (said is not None)
    assert said is None or told[0].startswith(said)


@pytest.mark.parametrize("unit", ["s", "ms", "order"])
@pytest.mark.parametrize("name", ["log.csv", "log.jsonl", "log.parquet"])
def test_dates_in_text_that_are_to_be_numbers_are_told_the_unit(tmp_path, unit, name):
    query = "SELECT 'a' AS user, i AS item, '2024-01-0' || (i + 1) || 'T10:00:00' AS time FROM range(3) t(i)"
    form = "(FORMAT json)" if name.endswith("jsonl") else ""
    duckdb.sql(f"COPY ({query}) TO '{tmp_path / name}' {form}")
    with pytest.raises(InputError, match=r"is '2024-01-01T10:00:00', not a number, but a date.*need unit = 'iso'$"):
        made(tmp_path, name, time="time", unit=unit)


def test_a_few_dates_among_other_faults_are_no_question_of_the_unit(tmp_path):
    (tmp_path / "log.csv").write_text("user,item,time\na,x,2024-01-01\nb,y,soon\na,y,5\n")
    with pytest.raises(InputError, match="time is 'soon', not a number") as error:
        made(tmp_path, time="time")
    assert "iso" not in str(error.value)


def test_times_of_two_units_are_told(tmp_path):
    rows = [f"u{row},i{row % 2},{1_600_000_000 * (1 if row < 2 else 1000)}" for row in range(5)]
    (tmp_path / "log.csv").write_text("user,item,time\n" + "\n".join(rows) + "\n")
    treatments = made(tmp_path, time="time", unit="ms").manifest["treatments"]
    said = "2 events lie before 1972 when 'time' is read as unit 'ms', and others later"
    assert any(line.startswith(said) for line in treatments)


@pytest.mark.parametrize(
    ("label", "rule"),
    [({"equals": 1}, "liked is 1"), ({"equals": "yes"}, "liked is 'yes'"), ({"equals": True}, "liked is True")],
)
@pytest.mark.parametrize("keep", ["all", "positive"])
def test_a_label_rule_that_no_event_meets_is_an_error(tmp_path, label, rule, keep):
    (tmp_path / "log.csv").write_text("user,item,liked\na,x,Yes\nb,y,No\na,z,Yes\n")
    with pytest.raises(InputError, match=f"not one event is positive: the label rule '{rule}' calls every one"):
        made(tmp_path, label={"column": "liked", "keep": keep, **label})


def test_times_that_all_lie_before_1970_are_told(tmp_path):
    (tmp_path / "log.csv").write_text("user,item,time\na,x,-1600000000\nb,y,-1600000100\n")
    treatments = made(tmp_path, time="time").manifest["treatments"]
    assert any(line.startswith("every time lies before 1972 when 'time' is read as unit 's'") for line in treatments)


def test_of_many_words_for_a_missing_value_the_first_six_are_named(tmp_path):
    users = ["NaN", "nan", "NULL", "None", "n/a", "<NA>", "undefined", "u1"]
    (tmp_path / "log.csv").write_text("user,item\n" + "".join(f"{user},a\n{user},b\n" for user in users))
    (told,) = [line for line in made(tmp_path).manifest["treatments"] if "leave the cell empty" in line]
    assert told.startswith("'<NA>', 'NULL', 'NaN', 'None', 'n/a', 'nan', … is the id of a user, as text")


def test_ratings_may_be_negative(tmp_path):
    (tmp_path / "log.csv").write_text("user,item,rating\na,x,-9.5\nb,y,3\nb,x,-1\na,y,4\n")
    data = made(tmp_path, value="rating", label={"at_least": -2, "keep": "all"})
    assert sorted(data.log.labels.tolist()) == [0, 1, 1, 1]


HEAD = 'name = "made"\n[interactions]\npath = "log.csv"\nuser = "user"\nitem = "item"\n'


def test_a_spec_may_begin_with_a_byte_order_mark(tmp_path):
    (tmp_path / "spec.toml").write_text("\ufeff" + HEAD, encoding="utf-8")
    assert Spec.from_toml(tmp_path / "spec.toml").interactions.user == "user"


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ('split = "auto"\n' + HEAD, "split must be a table, got 'auto'"),
        (HEAD + "[split]\nkind = {}\n", "kind must be a text, got {}"),
        (HEAD + "[split]\nkind = 3\n", "kind must be a text, got 3"),
        (HEAD + "[split]\nknd = 3\n", "did you mean 'kind'?"),
        (HEAD + "[lable]\nequals = 1\n", "unknown key 'lable'; did you mean 'label'?"),
        (HEAD + "max_bad_shar = {}\n", "did you mean 'max_bad_share'?"),
        (HEAD + f'max_bad_share = "{"x" * 5000}"\n', "[interactions] max_bad_share must be a number, got 'xxx"),
        (HEAD + "[label]\nequals = 1\ncolumn = []\n", "[label] column must be a text"),
    ],
)
def test_a_wrong_value_in_a_spec_is_one_short_line(tmp_path, text, words):
    (tmp_path / "spec.toml").write_text(text)
    with pytest.raises(InputError) as error:
        Spec.from_toml(tmp_path / "spec.toml")
    said = str(error.value).removeprefix(str(tmp_path))
    assert words in said
    assert "\n" not in said
    assert len(said) < 250


def test_a_missing_value_that_became_a_word_is_told(tmp_path):
    rows = [f"{user},{item},{user}{item}" for user in ("u1", "nan", "u2") for item in ("a", "b", "None")]
    (tmp_path / "log.csv").write_text("user,item,time\n" + "\n".join(rows).replace("u1a", "1") + "\n")
    (tmp_path / "items.csv").write_text("item,brand,words\na,<NA>,none\nb,x,nothing\nNone,y,null\n")
    items = {"path": "items.csv", "id": "item", "features": {"brand": "categorical", "words": "text"}}
    data = made(tmp_path, items=items)
    told = [line for line in data.manifest["treatments"] if "leave the cell empty" in line]
    assert told == [
        "'nan' is the id of a user, as text: where it means that there is none, leave the cell empty",
        "'None' is the id of an item, as text: where it means that there is none, leave the cell empty",
        "'<NA>' is a value of item feature 'brand', as text: where it means that there is none, leave the cell empty",
    ]
    assert "nan" in ids_of(data, "user")


def test_words_that_only_hold_such_a_word_are_not_told(tmp_path):
    (tmp_path / "log.csv").write_text("user,item\nnancy,NA\nnancy,nonesuch\nnull0,NA\nnull0,nonesuch\n")
    data = made(tmp_path)
    assert not [line for line in data.manifest["treatments"] if "leave the cell empty" in line]


@pytest.mark.parametrize(
    ("cells", "kind"),
    [
        (["[0.5, 1.5]", "[2.0, 3e-1]"], "vector"),
        (["[0. 1.]", "[2.  0.5]"], "vector"),
        (["[28, 12]", "[7]"], "multi_categorical"),
        (["[0.5, 1.5]", "[2.5]"], None),
        (["['a', 'b']", "['c']"], "multi_categorical"),
    ],
)
def test_lists_of_numbers_in_text_are_guessed_for_what_they_are(cells, kind, caplog):
    events = {"user": [1, 1, 2, 2], "item": ["x", "y", "x", "y"]}
    data = Dataset.from_frames(events, items={"item": ["x", "y"], "f": cells})
    assert [feature.kind for feature in data.schema.item_features] == ([kind] if kind else [])
    assert (kind is None) == ("holds lists of 1 to 2 numbers in text" in caplog.text)
    if kind == "vector":
        assert data.schema.item_features[0].size == 2
