"""Preparing against the same treatments written in plain Python, on files of every format and with every fault."""

import gzip
import json
import math
import os
import random
import shutil
import signal
import subprocess
import sys
import time
from collections import Counter

import duckdb
import numpy as np
import pytest
import torch

from twotower.cli.main import main
from twotower.core.errors import InputError
from twotower.data.dataset import Dataset
from twotower.data.prepare.arrays import RowWriter
from twotower.data.prepare.encode import prepare_table
from twotower.data.prepare.prepare import prepare
from twotower.data.prepare.spec import Spec
from twotower.experiment.catalogue import split_of
from twotower.experiment.run import Run

COLUMNS = ("user", "item", "rating", "time")


def draw_rows(seed=1, events=400):
    """Text cells of a log with ties in time, repeated pairs, and ids of all sorts."""
    draw = random.Random(seed)
    users = [f"u{n}" for n in range(20)] + ["99999999999999999999999", "7", "07", "Zoë", "a b"]
    items = [str(n) for n in range(30)] + ["-1", "18446744073709551617", "x,y"]
    return [
        (draw.choice(users), draw.choice(items), str(draw.randrange(1, 6)), str(1000 + draw.randrange(50)))
        for _ in range(events)
    ]


def cell(value):
    return f'"{value}"' if "," in value else value


def write_log(path, rows, separator=",", header=True, encoding="utf-8"):
    lines = [separator.join(COLUMNS)] if header else []
    lines += [separator.join(cell(value) if separator == "," else value for value in row) for row in rows]
    path.write_bytes(("\n".join(lines) + "\n").encode(encoding))
    return path


def spec_of(tmp_path, **interactions):
    values = {"path": "log.csv", "user": "user", "item": "item", "time": "time"} | interactions
    sections = {key: values.pop(key) for key in ("label", "users", "items") if key in values}
    return Spec.from_dict({"name": "made", "interactions": values, **sections}, folder=tmp_path)


def slow_prepare(rows, *, at_least=None, keep="positive", duplicates="keep", min_user=1, min_item=1):
    """Histories by user id as (item, time, label), from text cells, with loops."""
    events = [
        (user, item, int(when), place, at_least is None or float(rating) >= at_least)
        for place, (user, item, rating, when) in enumerate(rows)
    ]
    if at_least is not None and keep == "positive":
        events = [event for event in events if event[4]]
    if duplicates != "keep":
        best = {}
        for event in sorted(events, key=lambda event: (event[2], event[3])):
            if duplicates == "last" or event[:2] not in best:
                best[event[:2]] = event
        events = list(best.values())
    while True:
        by_user = Counter(event[0] for event in events)
        events_left = [event for event in events if by_user[event[0]] >= min_user]
        by_item = Counter(event[1] for event in events_left)
        events_left = [event for event in events_left if by_item[event[1]] >= min_item]
        if len(events_left) == len(events):
            break
        events = events_left
    histories = {}
    for user, item, when, _, label in sorted(events, key=lambda event: (event[2], event[3])):
        histories.setdefault(user, []).append((item, when, float(label)))
    return histories


def ids_of(folder, side):
    rows = duckdb.sql(
        f"SELECT row, id FROM read_parquet('{folder}/vocabulary/{side}s.parquet') ORDER BY row"
    ).fetchall()
    assert [row for row, _ in rows] == list(range(2, len(rows) + 2))
    return [None, None, *(id for _, id in rows)]


def histories_of(folder):
    data = Dataset.load(folder)
    users, items = ids_of(folder, "user"), ids_of(folder, "item")
    assert (len(users), len(items)) == (data.schema.num_users, data.schema.num_items)
    offsets = data.log.offsets.tolist()
    assert offsets[:3] == [0, 0, 0]
    found = {}
    for row in range(2, len(users)):
        found[users[row]] = [
            (
                items[data.log.items[place]],
                None if data.log.times is None else int(data.log.times[place]),
                1.0 if data.log.labels is None else float(data.log.labels[place]),
            )
            for place in range(offsets[row], offsets[row + 1])
        ]
    return found


@pytest.mark.parametrize(
    ("spec", "slow"),
    [
        ({}, {}),
        ({"duplicates": "first"}, {"duplicates": "first"}),
        ({"duplicates": "last"}, {"duplicates": "last"}),
        ({"min_user_events": 12, "min_item_events": 7}, {"min_user": 12, "min_item": 7}),
        ({"value": "rating", "label": {"at_least": 4}}, {"at_least": 4}),
        ({"label": {"column": "rating", "at_least": 3, "keep": "all"}}, {"at_least": 3, "keep": "all"}),
        (
            {"value": "rating", "label": {"at_least": 2}, "duplicates": "last", "min_user_events": 8},
            {"at_least": 2, "duplicates": "last", "min_user": 8},
        ),
    ],
)
def test_matches_the_slow_form(tmp_path, spec, slow):
    rows = draw_rows()
    write_log(tmp_path / "log.csv", rows)
    prepare(spec_of(tmp_path, **spec), tmp_path / "out")
    expected = slow_prepare(rows, **slow)
    found = histories_of(tmp_path / "out")
    assert len(expected) > 1
    assert found == expected
    assert list(found) == sorted(expected, key=str.encode)


def test_ids_are_in_the_order_of_their_text_and_survive_as_text(tmp_path):
    write_log(tmp_path / "log.csv", draw_rows())
    prepare(spec_of(tmp_path), tmp_path / "out")
    items = ids_of(tmp_path / "out", "item")[2:]
    assert items == sorted(items, key=str.encode)
    assert {"18446744073709551617", "-1", "x,y"} <= set(items)
    assert {"7", "07", "Zoë", "99999999999999999999999"} <= set(ids_of(tmp_path / "out", "user"))


def test_all_formats_give_the_same_arrays(tmp_path):
    rows = [row for row in draw_rows() if row[1] != "x,y"]
    write_log(tmp_path / "log.csv", rows)
    write_log(tmp_path / "log.tsv", rows, "\t")
    write_log(tmp_path / "ratings.dat", rows, "::", header=False)
    write_log(tmp_path / "latin.csv", rows, encoding="latin-1")
    write_log(tmp_path / "wide.csv", rows, encoding="utf-16")
    (tmp_path / "log.csv.gz").write_bytes(gzip.compress((tmp_path / "log.csv").read_bytes()))
    (tmp_path / "windows.csv").write_bytes(
        b"\xef\xbb\xbf" + (tmp_path / "log.csv").read_bytes().replace(b"\n", b"\r\n")
    )
    for name, number in (("log.jsonl", int), ("strings.jsonl", str)):
        lines = [json.dumps(dict(zip(COLUMNS, (*row[:3], number(row[3])), strict=True))) for row in rows]
        (tmp_path / name).write_text("\n\n".join(lines), encoding="utf-8")
    csv = f"read_csv('{tmp_path}/log.csv', all_varchar=true)"
    duckdb.sql(f"COPY (FROM {csv}) TO '{tmp_path}/log.parquet'")
    duckdb.sql(f"COPY (SELECT * REPLACE (time::INTEGER AS time) FROM {csv}) TO '{tmp_path}/typed.parquet'")
    for name in ("log.parquet", "log.csv", "log.jsonl"):  # a folder that is called like a column
        (tmp_path / "user=7").mkdir(exist_ok=True)
        shutil.copy(tmp_path / name, tmp_path / "user=7" / name)
    moment = "make_timestamp(time::BIGINT * 1000000) AS time"
    duckdb.sql(f"COPY (SELECT * REPLACE ({moment}) FROM {csv}) TO '{tmp_path}/clock.parquet'")
    half = len(rows) // 2
    write_log(tmp_path / "part-2.csv", rows[half:])
    write_log(tmp_path / "part-1.csv", rows[:half])
    headless = {"separator": "::", "columns": list(COLUMNS), "format": "csv", "quote": ""}
    variants = {
        "log.csv": {},
        "log.tsv": {},
        "ratings.dat": headless,
        "latin.csv": {"encoding": "latin-1"},
        "wide.csv": {"encoding": "utf-16"},
        "log.csv.gz": {},
        "windows.csv": {},
        "log.jsonl": {},
        "strings.jsonl": {},
        "log.parquet": {},
        "typed.parquet": {},
        "user=7/log.parquet": {},
        "user=7/log.csv": {},
        "user=7/log.jsonl": {},
        "clock.parquet": {},
        "part-*.csv": {},
    }
    expected = slow_prepare(rows)
    for name, more in variants.items():
        prepare(spec_of(tmp_path, path=name, **more), tmp_path / "out")
        assert histories_of(tmp_path / "out") == expected, name


@pytest.mark.parametrize(
    ("unit", "cells", "seconds"),
    [
        ("s", ["12.5", "13"], [12, 13]),
        ("ms", ["1650812741436", "1650812741437"], [1650812741, 1650812741]),
        ("us", ["1650812741436001", "1650812741436002"], [1650812741, 1650812741]),
        ("iso", ["2020-01-01T00:00:00Z", "2020-01-01 01:00:01+01:00"], [1577836800, 1577836801]),
        ("iso", ["1999-12-31", "2000-01-01"], [946598400, 946684800]),
        ("order", ["1", "2"], [None, None]),
    ],
)
def test_time_units(tmp_path, unit, cells, seconds):
    # The later event comes first in the file: its fraction of a second must still count for the order.
    rows = [("a", "late", "1", cells[1]), ("a", "early", "1", cells[0]), ("b", "late", "1", cells[0])]
    write_log(tmp_path / "log.csv", rows)
    prepare(spec_of(tmp_path, unit=unit), tmp_path / "out")
    found = histories_of(tmp_path / "out")["a"]
    assert [item for item, _, _ in found] == ["early", "late"]
    assert [when for _, when, _ in found] == seconds
    assert Dataset.load(tmp_path / "out").schema.has_times == (unit != "order")


def test_without_a_time_column_a_users_events_are_a_set_in_an_order_that_is_drawn(tmp_path):
    """A file that is sorted by item must not teach that the items of high numbers come last."""
    rows = [(f"u{user}", f"{item:03}", "1", "0") for item in range(40) for user in range(30)]
    write_log(tmp_path / "log.csv", rows)
    for folder in ("out", "again"):
        prepare(spec_of(tmp_path, time=""), tmp_path / folder)
    found = histories_of(tmp_path / "out")
    assert all(sorted(events) == [(f"{item:03}", None, 1.0) for item in range(40)] for events in found.values())
    last = [int(events[-1][0]) for events in found.values()]
    assert 14 < sum(last) / len(last) < 25
    assert len({tuple(events) for events in found.values()}) == 30
    assert histories_of(tmp_path / "again") == found
    data = Dataset.load(tmp_path / "out")
    assert not data.is_ordered
    assert any("a user's events are a set, in an order that is drawn" in said for said in data.manifest["treatments"])
    assert split_of(Run(), data).leaks.startswith("The log has no order: what is held out of a user's events is drawn")


def test_without_a_time_column_the_order_of_the_file_counts_where_the_unit_says_so(tmp_path):
    rows = draw_rows()
    write_log(tmp_path / "log.csv", rows)
    prepare(spec_of(tmp_path, time="", unit="order"), tmp_path / "out")
    data = Dataset.load(tmp_path / "out")
    assert data.is_ordered
    assert not split_of(Run(), data).leaks.startswith("The log has no order")
    expected = slow_prepare([(user, item, rating, "0") for user, item, rating, _ in rows])
    found = histories_of(tmp_path / "out")
    assert found == {user: [(item, None, 1.0) for item, _, _ in events] for user, events in expected.items()}


def test_labels_by_equality(tmp_path):
    rows = [("a", "x", "like", "1"), ("a", "y", "hate", "2"), ("b", "x", "like", "3")]
    write_log(tmp_path / "log.csv", rows)
    prepare(spec_of(tmp_path, label={"column": "rating", "equals": "like", "keep": "all"}), tmp_path / "out")
    assert histories_of(tmp_path / "out")["a"] == [("x", 1, 1.0), ("y", 2, 0.0)]
    write_log(tmp_path / "log.csv", [(*row[:2], {"like": "1.0", "hate": "0"}[row[2]], row[3]) for row in rows])
    prepare(spec_of(tmp_path, label={"column": "rating", "equals": 1, "keep": "all"}), tmp_path / "out")
    assert histories_of(tmp_path / "out")["a"] == [("x", 1, 1.0), ("y", 2, 0.0)]


# Faults


def test_malformed_rows_are_counted_and_shown_with_their_lines(tmp_path):
    good = [f"u{n % 5},i{n % 7},3,{n}" for n in range(995)]
    bad = {
        3: "u1,i1,3",
        5: ",i1,3,9",
        6: 'u1,"two\nlines",3,soon',
        10: "u1,,3,9",
        12: "u1,i1,inf,9",
        20: "u1,i1,nan,9",
        30: "u1,i1,3,9,9",
    }
    lines = [",".join(COLUMNS)]
    for text in good:
        while len(lines) in bad:
            lines.append(bad[len(lines)])
        lines += ["", text] if len(lines) == 8 else [text]
    (tmp_path / "log.csv").write_text("\n".join(lines) + "\n")
    prepare(spec_of(tmp_path, value="rating"), tmp_path / "out")
    rows = Dataset.load(tmp_path / "out").manifest["rows"]["log"]
    assert (rows["read"], rows["malformed"], rows["kept"]) == (1002, 7, 995)
    assert rows["first_malformed"] == [
        "log.csv line 4: too few columns: 3, not 4",
        "log.csv line 6: no user",
        "log.csv line 7: time is 'soon', not a number",
        "log.csv line 12: no item",
        "log.csv line 14: rating is 'inf', not a number",
    ]
    with pytest.raises(InputError, match=r"7 of 1,002 rows are malformed \(log.csv line 4: .*0.50% that max_bad_share"):
        prepare(spec_of(tmp_path, value="rating", max_bad_share=0.005), tmp_path / "other")
    assert not (tmp_path / "other").exists()


def test_json_lines_that_are_not_objects_are_malformed(tmp_path):
    lines = [json.dumps({"user": f"u{n % 3}", "item": n % 5, "time": n}) for n in range(200)]
    lines[50] = '{"user": "u1", "item"'
    lines.insert(40, "")
    (tmp_path / "log.jsonl").write_text("\n".join(lines))
    prepare(spec_of(tmp_path, path="log.jsonl"), tmp_path / "out")
    rows = Dataset.load(tmp_path / "out").manifest["rows"]["log"]
    assert rows["first_malformed"] == ["log.jsonl line 52: no JSON object, or no user"]


def test_text_that_is_not_utf8_is_malformed_with_a_hint(tmp_path):
    rows = [("Zoë" if n % 2 else "b", f"i{n % 3}", "1", str(n)) for n in range(10)]
    write_log(tmp_path / "log.csv", rows, encoding="latin-1")
    with pytest.raises(InputError, match=r"line 3: not UTF-8.*set encoding = 'latin-1'"):
        prepare(spec_of(tmp_path), tmp_path / "out")
    with pytest.raises(InputError, match=r"is not utf-16"):
        prepare(spec_of(tmp_path, encoding="utf-16"), tmp_path / "out")


HEADER = "user,item,rating,time\n"


@pytest.mark.parametrize(
    ("text", "spec", "words"),
    [
        ("", {}, "log.csv: the file is empty"),
        (HEADER, {}, "no rows; the file is empty or holds only a header"),
        (HEADER + "a,b,1,2\n", {"path": "lgo.csv"}, "lgo.csv: no such file; did you mean 'log.csv'?"),
        (HEADER + "a,b,1,2\n", {"path": "*.tsv"}, "no such file"),
        (HEADER + "a,b,1,2\n", {"user": "usr"}, "no column 'usr'; did you mean 'user'?"),
        (HEADER + "a,b,1,2\n", {"time": "timestamp"}, "no column 'timestamp'"),
        (HEADER + "a,b,1,2\n", {"label": {"column": "ratng", "at_least": 1}}, "did you mean 'rating'?"),
        (HEADER + "a,b,1,then\nb,c,1,now\n", {}, "line 2: time is 'then', not a number"),
        (HEADER + "a,b,1,then\n", {"unit": "iso"}, "line 2: time is 'then', not a date"),
        (HEADER + "a,b,1,\nb,c,1,3\n", {}, "line 2: time is missing, not a number"),
        (HEADER + "a,b,NaN,2\na,c,1,2\n", {"value": "rating"}, "rating is 'NaN', not a number"),
        (HEADER + "a,b,1,2\na,c,1,3\n", {}, "a single user"),
        (HEADER + "a,b,1,2\nc,b,1,3\n", {}, "a single item"),
        (HEADER + "a,b,1,1650812741436\nc,d,1,3\n", {}, "set unit to 'ms', 'us' or 'ns'"),
        (HEADER + "a,b,1,2\nc,d,1,3\n", {"value": "rating", "label": {"at_least": 4}}, "not one event is positive"),
        (HEADER + "a,b,1,2\nc,d,1,3\n", {"min_user_events": 3}, "lower min_user_events"),
        (HEADER + "a,b,1,2\n", {"encoding": "latin-7x"}, "encoding 'latin-7x' is not known"),
        (HEADER + "a,b,1,2\n", {"format": "parquet"}, "log.csv: cannot be read"),
        (HEADER + "a,b,1,2\n", {"format": "jsonl"}, "no JSON object"),
        ("user,item,user,time\na,b,1,2\n", {}, "two columns are called"),
        ("user;item;time\na;b;1,5\nc;d;2\n", {}, "no column 'user'; its lines are cut by ';': set separator = ';'"),
        ("user\titem\ttime\na\tb\t1\n", {}, 'set separator = "\\t"'),
        (
            "a;b;1;2\nc;d;1;2\n",
            {"columns": HEADER[:-1].split(",")},
            "4 columns at ',', but they do at ';'",
        ),
        (HEADER + "a,b,1,2\n", {"items": {"path": "log.csv", "id": "item", "separator": ";"}}, "set separator = ','"),
        (HEADER + "a,b,1,2\n", {"items": {"path": "log.csv", "id": "itm"}}, "no column 'itm'; did you mean 'item'?"),
        (
            HEADER + "a,b,x,2\nc,d,y,3\n",
            {"items": {"path": "log.csv", "id": "item", "features": {"rating": "numeric"}}},
            "item feature rating: no finite number in column 'rating'",
        ),
        (
            HEADER + "a,b,x,2\nc,d,y,3\n",
            {"items": {"path": "log.csv", "id": "item", "features": {"rating": "vector"}}},
            "item feature rating: no row holds",
        ),
    ],
)
def test_bad_input_is_one_clear_line_and_leaves_nothing(tmp_path, text, spec, words):
    (tmp_path / "log.csv").write_text(text)
    with pytest.raises(InputError) as error:
        prepare(spec_of(tmp_path, **spec), tmp_path / "out")
    assert words in str(error.value)
    assert "\n" not in str(error.value)
    assert [path.name for path in tmp_path.iterdir()] == ["log.csv"]


@pytest.mark.parametrize("limit", ["lots", "0MB", "-1GB"])
def test_a_wrong_memory_limit_is_refused(tmp_path, limit):
    write_log(tmp_path / "log.csv", draw_rows())
    with pytest.raises(InputError, match="memory limit"):
        prepare(spec_of(tmp_path), tmp_path / "out", memory_limit=limit)


@pytest.mark.parametrize("failure", [OSError(28, "No space left on device"), KeyboardInterrupt()])
def test_a_full_disk_or_a_stop_leaves_what_was_there(tmp_path, monkeypatch, failure):
    write_log(tmp_path / "log.csv", draw_rows())
    prepare(spec_of(tmp_path), tmp_path / "out")
    before = Dataset.load(tmp_path / "out").manifest

    def fail(self, rows):
        raise failure

    monkeypatch.setattr(RowWriter, "append", fail)
    with pytest.raises(type(failure)):
        prepare(spec_of(tmp_path, duplicates="first"), tmp_path / "out")
    assert Dataset.load(tmp_path / "out").manifest == before
    with pytest.raises(type(failure)):
        prepare(spec_of(tmp_path), tmp_path / "new")
    assert sorted(path.name for path in tmp_path.iterdir()) == ["log.csv", "out"]


@pytest.mark.slow
def test_ctrl_c_leaves_no_folder_and_status_130(tmp_path, heeds_ctrl_c):
    path = tmp_path / "log.csv"
    duckdb.sql(
        "COPY (SELECT hash(i) % 100000 AS user, hash(i * 3) % 50000 AS item, 3 AS rating, i AS time "
        f"FROM range(6000000) t(i)) TO '{path}' (HEADER)"
    )
    spec_of(tmp_path).to_toml(tmp_path / "spec.toml")
    command = [sys.executable, "-m", "twotower", "data", "prepare", str(tmp_path / "spec.toml"), "--to"]
    job = subprocess.Popen([*command, str(tmp_path / "out")])
    while job.poll() is None and not list(tmp_path.glob(".out.work.*")):
        time.sleep(0.01)
    time.sleep(0.5)
    os.kill(job.pid, signal.SIGINT)
    assert job.wait(timeout=60) == 130
    assert sorted(path.name for path in tmp_path.iterdir()) == ["log.csv", "spec.toml"]


def test_memory_that_is_too_small_is_named(tmp_path):
    write_log(tmp_path / "log.csv", draw_rows())
    with pytest.raises(InputError, match="raise it"):
        prepare(spec_of(tmp_path), tmp_path / "out", memory_limit="1KB")


# Tables and features

ITEMS = """id,name,genres,year,weight,vector,row
1,The Old Film,Drama| Comedy,1950,1.5,0.5 1,first
2,Old Old,Drama,old,inf,1 2,second
3,,,,,,
cold,A New One,Drama|Horror|Comedy|War,2000,2.5,3 x,third
1,Not This,War,1,1,9 9,again
"""
FEATURES = {
    "name": {"kind": "text", "width": 3},
    "genres": {"kind": "multi_categorical", "width": 3, "min_count": 2},
    "decade": {"kind": "categorical", "column": "year", "max_values": 2},
    "weight": "numeric",
    "vector": "vector",
    "id": "id",
}
LOG = "user,item,rating,time\na,1,5,1\na,2,5,2\nb,3,5,3\nb,4,5,4\nb,1,5,4\n"


def made_with_tables(tmp_path, items="items.csv", **more):
    (tmp_path / "log.csv").write_text(LOG)
    (tmp_path / "items.csv").write_text(ITEMS)
    (tmp_path / "users.csv").write_text("user,age\na,10\nb,30\nnobody,99\n")
    spec = spec_of(
        tmp_path,
        users={"path": "users.csv", "id": "user", "features": {"age": "numeric"}},
        items={"path": items, "id": "id", "title": "name", "features": FEATURES} | more,
    )
    return prepare(spec, tmp_path / "out")


def values_of(folder, feature):
    path = folder / "vocabulary" / f"item.{feature}.parquet"
    return {value: row for row, value in duckdb.sql(f"SELECT row, value FROM read_parquet('{path}')").fetchall()}


def test_each_kind_of_feature(tmp_path):
    data = Dataset.load(made_with_tables(tmp_path))
    # In text order: 1, 2, 3, 4 (in the log only), cold (in the table only).
    assert ids_of(data.folder, "item")[2:] == ["1", "2", "3", "4", "cold"]
    # Frequency first, then text: Drama 3, Comedy 2; Horror and War come once and are unknown.
    assert values_of(data.folder, "genres") == {"Drama": 2, "Comedy": 3}
    assert data.item_features["genres"].tolist() == [
        [0] * 3,
        [0] * 3,
        [2, 3, 0],
        [2, 0, 0],
        [0] * 3,
        [0] * 3,
        [2, 1, 3],
    ]
    assert values_of(data.folder, "name") == {"old": 2, "a": 3, "film": 4, "new": 5, "one": 6, "the": 7}
    assert data.item_features["name"].tolist()[2:] == [[7, 2, 4], [2, 2, 0], [0, 0, 0], [0, 0, 0], [3, 5, 6]]
    assert values_of(data.folder, "decade") == {"1950": 2, "2000": 3}
    assert data.item_features["decade"].tolist() == [0, 0, 2, 1, 0, 0, 3]
    assert data.item_features["id"].tolist() == [0, 0, 2, 3, 4, 5, 6]
    numbers = data.item_features["weight"].tolist()
    assert numbers[2] == 1.5
    assert numbers[6] == 2.5
    assert all(math.isnan(number) for place, number in enumerate(numbers) if place not in (2, 6))
    assert data.item_features["vector"].tolist() == [[0, 0], [0, 0], [0.5, 1], [1, 2], [0, 0], [0, 0], [0, 0]]
    features = {feature.name: feature for feature in data.schema.item_features}
    assert (features["weight"].mean, features["weight"].std) == (2.0, 0.5)
    assert (features["genres"].size, features["genres"].width) == (4, 3)
    assert (features["vector"].size, features["decade"].size, features["name"].size) == (2, 4, 8)
    assert data.user_features["age"][2:].tolist() == [10, 30]
    said = "\n".join(data.manifest["treatments"])
    for sentence in (
        "1 listed items have no event",
        "1 listed users have no event and are left out",
        "1 rows repeat an id",
        "1 items of the log are not in the table of items",
        "item feature weight: 1 cells are not finite numbers",
        "item feature vector: 1 rows do not hold 2 finite numbers",
        "item feature genres: 1 rows have more than 3 values (at most 4)",
    ):
        assert sentence in said
    assert data.manifest["counts"]["cold_items"] == 1


def test_the_size_of_chunks_has_no_effect(tmp_path, monkeypatch):
    whole = Dataset.load(made_with_tables(tmp_path)).manifest["hashes"]
    monkeypatch.setattr("twotower.data.prepare.select.CHUNK", 2)
    monkeypatch.setattr("twotower.data.prepare.tables.ROWS", 3)
    assert Dataset.load(made_with_tables(tmp_path)).manifest["hashes"] == whole


def test_raw_columns_are_kept_beside_the_ids(tmp_path):
    folder = made_with_tables(tmp_path)
    found = duckdb.sql(f"FROM read_parquet('{folder}/vocabulary/items.parquet') ORDER BY row")
    assert found.columns == ["row", "id", "title", "genres", "year", "weight", "vector", "row_"]
    assert found.fetchall()[0] == (2, "1", "The Old Film", "Drama| Comedy", "1950", "1.5", "0.5 1", "first")
    users = duckdb.sql(f"FROM read_parquet('{folder}/vocabulary/users.parquet') ORDER BY row")
    assert (users.columns, users.fetchall()) == (["row", "id", "age"], [(2, "a", "10"), (3, "b", "30")])


def test_lists_and_numbers_of_other_formats_give_the_same_features(tmp_path):
    expected = Dataset.load(made_with_tables(tmp_path)).item_features
    csv = f"read_csv('{tmp_path}/items.csv', all_varchar=true)"
    lists = "SELECT * REPLACE (string_split(genres, '|') AS genres, string_split(vector, ' ') AS vector) FROM " + csv
    duckdb.sql(f"COPY ({lists}) TO '{tmp_path}/items.parquet'")
    duckdb.sql(f"COPY ({lists}) TO '{tmp_path}/items.jsonl' (FORMAT json)")
    for name in ("items.parquet", "items.jsonl"):
        folder = made_with_tables(tmp_path, name)
        found = Dataset.load(folder).item_features
        for feature, column in expected.items():
            torch.testing.assert_close(found[feature], column, equal_nan=True, msg=f"{name} {feature}")
        titles = duckdb.sql(f"SELECT title, genres FROM read_parquet('{folder}/vocabulary/items.parquet') ORDER BY row")
        assert titles.fetchall()[1] == ("Old Old", ["Drama"])


def test_integer_ids_that_became_floats_still_meet(tmp_path):
    duckdb.sql(
        "COPY (SELECT * FROM (VALUES (1.0::DOUBLE, 'x'), (2.0, 'y'), (NULL, 'z')) t(id, name)) "
        f"TO '{tmp_path}/items.parquet'"
    )
    (tmp_path / "log.csv").write_text(LOG)
    items = {"path": "items.parquet", "id": "id", "features": {"name": "categorical"}}
    folder = prepare(spec_of(tmp_path, items=items, max_bad_share=0.5), tmp_path / "out")
    assert Dataset.load(folder).item_features["name"].tolist() == [0, 0, 2, 3, 0, 0]
    assert "no id" in "\n".join(Dataset.load(folder).manifest["treatments"])


@pytest.mark.parametrize(("kind", "first"), [("FLOAT", 2**24), ("DOUBLE", 2**53)])
@pytest.mark.parametrize("table", ["log", "items"])
def test_ids_in_floats_that_lost_digits_are_refused_by_file_and_column(tmp_path, kind, first, table):
    def write(name, start, type):
        rows = f"SELECT i % 3 AS user, ({start} + i)::{type} AS item, i AS time FROM range(9) t(i)"
        duckdb.connect().execute(f"COPY ({rows}) TO '{tmp_path}/{name}.parquet' (FORMAT parquet)")

    for name in ("log", "items"):
        write(name, first, kind if name == table else "BIGINT")
    spec = spec_of(tmp_path, path="log.parquet", items={"path": "items.parquet", "id": "item"})
    with pytest.raises(InputError, match=f"{table}.parquet: ids in column 'item' are floats of {first:,} and more"):
        prepare(spec, tmp_path / "out")
    for name in ("log", "items"):
        write(name, first - 9, kind if name == table else "BIGINT")
    assert Dataset.load(prepare(spec, tmp_path / "out")).schema.num_items == 11


def test_vectors_from_several_columns(tmp_path):
    (tmp_path / "log.csv").write_text(LOG)
    (tmp_path / "items.csv").write_text("id,x,y\n1,1,2\n2,3,\n3,5,6\n")
    items = {"path": "items.csv", "id": "id", "features": {"v": {"kind": "vector", "columns": ["x", "y"]}}}
    data = Dataset.load(prepare(spec_of(tmp_path, items=items), tmp_path / "out"))
    assert data.item_features["v"].tolist() == [[0, 0], [0, 0], [1, 2], [0, 0], [5, 6], [0, 0]]


def test_items_with_too_few_events_do_not_come_back_as_cold(tmp_path):
    (tmp_path / "log.csv").write_text(LOG + "a,3,5,9\n")
    (tmp_path / "items.csv").write_text("id,name\n1,x\n2,y\n4,z\nnew,w\n")
    items = {"path": "items.csv", "id": "id"}
    folder = prepare(spec_of(tmp_path, items=items, min_item_events=2), tmp_path / "out")
    assert ids_of(folder, "item")[2:] == ["1", "3", "new"]


# New tables


def test_a_new_table_is_encoded_by_the_stored_vocabularies(tmp_path):
    data = Dataset.load(made_with_tables(tmp_path))
    rows = [
        {
            "id": "brand new",
            "name": "OLD martian film",
            "genres": "Comedy|Noir",
            "year": 1950,
            "weight": "3",
            "vector": "7 8",
        },
        {"id": 5, "name": None, "genres": "", "year": "1812", "weight": "heavy", "vector": "1"},
    ]
    ids, features = prepare_table(rows, data.schema, data.folder / "vocabulary", "item")
    assert ids == ["brand new", "5"]
    assert features["name"].tolist() == [[2, 1, 4], [0, 0, 0]]
    assert features["genres"].tolist() == [[3, 1, 0], [0, 0, 0]]
    assert features["decade"].tolist() == [2, 1]
    assert features["weight"][0] == 3
    assert features["weight"].isnan().tolist() == [False, True]
    assert features["vector"].tolist() == [[7, 8], [0, 0]]
    assert features["id"].tolist() == [1, 1]


@pytest.mark.parametrize("name", ["items.csv", "items.parquet", "items.jsonl"])
def test_the_table_of_training_is_encoded_as_in_training(tmp_path, name):
    folder = made_with_tables(tmp_path)
    data = Dataset.load(folder)
    duckdb.sql(f"COPY (FROM read_csv('{tmp_path}/items.csv', all_varchar=true)) TO '{tmp_path}/items.parquet'")
    duckdb.sql(f"COPY (FROM '{tmp_path}/items.parquet') TO '{tmp_path}/items.jsonl' (FORMAT json)")
    ids, features = prepare_table(tmp_path / name, data.schema, folder / "vocabulary", "item")
    assert ids == ["1", "2", "3", "cold", "1"]
    rows = torch.tensor([2, 3, 4, 6])
    for feature in data.schema.item_features:
        stored = data.item_features[feature.name][rows]
        torch.testing.assert_close(features[feature.name][:4], stored, equal_nan=True, msg=feature.name)
        assert features[feature.name].dtype == stored.dtype


def test_a_column_that_is_not_there_is_missing_in_every_row(tmp_path, caplog):
    data = Dataset.load(made_with_tables(tmp_path))
    _, features = prepare_table([{"id": "1", "name": "Old"}], data.schema, data.folder / "vocabulary", "item")
    assert features["genres"].tolist() == [[0, 0, 0]]
    assert features["name"].tolist() == [[2, 0, 0]]
    assert "no column for feature 'genres'" in caplog.text


def test_a_new_table_without_ids_is_an_error(tmp_path):
    data = Dataset.load(made_with_tables(tmp_path))
    (tmp_path / "new.csv").write_text("name,genres\nOld,Drama\n")
    with pytest.raises(InputError, match="no column 'id'"):
        prepare_table(tmp_path / "new.csv", data.schema, data.folder / "vocabulary", "item")
    (tmp_path / "new.csv").write_text("id,genres\n1,Drama\n,War\n")
    with pytest.raises(InputError, match="new.csv line 3: no id"):
        prepare_table(tmp_path / "new.csv", data.schema, data.folder / "vocabulary", "item")


# Command line


def run(arguments, capsys):
    with pytest.raises(SystemExit) as stop:
        main([str(argument) for argument in arguments])
    return stop.value.code, *capsys.readouterr()


def test_prepare_and_describe_from_the_command_line(tmp_path, capsys):
    made_with_tables(tmp_path)
    spec_of(tmp_path, duplicates="first").to_toml(tmp_path / "spec.toml")
    status, out, err = run(["data", "prepare", tmp_path / "spec.toml", "--to", tmp_path / "cli"], capsys)
    assert (status, out.count("\n")) == (0, 1)
    assert "2 users, 4 items, 5 events" in out
    assert "1 event falls in the same second as the user's event before: equal times keep the file's order" in err
    status, out, _ = run(["data", "prepare", tmp_path / "spec.toml", "--to", tmp_path / "cli", "--json"], capsys)
    assert json.loads(out)["counts"]["events"] == 5
    status, out, _ = run(["data", "describe", tmp_path / "out", "--json"], capsys)
    found = json.loads(out)
    assert (found["users"], found["items"], found["events"]) == (2, 5, 5)
    assert [entry["name"] for entry in found["features"]] == ["age", *FEATURES]
    status, out, _ = run(["data", "describe", tmp_path / "out"], capsys)
    assert status == 0
    assert "genres" in out


@pytest.mark.parametrize("verb", ["prepare", "describe"])
def test_wrong_use_is_one_line_and_status_2(tmp_path, capsys, verb):
    status, out, err = run(["data", verb, tmp_path / "nothing"], capsys)
    assert (status, out, err.count("\n")) == (2, "", 1)
    assert str(tmp_path / "nothing") in err.replace("\n", "")


def test_the_example_of_the_how_to_says_what_it_prints(tmp_path, root, capsys):
    text = (root / "docs" / "how-to" / "prepare-data.md").read_text(encoding="utf-8")
    blocks = [block.partition("\n")[2] for block in text.split("```")[1::2]]
    for name, block in zip(("log.csv", "films.csv", "films.toml"), blocks, strict=False):
        (tmp_path / name).write_text(block, encoding="utf-8")
    status, out, err = run(["data", "prepare", tmp_path / "films.toml", "--to", tmp_path / "prepared"], capsys)
    assert status == 0
    assert err.splitlines() == blocks[4].splitlines()[:2]
    assert "2 users, 4 items, 5 events" in out
    assert "2 users, 4 items, 5 events" in blocks[4]


# Real data


@pytest.mark.slow
def test_movielens_100k(tmp_path, shared_data):
    folder = shared_data("ml-100k")
    values = {
        "name": "ml-100k",
        "interactions": {
            "path": str(folder / "ratings.parquet"),
            "user": "user_id",
            "item": "item_id",
            "time": "timestamp",
        },
        "users": {
            "path": str(folder / "users.parquet"),
            "id": "user_id",
            "features": {"age": "numeric", "gender": "categorical", "occupation": "categorical"},
        },
        "items": {
            "path": str(folder / "items.parquet"),
            "id": "item_id",
            "title": "title",
            "features": {"genres": "multi_categorical", "title": "text"},
        },
    }
    data = Dataset.load(prepare(Spec.from_dict(values), tmp_path / "out"))
    assert (data.schema.num_users, data.schema.num_items, data.log.num_events) == (945, 1684, 100_000)
    assert data.schema.user_features[0].mean == pytest.approx(34.0519618)
    rows = duckdb.sql(f"SELECT user_id, item_id, timestamp FROM '{folder}/ratings.parquet'").fetchall()
    expected = slow_prepare([(str(user), str(item), "1", str(when)) for user, item, when in rows])
    assert histories_of(tmp_path / "out") == expected


@pytest.mark.slow
def test_movielens_1m_is_ordered_by_position(tmp_path, shared_data):
    folder = shared_data("ml-1m")
    log = {"path": str(folder / "ratings.parquet"), "user": "user_id", "item": "item_id"}
    log |= {"time": "position", "unit": "order"}
    values = {"name": "ml-1m", "interactions": log, "items": {"path": str(folder / "items.parquet"), "id": "item_id"}}
    data = Dataset.load(prepare(Spec.from_dict(values), tmp_path / "out"))
    assert (data.schema.num_users, data.schema.num_items, data.log.num_events) == (6042, 3885, 1_000_209)
    assert data.log.times is None
    assert not data.schema.has_times
    users, items = ids_of(tmp_path / "out", "user"), ids_of(tmp_path / "out", "item")
    row = users.index("4711")
    mine = data.log.items[data.log.offsets[row] : data.log.offsets[row + 1]].tolist()
    query = f"SELECT item_id FROM '{folder}/ratings.parquet' WHERE user_id = 4711 ORDER BY position"
    assert [items[item] for item in mine] == [str(item) for (item,) in duckdb.sql(query).fetchall()]


def test_row_writer_refuses_what_does_not_fill_its_shape(tmp_path):
    with RowWriter(tmp_path / "a.npy", np.int64, (3, 2)) as array:
        array.append([[1, 2]])
        array.append(np.array([[3, 4], [5, 6]], dtype=np.int32))
    assert np.load(tmp_path / "a.npy").tolist() == [[1, 2], [3, 4], [5, 6]]
    with pytest.raises(AssertionError), RowWriter(tmp_path / "b.npy", np.int64, (3,)) as array:
        array.append([1, 2])


@pytest.mark.parametrize("manifest", ['{"kind": "bundle"}', '{"kind": "parts"}', "[]", "{"])
def test_a_folder_of_another_kind_is_never_replaced(tmp_path, manifest):
    (tmp_path / "log.csv").write_text(HEADER + "a,b,1,3\ne,f,1,3\n")
    target = tmp_path / "model"
    target.mkdir()
    (target / "manifest.json").write_text(manifest)
    (target / "weights.safetensors").write_bytes(b"days of work")
    said = "holds something other than a prepared data set" if manifest != "{" else "manifest.json"
    with pytest.raises(InputError, match=said):
        prepare(spec_of(tmp_path), target)
    with pytest.raises(InputError, match="lies inside the bundle"):
        prepare(spec_of(tmp_path), target / "data")
    assert (target / "weights.safetensors").read_bytes() == b"days of work"
    assert sorted(path.name for path in target.iterdir()) == ["manifest.json", "weights.safetensors"]


def test_a_prepared_data_set_is_replaced(tmp_path):
    (tmp_path / "log.csv").write_text(HEADER + "a,b,1,3\ne,f,1,3\n")
    prepare(spec_of(tmp_path), tmp_path / "out")
    (tmp_path / "log.csv").write_text(HEADER + "a,b,1,3\nc,d,1,3\ne,f,1,3\n")
    prepare(spec_of(tmp_path), tmp_path / "out")
    assert Dataset.load(tmp_path / "out").log.num_events == 3
