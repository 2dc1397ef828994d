"""Data frames of four libraries give what the same rows in a file give, and every guess is said."""

import copy
import datetime
import enum
import gc
import logging
import subprocess
import sys
import uuid
import zoneinfo
from decimal import Decimal

import numpy as np
import pytest
import torch

from twotower.core.errors import InputError
from twotower.data.dataset import Dataset
from twotower.data.prepare.spec import Spec

START = 1_600_000_000
EVENTS = {
    "user_id": [3, 1, 2, 1, 3, 2, 1, 2, 3, 1],
    "item_id": ["m1", "m1", "m2", "m3", "m4", "m1", "m2", "m5", "m2", "m5"],
    "timestamp": [START + 7 * ((5 * place) % 11) for place in range(10)],
    "stars": [5, 4, 1, 2, 5, 4, 3, 3, 5, 1],
}
ITEMS = {
    "item_id": [f"m{number}" for number in range(1, 9)],
    "title": [f"The film number {number}" for number in range(1, 9)],
    "genres": ["Drama|Crime", "Comedy", "Drama", "Comedy|Crime", "Drama", "Crime", "Drama|Comedy", "Comedy"],
    "year": [1990 + number for number in range(8)],
    "colour": ["red", "green"] * 4,
    "tags": [["old", "long"], ["new"]] * 4,
    "cover": [[float(number), 0.5] for number in range(8)],
}


def frame_of(library, columns):
    if library == "dict":
        return columns
    if library == "pandas":
        return pytest.importorskip("pandas").DataFrame(columns)
    if library == "polars":
        return pytest.importorskip("polars").DataFrame(columns)
    if library == "lazy":
        return pytest.importorskip("polars").LazyFrame(columns)
    table = pytest.importorskip("pyarrow").table(columns)
    return table if library == "arrow" else pytest.importorskip("duckdb").arrow(table)


def events(**changes):
    return {name: values for name, values in (EVENTS | changes).items() if values is not None}


def ids_of(data, side):
    duckdb = pytest.importorskip("duckdb")
    path = data.folder / "vocabulary" / f"{side}s.parquet"
    return [row[0] for row in duckdb.sql(f"SELECT id FROM read_parquet('{path}') ORDER BY row").fetchall()]


def said(data):
    return "\n".join(data.manifest["treatments"])


def same(ours, theirs):
    assert ours.schema == theirs.schema
    for left, right in zip(ours.log, theirs.log, strict=True):
        assert (left is None and right is None) or torch.equal(left, right)
    assert ours.item_features.keys() == theirs.item_features.keys()
    for name, column in ours.item_features.items():
        torch.testing.assert_close(column, theirs.item_features[name], rtol=0, atol=0, equal_nan=True)


@pytest.fixture(scope="module")
def from_files(tmp_path_factory):
    """The same rows as JSON lines, prepared from a spec that names everything."""
    import json

    folder = tmp_path_factory.mktemp("files")
    for name, columns in (("log", EVENTS), ("films", ITEMS)):
        rows = [dict(zip(columns, row, strict=True)) for row in zip(*columns.values(), strict=True)]
        (folder / f"{name}.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    kinds = {"title": "text", "genres": "multi_categorical", "year": "numeric", "colour": "categorical"}
    kinds |= {"tags": "multi_categorical", "cover": "vector"}
    values = {
        "name": "frame",
        "interactions": {"path": "log.jsonl", "user": "user_id", "item": "item_id", "time": "timestamp"},
        "items": {"path": "films.jsonl", "id": "item_id", "title": "title", "features": kinds},
    }
    return Dataset.prepare(Spec.from_dict(values, folder=folder))


@pytest.mark.parametrize("library", ["pandas", "polars", "lazy", "arrow", "duckdb", "dict"])
def test_a_frame_of_any_library_gives_the_arrays_of_a_file(library, from_files):
    data = Dataset.from_frames(frame_of(library, EVENTS), items=frame_of(library, ITEMS))
    same(data, from_files)
    assert ids_of(data, "user") == ["1", "2", "3"]
    assert ids_of(data, "item") == ids_of(from_files, "item")
    assert data.manifest["counts"] == from_files.manifest["counts"]
    for sentence in (
        "user is read from column 'user_id'",
        "taken as Unix seconds",
        "columns not used: stars",
        "genres is multi_categorical",
        "titles are read from column 'title'",
        "3 users, 5 items, 10 events",
    ):
        assert sentence in said(data)


def test_users_have_features_too():
    users = {"user_id": [1, 2, 3, 9], "city": ["Rome", "Oslo", "Rome", "Oslo"], "age": [30.0, None, 41.5, 20.0]}
    data = Dataset.from_frames(EVENTS, users=users)
    assert [(feature.name, feature.kind) for feature in data.schema.user_features] == [
        ("city", "categorical"),
        ("age", "numeric"),
    ]
    assert data.user_features["age"][2:].isnan().tolist() == [False, True, False]


def test_explicit_names_win_over_guesses():
    data = Dataset.from_frames(events(uid=EVENTS["item_id"]), user="user_id", item="uid", time="stars", unit="order")
    assert ids_of(data, "item") == ["m1", "m2", "m3", "m4", "m5"]
    assert not data.schema.has_times
    assert "is read from column" not in said(data)


def test_a_named_index_of_pandas_is_a_column():
    pandas = pytest.importorskip("pandas")
    items = pandas.DataFrame(ITEMS).set_index("item_id")
    same(Dataset.from_frames(EVENTS, items=items), Dataset.from_frames(EVENTS, items=ITEMS))


@pytest.mark.parametrize(
    ("values", "expected"),
    [
        ([uuid.UUID(int=number) for number in EVENTS["user_id"]], [str(uuid.UUID(int=n)) for n in (1, 2, 3)]),
        ([2**80 + number for number in EVENTS["user_id"]], [str(2**80 + n) for n in (1, 2, 3)]),
        (np.array(EVENTS["user_id"], dtype=np.float64), ["1", "2", "3"]),
        (np.array(EVENTS["user_id"], dtype=np.uint8), ["1", "2", "3"]),
        (np.array(["a", "b", "ç"])[np.array(EVENTS["user_id"]) - 1], ["a", "b", "ç"]),
    ],
)
def test_ids_of_any_type_become_their_text(values, expected):
    assert ids_of(Dataset.from_frames(events(user_id=values)), "user") == expected


class Letter(str, enum.Enum):  # noqa: UP042
    """Texts that are members of an enumeration; str() of one is not its text, as it is of a StrEnum."""

    A, B, C = "a", "b", "ç"


def test_ids_that_are_an_enumeration_are_its_texts():
    values = [list(Letter)[number - 1] for number in EVENTS["user_id"]]
    assert ids_of(Dataset.from_frames(events(user_id=values)), "user") == ["a", "b", "ç"]


@pytest.mark.parametrize("dtype", ["category", "string", "Int64", "object", "int64[pyarrow]"])
def test_ids_of_every_type_of_pandas_become_their_text(dtype):
    pandas = pytest.importorskip("pandas")
    if "pyarrow" in dtype:
        pytest.importorskip("pyarrow")
    frame = pandas.DataFrame(EVENTS).astype({"user_id": dtype})
    assert ids_of(Dataset.from_frames(frame), "user") == ["1", "2", "3"]


def test_objects_in_polars_are_read_as_their_text():
    polars = pytest.importorskip("polars")
    ids = [uuid.UUID(int=number) for number in EVENTS["user_id"]]
    frame = polars.DataFrame(EVENTS).with_columns(polars.Series("user_id", ids, dtype=polars.Object))
    assert ids_of(Dataset.from_frames(frame), "user") == [str(uuid.UUID(int=n)) for n in (1, 2, 3)]


def test_polars_and_pandas_need_no_pyarrow():
    pytest.importorskip("pandas")
    pytest.importorskip("polars")
    program = (
        "import sys; sys.modules['pyarrow'] = None\n"
        "import pandas, polars\n"
        "from twotower.data.dataset import Dataset\n"
        "columns = {'user': ['a', 'a', 'b'], 'item': [1, 2, 2], 'tags': [['x'], ['y'], ['x']]}\n"
        "for library in (pandas, polars):\n"
        "    frame = library.DataFrame(columns)\n"
        "    print(repr(Dataset.from_frames(frame[['user', 'item']], items=frame[['item', 'tags']])))\n"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    assert done.stdout.splitlines() == ["Dataset(frame: 2 users, 2 items, 3 events)"] * 2


@pytest.mark.parametrize(("factor", "word"), [(1, "seconds"), (10**3, "milli"), (10**6, "micro"), (10**9, "nano")])
def test_the_unit_of_times_is_guessed_by_their_size_and_said(factor, word, from_files):
    data = Dataset.from_frames(events(timestamp=[factor * moment for moment in EVENTS["timestamp"]]))
    assert torch.equal(data.log.times, from_files.log.times)
    assert f"taken as Unix {word}" in said(data)


@pytest.mark.parametrize("unit", ["s", "ms", "us", "ns"])
def test_a_given_unit_is_not_guessed(unit):
    data = Dataset.from_frames(events(timestamp=[10**6 * place for place in range(10)]), unit=unit)
    assert data.log.times.max() == {"s": 9_000_000, "ms": 9_000, "us": 9, "ns": 0}[unit]
    assert "times in" not in said(data)


def test_small_numbers_are_an_order_without_a_clock_and_warned_of(caplog):
    with caplog.at_level(logging.WARNING, logger="twotower.data.frames"):
        data = Dataset.from_frames(events(timestamp=list(range(10))))
    assert not data.schema.has_times
    assert "taken as places in an order" in caplog.text
    assert "taken as places in an order" in said(data)


def moments(zone=None):
    return [datetime.datetime.fromtimestamp(moment, tz=zone or datetime.UTC) for moment in EVENTS["timestamp"]]


def without_zone():
    return [moment.replace(tzinfo=None) for moment in moments()]


def test_times_without_a_zone_are_taken_as_utc_and_said(from_files):
    for values in (without_zone(), np.array(without_zone(), dtype="datetime64[s]"), [str(m) for m in without_zone()]):
        data = Dataset.from_frames(events(timestamp=values))
        assert torch.equal(data.log.times, from_files.log.times)
        assert "taken as UTC" in said(data)


@pytest.mark.parametrize("library", ["pandas", "polars", "arrow", "dict"])
def test_times_of_another_zone_are_converted_and_said(library, from_files):
    zone = zoneinfo.ZoneInfo("America/New_York")
    values = moments(zone)
    if library == "polars":
        polars = pytest.importorskip("polars")
        values = polars.Series(moments()).dt.convert_time_zone("America/New_York")
    frame = frame_of(library, events(timestamp=values))
    data = Dataset.from_frames(frame)
    assert torch.equal(data.log.times, from_files.log.times)
    assert "converted to UTC" in said(data)
    if library != "dict":
        assert "America/New_York" in said(data)


@pytest.mark.parametrize("unit", ["ns", "ms"])
def test_moments_of_pandas_and_arrow_are_read_in_any_resolution(unit, from_files):
    pandas, pyarrow = pytest.importorskip("pandas"), pytest.importorskip("pyarrow")
    series = pandas.Series(pandas.to_datetime(EVENTS["timestamp"], unit="s"))
    frame = pandas.DataFrame(events(timestamp=series.astype(f"datetime64[{unit}]")))
    zoned = pyarrow.array(moments(), type=pyarrow.timestamp(unit, "Asia/Tokyo"))
    for given in (frame, pyarrow.table(events(timestamp=zoned))):
        assert torch.equal(Dataset.from_frames(given).log.times, from_files.log.times)


def test_dates_are_midnight_and_keep_the_order_of_the_frame():
    days = [datetime.date(2024, 1, 1 + place // 5) for place in range(10)]
    data = Dataset.from_frames(events(timestamp=days))
    assert data.log.times.unique().tolist() == [1704067200, 1704153600]
    assert "are dates: midnight UTC" in said(data)


def test_a_label_of_0_and_1_is_kept_and_a_rule_drops():
    data = Dataset.from_frames(events(stars=[place % 2 for place in range(10)]), label="stars")
    assert data.log.labels.sum() == 5
    assert len(data.log.items) == 10
    ruled = Dataset.from_frames(EVENTS, value="stars", label={"at_least": 4})
    assert len(ruled.log.items) == 5
    with pytest.raises(InputError, match=r"label column 'stars' holds '2', not only 0 and 1; say which.*'at_least': 4"):
        Dataset.from_frames(EVENTS, label="stars")


def test_given_kinds_override_guesses_and_a_list_leaves_the_others_out():
    data = Dataset.from_frames(EVENTS, items=ITEMS, features={"year": "categorical", "tags": None})
    kinds = {feature.name: feature.kind for feature in data.schema.item_features}
    assert kinds["year"] == "categorical"
    assert "tags" not in kinds
    assert kinds["genres"] == "multi_categorical"
    listed = Dataset.from_frames(EVENTS, items=ITEMS, features=["year", "colour"])
    assert list(listed.item_features) == ["year", "colour"]
    both = {"place": {"kind": "vector", "columns": ["year", "wide"]}, "wide": {"kind": "numeric"}}
    made = Dataset.from_frames(EVENTS, items=ITEMS | {"wide": list(range(8))}, features=both)
    assert made.item_features["place"][2].tolist() == [1990.0, 0.0]


def test_columns_that_make_no_feature_are_named_with_the_reason():
    odd = ITEMS | {
        "constant": [1] * 8,
        "url": [f"u{number}" for number in range(8)],
        "imdb_id": list(range(8)),
        "seen": [datetime.date(2024, 1, 1 + number) for number in range(8)],
        "ragged": [[0.5] * (1 + number) for number in range(8)],
        "gone": [None] * 8,
        "price": [Decimal(f"{number}.50") for number in range(8)],
    }
    data = Dataset.from_frames(EVENTS, items=odd)
    assert data.item_features.keys() == Dataset.from_frames(EVENTS, items=ITEMS).item_features.keys() | {"price"}
    for reason in (
        "constant has one value for all",
        "url has its own value in nearly every row (8 of 8)",
        "imdb_id looks like another id",
        "seen is of type DATE",
        "ragged holds lists of 1 to 8 numbers",
        "gone is empty",
    ):
        assert reason in said(data)


@pytest.mark.bad_input
@pytest.mark.parametrize(
    ("given", "arguments", "message"),
    [
        ({}, {"user": "user_ix"}, r"events: no column 'user_ix' \(user\); did you mean 'user_id'"),
        ({"user_id": None}, {}, r"no column is called 'user' .* say which with user='...' \(columns: item_id, time"),
        ({"uid": [1] * 10}, {}, "columns 'user_id', 'uid' could each be the user; say which with user='user_id'"),
        ({"date": [1] * 10}, {}, "columns 'timestamp', 'date' could each be the time"),
        ({"USER_ID": [1] * 10}, {}, "events: two columns are called 'user_id'"),
        ({"user_id": [1, 2, 3, "4", 5, 6, 7, None, 9, "x"]}, {}, "several types: 7 whole numbers, 2 texts; convert"),
        ({"user_id": [{"id": number} for number in range(10)]}, {}, "values of type dict; convert them to numbers"),
        ({"user_id": [object() for _ in range(10)]}, {}, "values of type object; convert them to numbers"),
        ({"user_id": ["7"] * 10}, {}, "the log has a single user"),
        (
            {"user_id": [[number] for number in range(10)]},
            {},
            r"'user_id' are of type \w+\[\]; an id is a number",
        ),
        ({"item_id": [float("inf"), *map(float, range(9))]}, {}, "an id in column 'item_id' is infinite"),
        (
            {"timestamp": [*moments()[:9], without_zone()[9]]},
            {},
            "types: 9 datetimes with a zone, 1 datetimes; convert",
        ),
        ({"user_id": [None, *"abcabcabc"]}, {}, "events: 1 of 10 rows are malformed .*no user.* max_bad_share"),
        ({"item_id": [float("nan")] * 10}, {}, "10 of 10 rows are malformed"),
        ({"user_id": [2.0**60 + 1] * 10}, {}, "floats of 9,007,199,254,740,992 and more, which have lost digits"),
        ({name: [] for name in EVENTS}, {}, "events: the frame has no rows"),
        ({"item_id": ["a"]}, {}, "unequal lengths: 'user_id' 10, 'item_id' 1"),
        ({}, {"unit": "days"}, "unknown unit 'days'"),
        ({"timestamp": without_zone()}, {"unit": "ms"}, "unit='ms' is for numbers, and time column 'timestamp' has"),
        ({"timestamp": [True] * 10}, {}, "is of type BOOLEAN, not a moment"),
        ({"timestamp": [None] * 10}, {}, "holds no number and no date"),
        ({"timestamp": None}, {"unit": "s"}, "unit='s' without a time column"),
        ({"timestamp": [*moments()[:9], "soon"]}, {}, "several types: 9 datetimes, 1 texts"),
        ({}, {"item": "user_id"}, "given as user and as item"),
        ({}, {"split": "by-moon"}, "by-moon"),
        ({}, {"features": ["year"]}, "give items=... or users=... as frames"),
        ({}, {"title": "title"}, "give items=... as a frame"),
        ({}, {"items": ITEMS, "title": "titel"}, r"items: no column 'titel' \(title\); did you mean 'title'"),
        ({}, {"items": ITEMS, "features": {"yaer": "numeric"}}, "no column 'yaer' in items; did you mean 'year'"),
        ({}, {"items": ITEMS, "features": {"year": "number"}}, "unknown kind 'number'"),
        ({}, {"items": ITEMS, "features": "year"}, "features is the text 'year'"),
        ({}, {"items": {"a": [1], "b": [2]}}, "items: no column looks like the id; rename it to 'item_id'"),
        ({}, {"items": {"item_id": ["x1", "x2"]}}, "'item_id' is in column 'item_id' of items; give both the same"),
        ({}, {"label": {"column": "star", "at_least": 4}}, r"no column 'star' \(label\); did you mean 'stars'"),
    ],
)
def test_a_frame_that_cannot_be_used_is_one_clear_line(given, arguments, message, tmp_path):
    with pytest.raises(InputError, match=message) as caught:
        Dataset.from_frames(events(**given), to=tmp_path / "prepared", **arguments)
    assert "\n" not in str(caught.value)
    assert str(tmp_path) not in str(caught.value)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.bad_input
@pytest.mark.parametrize("value", [[1, 2], "events.csv", None, np.zeros((3, 2)), 7])
def test_what_is_no_frame_is_refused_by_its_type(value):
    with pytest.raises(InputError, match=f"events is of type {type(value).__name__}, which is no data frame"):
        Dataset.from_frames(value)


@pytest.mark.bad_input
def test_odd_frames_of_pandas_are_refused():
    pandas = pytest.importorskip("pandas")
    twice = pandas.DataFrame([[1, 2, 3]], columns=["user", "item", "item"])
    with pytest.raises(InputError, match="two columns are called 'item'"):
        Dataset.from_frames(twice)
    with pytest.raises(InputError, match="2 levels of column names"):
        Dataset.from_frames(pandas.DataFrame([[1]], columns=pandas.MultiIndex.from_tuples([("user", "a")])))
    with pytest.raises(InputError, match="the frame has no columns"):
        Dataset.from_frames(pandas.DataFrame())
    with pytest.raises(InputError, match="Series, which is no data frame"):
        Dataset.from_frames(pandas.Series([1]))


@pytest.mark.bad_input
def test_frames_that_their_library_cannot_read_are_one_line():
    polars, duckdb = pytest.importorskip("polars"), pytest.importorskip("duckdb")
    with pytest.raises(InputError, match="events: cannot be read: .*nothing"):
        Dataset.from_frames(polars.LazyFrame(EVENTS).select("nothing"))
    with pytest.raises(InputError, match="events: cannot be read: ") as caught:
        Dataset.from_frames(polars.LazyFrame(EVENTS | {"user_id": ["x"] * 10}).cast({"user_id": polars.Int64}))
    assert "\n" not in str(caught.value)
    connection = duckdb.connect()
    relation = connection.sql("SELECT 1 AS user, 2 AS item")
    connection.close()
    with pytest.raises(InputError, match="events: cannot be read: Connection Error"):
        Dataset.from_frames(relation)


@pytest.mark.bad_input
def test_a_column_with_a_name_of_ours_is_to_be_renamed():
    with pytest.raises(InputError, match="items: column '__row' has a name that preparing uses itself; rename it"):
        Dataset.from_frames(EVENTS, items=ITEMS | {"__row": list(range(8))})


@pytest.mark.bad_input
def test_a_header_of_numbers_is_named_by_them():
    pandas = pytest.importorskip("pandas")
    frame = pandas.DataFrame([[1, "a"], [1, "b"], [2, "a"]])
    assert ids_of(Dataset.from_frames(frame, user=0, item=1), "item") == ["a", "b"]


def test_one_broken_time_does_not_change_the_unit_of_the_others():
    with pytest.raises(InputError, match="beyond the year 5000"):
        Dataset.from_frames(events(timestamp=[10**18, *EVENTS["timestamp"][1:]]))


def test_few_rows_without_an_id_are_left_out_with_a_notice(caplog):
    with caplog.at_level(logging.WARNING, logger="twotower.data.frames"):
        data = Dataset.from_frames(events(user_id=[None, *"abcabcabc"]), max_bad_share=0.1)
    assert len(data.log.items) == 9
    assert "1 of 10 rows are malformed (events line 1: no user): left out" in said(data)
    assert "left out" in caplog.text


def test_exchanged_columns_are_found_by_the_items_or_asked_about(caplog):
    with pytest.raises(InputError, match="but 5 ids of 'item_id' are: exchange user and item"):
        Dataset.from_frames(EVENTS, items=ITEMS, user="item_id", item="user_id")
    many = {"user": [place % 2 for place in range(60)], "item": list(range(60))}
    with caplog.at_level(logging.WARNING, logger="twotower.data.frames"):
        Dataset.from_frames(many)
    assert "2 users, 60 items, 60 events in the frame; are user='user' and item='item' exchanged?" in caplog.text


def test_a_temporary_folder_lives_as_long_as_any_data_set_made_from_it():
    data = Dataset.from_frames(EVENTS)
    folder = data.folder
    other = copy.deepcopy(data.to("cpu"))
    del data
    gc.collect()
    assert Dataset.load(folder).schema == other.schema
    del other
    gc.collect()
    assert not folder.parent.exists()


def test_a_folder_that_was_asked_for_stays_and_loads(tmp_path):
    data = Dataset.from_frames(EVENTS, items=ITEMS, name="films", to=tmp_path / "prepared")
    assert data.keeper is None
    assert [path.name for path in tmp_path.iterdir()] == ["prepared"]
    same(Dataset.load(tmp_path / "prepared"), data)
    assert data.manifest["made_from"] == {"events": "dict", "items": "dict"}
    (tmp_path / "own").mkdir()
    (tmp_path / "own" / "work.txt").write_text("mine")
    with pytest.raises(InputError, match="name another folder"):
        Dataset.from_frames(EVENTS, to=tmp_path / "own")


def test_a_spec_is_prepared_from_a_dict_or_a_toml_too(tmp_path):
    (tmp_path / "log.csv").write_text("user,item\na,x\na,y\nb,x\n")
    log = {"path": str(tmp_path / "log.csv"), "user": "user", "item": "item"}
    spec = Spec.from_dict({"name": "made", "interactions": log})
    spec.to_toml(tmp_path / "made.toml")
    for given in (spec, spec.to_dict(), tmp_path / "made.toml", str(tmp_path / "made.toml")):
        assert repr(Dataset.prepare(given)) == "Dataset(made: 2 users, 2 items, 3 events)"
    assert Dataset.prepare(spec, tmp_path / "kept").folder == tmp_path / "kept"


def test_a_data_set_shows_itself_in_a_line_and_in_a_small_table():
    data = Dataset.from_frames(EVENTS, items=ITEMS, name="films & <b>")
    assert repr(data) == "Dataset(films & <b>: 3 users, 8 items, 10 events)"
    table = data._repr_html_()
    assert "films &amp; &lt;b&gt;" in table
    assert "<th>events</th><td>10</td>" in table
    assert "year (numeric)" in table


def test_the_order_of_a_frame_without_times_counts_where_the_unit_says_so():
    frame = {"user_id": ["a"] * 30 + ["b"] * 30, "item_id": [f"{number:02}" for number in range(30)] * 2}
    sorted_ = Dataset.from_frames(frame, unit="order")
    assert sorted_.is_ordered
    assert sorted_.log.items.tolist() == list(range(2, 32)) * 2
    drawn = Dataset.from_frames(frame)
    assert not drawn.is_ordered
    first, second = drawn.log.items.tolist()[:30], drawn.log.items.tolist()[30:]
    assert sorted(first) == sorted(second) == list(range(2, 32))
    assert first != sorted(first) != second != first
    assert "unit = 'order' says that the order of the file is real" in str(drawn.manifest["treatments"])
