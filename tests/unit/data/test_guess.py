"""What a log is taken for when nobody described it, and the one line where that cannot be told."""

from __future__ import annotations

import gzip
import json
from pathlib import Path

import duckdb
import pytest

from twotower.core.errors import InputError
from twotower.data.dataset import Dataset
from twotower.data.frame_notices import Notices
from twotower.data.guess import Hints, guess_spec
from twotower.data.prepare.prepare import prepare
from twotower.data.prepare.spec import Spec

ROWS = [
    (user, 100 + (user * 3 + place) % 11, 1 + place % 5, 1_600_000_000 + 60 * place)
    for user in range(9)
    for place in range(6)
]


def text(rows, separator: str = ",", header: str = "user_id,item_id,rating,timestamp") -> str:
    lines = [header.replace(",", separator)] if header else []
    return "\n".join([*lines, *(separator.join(map(str, row)) for row in rows)]) + "\n"


@pytest.fixture
def write(tmp_path):
    def write(name: str, content: str | bytes) -> Path:
        path = tmp_path / name
        path.write_bytes(content if isinstance(content, bytes) else content.encode())
        return path

    return write


@pytest.mark.parametrize("separator", [",", "\t", ";", "::", "|", " "])
def test_the_separator_is_the_one_that_cuts_lines_evenly(write, tmp_path, separator):
    spec = guess_spec(write("log.txt", text(ROWS, separator)))
    log = spec.interactions
    assert (log.user, log.item, log.time, log.unit) == ("user_id", "item_id", "timestamp", "s")
    prepare(spec, tmp_path / "data")
    assert json.loads((tmp_path / "data" / "manifest.json").read_text())["counts"]["events"] == len(ROWS)


@pytest.mark.parametrize(
    ("change", "columns"),
    [
        (lambda line: line + ',"two\nlines, and a ""word"""', {}),
        (lambda line: line.replace(",", ";").replace(";1;", ";1,5;").replace(";2;", ";2,5;"), {}),
        (lambda line: line.replace("user_id,", "User ID , ").replace(",item", ", item"), {"user": "User ID "}),
    ],
    ids=["lines in quotes", "decimal commas", "blanks in the header"],
)
def test_quoted_line_ends_decimal_commas_and_blanks_in_the_header_are_read_as_prepare_reads_them(
    write, tmp_path, change, columns
):
    head, *rest = text(ROWS).splitlines()
    extra = change(head).replace(',"two\nlines, and a ""word"""', ",note")
    spec = guess_spec(write("log.csv", "\n".join([extra, *map(change, rest)]) + "\n"))
    assert spec.interactions.user == columns.get("user", "user_id")
    prepare(spec, tmp_path / "data")
    assert json.loads((tmp_path / "data" / "manifest.json").read_text())["counts"]["events"] == len(ROWS)


@pytest.mark.parametrize(
    ("content", "words"),
    [
        ("user,user,item\n" + "a,b,c\n" * 9, "two columns are called 'user'"),
        ("user,item\n" + "a,b\na,b,c,d\n" * 9, "have 2 to 4 cells between ','; a table has one number of columns"),
        ("user,item,time\n" + 'a,"b\\"c",1\na,b,2\n' * 9, 'line 2 writes a quote inside a cell as \\"; double'),
        (text(ROWS) + 'a,"b,3,4\n' + text(ROWS, header=""), "a quote opens in line 56 and swallows 54 lines"),
    ],
)
def test_what_cannot_be_parted_is_named_by_its_fault_and_not_by_the_engine(write, content, words):
    with pytest.raises(InputError) as error:
        guess_spec(write("log.csv", content))
    assert words in str(error.value)
    with pytest.raises(InputError, match="--columns names a column twice"):
        guess_spec(write("log.csv", text(ROWS, header="")), hints=Hints(columns=("user", "item", "item", "time")))


@pytest.mark.parametrize(
    ("rows", "words"),
    [
        ("1,2\n", "no row can be read: line 2 has 2 cells, the first line has 3; give each row a cell for each column"),
        ("\n1,2\n" * 12, "no row can be read: line 3 has 2 cells, the first line has 3"),
        ('"1\n2"\n', "no row can be read: line 2 has 1 cells, the first line has 3"),
        ("", "no rows; the file is empty or holds only a header"),
    ],
    ids=["one short row", "short rows alone", "a row of two lines", "a header alone"],
)
def test_where_no_row_is_as_long_as_the_header_the_first_one_is_named(write, rows, words):
    with pytest.raises(InputError) as error:
        guess_spec(write("log.csv", "user_id,item_id,timestamp\n" + rows))
    assert words in str(error.value)


def test_a_packed_file_and_a_jsonl_file_and_parquet_are_known_by_their_bytes(write, tmp_path):
    packed = write("log", gzip.compress(text(ROWS).encode()))
    names = ("user_id", "item_id", "rating", "timestamp")
    lines = write("lines", "".join(json.dumps(dict(zip(names, row, strict=True))) + "\n" for row in ROWS))
    duckdb.sql(f"COPY (FROM '{lines}.csv') TO '{tmp_path}/columns' (FORMAT parquet)") if write(
        "lines.csv", text(ROWS)
    ) else None
    for path, form in ((packed, "csv"), (lines, "jsonl"), (tmp_path / "columns", "parquet")):
        spec = guess_spec(path)
        assert spec.interactions.source.format == form
        prepare(spec, tmp_path / "data")


def test_the_guess_is_a_spec_that_prepare_reads_back(write, tmp_path):
    spec = guess_spec(write("log.csv", text(ROWS)))
    spec.to_toml(tmp_path / "elsewhere" / "data.toml")
    again = Spec.from_toml(tmp_path / "elsewhere" / "data.toml")
    assert again.to_dict() == spec.to_dict()
    assert Path(again.interactions.source.path[0]).is_absolute()


def test_ratings_keep_every_event_and_the_rule_is_named(write):
    notices = Notices()
    spec = guess_spec(write("log.csv", text(ROWS)), notices=notices)
    assert spec.label is None
    assert any("--positive-from 4" in sentence for sentence in notices.said)
    asked = guess_spec(write("log.csv", text(ROWS)), hints=Hints(at_least=4.0)).label
    assert (asked.column, asked.at_least, asked.keep) == ("rating", 4.0, "all")


@pytest.mark.parametrize(("values", "least"), [((0, 1), 1.0), ((-1, 1), 1.0), ((-1, 0, 1), 1.0)])
def test_a_column_of_yes_and_no_is_the_label(write, values, least):
    rows = [(user, item, values[place % len(values)], time) for place, (user, item, _, time) in enumerate(ROWS)]
    label = guess_spec(write("log.csv", text(rows, header="user,item,clicked,time"))).label
    assert (label.column, label.at_least, label.keep) == ("clicked", least, "all")


def test_dates_as_text_are_read_as_such(write, tmp_path):
    rows = [(user, item, "5", f"2024-01-{place % 28 + 1:02d} 10:00") for place, (user, item, *_) in enumerate(ROWS)]
    spec = guess_spec(write("log.csv", text(rows)))
    assert spec.interactions.unit == "iso"
    prepare(spec, tmp_path / "data")


def test_dates_that_prepare_cannot_read_are_asked_about(write):
    rows = [(user, item, "5", f"{place % 12 + 1}/{place % 28 + 1}/2015") for place, (user, item, *_) in enumerate(ROWS)]
    path = write("log.csv", text(rows))
    with pytest.raises(InputError, match=r"times in 'timestamp' \(as '1/1/2015'\).*--time none"):
        guess_spec(path)
    assert guess_spec(path, hints=Hints(time="none")).interactions.is_unordered


def test_without_a_clock_the_log_is_a_set(write):
    rows = [row[:2] for row in ROWS]
    log = guess_spec(write("log.csv", text(rows, header="user,item"))).interactions
    assert log.is_unordered
    assert log.duplicates == "first"
    assert not guess_spec(
        write("log.csv", text(rows, header="user,item")), hints=Hints(unit="order")
    ).interactions.is_unordered


def numbered(column: str, place=lambda user, number: number) -> str:
    """A log without a clock, its rows sorted by item, with a column of places."""
    rows = [(user, 100 + (user * 3 + number) % 11, place(user, number)) for user in range(9) for number in range(6)]
    return text(sorted(rows, key=lambda row: row[1]), header=f"user_id,item_id,{column}")


@pytest.mark.parametrize(("column", "first"), [("order", 0), ("Seq", 1), ("order_in_session", 1)])
def test_a_column_that_counts_each_users_events_is_their_order(write, tmp_path, column, first):
    notices = Notices()
    path = write("log.csv", numbered(column, lambda user, number: first + number))
    log = guess_spec(path, notices=notices).interactions
    assert (log.time, log.unit, log.is_unordered) == (column, "order", False)
    assert f"'{column}' counts each user's events from {first} on: taken as their order" in notices.said[0]
    prepare(guess_spec(path), tmp_path / "data")
    log = Dataset.load(tmp_path / "data").log
    ids = dict(duckdb.sql(f"SELECT row, id FROM '{tmp_path}/data/vocabulary/items.parquet'").fetchall())
    items = [int(ids[row]) for row in log.items[log.offsets[2] : log.offsets[3]].tolist()]
    assert items == [100, 101, 102, 103, 104, 105], "of user 0, in the order of the column and not of the file"


@pytest.mark.parametrize(
    ("column", "place"),
    [
        ("position", lambda user, number: number),  # or the slot in a list that was shown
        ("order", lambda user, number: 10 * user + number),  # or the number of a purchase
        ("order", lambda user, number: number // 2),  # or a basket
    ],
    ids=["slot", "purchase", "basket"],
)
def test_a_column_that_may_be_the_order_is_named_and_not_taken(write, column, place):
    notices = Notices()
    path = write("log.csv", numbered(column, place))
    spec = guess_spec(path, notices=notices)
    assert spec.interactions.is_unordered
    assert any(f"if it is, say --time {column} --unit order" in said for said in notices.said)
    said = guess_spec(path, hints=Hints(time=column, unit="order")).interactions
    assert (said.time, said.unit) == (column, "order")


@pytest.mark.parametrize("hints", [Hints(time="none"), Hints(unit="order")], ids=str)
def test_who_says_what_the_clock_is_hears_of_no_other_order(write, hints):
    notices = Notices()
    spec = guess_spec(write("log.csv", numbered("order")), hints=hints, notices=notices)
    assert not spec.interactions.time
    assert not any("'order'" in said and "counts" in said for said in notices.said)


def test_other_numbers_are_no_order(write):
    notices = Notices()
    guess_spec(write("log.csv", numbered("price")), notices=notices)
    assert not any("order of a user's events" in said for said in notices.said)
    one_each = "user_id,item_id,order\n" + "".join(f"{user},{user % 3},1\n" for user in range(30))
    guess_spec(write("one.csv", one_each), notices=notices)
    assert not any("order of a user's events" in said for said in notices.said)


def test_a_file_without_a_header_asks_for_names(write):
    path = write("u.data", text(ROWS, "\t", header=""))
    with pytest.raises(InputError, match="name the 4 columns in order, as --columns user,item,rating,time"):
        guess_spec(path)
    spec = guess_spec(path, hints=Hints(columns=("user", "item", "rating", "time")))
    assert spec.interactions.source.columns == ("user", "item", "rating", "time")
    with pytest.raises(InputError, match="2 column names are given, and its lines have 4 cells"):
        guess_spec(path, hints=Hints(columns=("user", "item")))


def test_names_of_ones_own_make_a_header(write):
    path = write("log.csv", "who,what\nann,heat\nbob,alien\n")
    with pytest.raises(InputError, match="--columns user,item"):
        guess_spec(path)
    assert guess_spec(path, hints=Hints(user="who", item="what")).interactions.user == "who"


def test_tables_give_features_and_titles(write):
    items = "item_id,title,year,colour\n" + "".join(
        f"{100 + place},The film {place},{1990 + place},{'red' if place % 2 else 'blue'}\n" for place in range(11)
    )
    spec = guess_spec(write("log.csv", text(ROWS)), items=write("items.csv", items))
    assert (spec.items.id, spec.items.title) == ("item_id", "title")
    assert {one.name: one.kind for one in spec.items.features} == {
        "title": "text",
        "year": "numeric",
        "colour": "categorical",
    }


@pytest.mark.parametrize("between", [", ", " ", "\n "])
def test_a_table_that_pandas_wrote_has_no_feature_of_row_numbers_and_lists_in_text_stay_lists(write, tmp_path, between):
    cell = f"\"['Fast Food'{between}'{{}}']\""
    items = ",item_id,tags,year\n" + "".join(
        f"{3 * place},{100 + place},{cell.format('Thai' if place % 2 else 'Greek')},{1990 + place}\n"
        for place in range(11)
    )
    spec = guess_spec(write("log.csv", text(ROWS)), items=write("items.csv", items))
    assert {one.name: one.kind for one in spec.items.features} == {"tags": "multi_categorical", "year": "numeric"}
    features = Dataset.load(prepare(spec, tmp_path / "prepared")).item_features
    assert features["tags"].max() <= 4  # padding, unknown and three tags: "Fast Food" is one


def test_a_session_in_one_line_is_refused_with_what_to_write(write):
    lines = "".join(json.dumps({"session": number, "items": [1, 2, 3 + number]}) + "\n" for number in range(5))
    with pytest.raises(InputError, match=r"column 'items' holds lists.*frame\.explode\('items'\)"):
        guess_spec(write("sessions.jsonl", lines))


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("a.png", b"\x89PNG\r\n\x1a\n" + bytes(64), "is a PNG picture"),
        ("a.csv", b"PK\x03\x04" + bytes(64), "a zip archive or a spreadsheet"),
        ("b.bin", bytes(range(256)), "holds binary data"),
        ("c.json", b'[{"user": 1, "item": 2}]', "one JSON document, not JSON lines"),
        ("d.json", b'{\n "user": 1\n}', "one JSON document, not JSON lines"),
        ("e.json", b'{"events": [{"user": 1}]}', "one JSON document, not JSON lines"),
        ("f.jsonl", b'{"user": 1,\n{"user": 2}\n{"user": 3}\n', "line 1 is no JSON object"),
        ("g.json", b'{"rows": [\n{"user": 1},\n{"user": 2}\n]}', "one JSON document, not JSON lines"),
        ("f.html", b"<html></html>", "a web page or XML"),
        ("g.csv", b"", "the file is empty"),
        ("h.csv", b"\n\n", "only blank lines"),
        ("i.txt", b"once upon\na\ntime there was\n", "fall into no columns"),
        ("j.csv", b"user,item,time\n", "no rows"),
        ("k.csv", b"item_id,title,year\n1,Heat,1995\n", "if this is a table of items, it goes with --items"),
        (
            "l.csv",
            b"user,user_id,item\n1,1,2\n",
            "'user', 'user_id' could each be the user; say which with --user user",
        ),
    ],
)
def test_what_is_no_log_is_one_line(write, name, content, message):
    with pytest.raises(InputError, match=message) as error:
        guess_spec(write(name, content))
    assert "\n" not in str(error.value)


def test_a_log_that_is_not_there_or_a_folder(tmp_path):
    with pytest.raises(InputError, match="no such file"):
        guess_spec(tmp_path / "none.csv")
    with pytest.raises(InputError, match="a folder; give one file"):
        guess_spec(tmp_path)


def test_exchanged_columns_are_refused(write):
    path = write("log.csv", text(ROWS))
    with pytest.raises(InputError, match="are exchanged; give --user user_id --item item_id"):
        guess_spec(path, hints=Hints(user="item_id", item="user_id"))
    users = write("users.csv", "user_id,age\n" + "".join(f"{place},{20 + place}\n" for place in range(9)))
    log = write("other.csv", text(ROWS, header="who,what,rating,timestamp"))
    with pytest.raises(InputError, match="exchange user and item"):
        guess_spec(log, users=users, hints=Hints(user="what", item="who"))


def test_many_more_items_than_users_is_asked_about(write):
    rows = [(place % 2, place, 5, place) for place in range(100)]
    notices = Notices()
    guess_spec(write("log.csv", text(rows)), notices=notices)
    assert any("exchanged?" in sentence for sentence in notices.said)


def test_ratings_with_decimal_commas_are_ratings(write, tmp_path):
    rows = [f"u{user};{item};{item % 5},5" for user in range(9) for item in range(6)]
    path = write("log.csv", "\n".join(["user;item;stars", *rows]) + "\n")
    notices = Notices()
    spec = guess_spec(path, hints=Hints(value="stars", at_least=2.5), notices=notices)
    assert "numbers of log.csv are read with decimal commas" in notices.said
    assert spec.interactions.source.decimal == ","
    manifest = json.loads((prepare(spec, tmp_path / "data") / "manifest.json").read_text())
    assert manifest["rows"]["log"]["negative"] == sum(item % 5 < 2 for item in range(6)) * 9
    words = write("words.csv", "\n".join(["user;item;stars", *(row[:-3] + "good" for row in rows)]) + "\n")
    with pytest.raises(InputError, match=r"no cell of column 'stars', which --value names, is a number"):
        guess_spec(words, hints=Hints(value="stars"))


@pytest.mark.parametrize("cells", [("1,5", "2.5"), ("1,2,3", "4"), ("a,1", "2,5"), ("1", "2")])
def test_cells_that_are_no_decimal_commas_leave_the_point(write, cells):
    rows = [f"u{user};{item};{cells[item % 2]}" for user in range(9) for item in range(6)]
    spec = guess_spec(write("log.csv", "\n".join(["user;item;note", *rows]) + "\n"))
    assert spec.interactions.source.decimal == "."
