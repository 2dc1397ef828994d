import pytest

from twotower.core.errors import InputError
from twotower.data.prepare.spec import Entities, FeatureSpec, Interactions, Label, Source, Spec

FULL = """
name = "films"

[interactions]
path = ["a.csv", "more/*.csv"]
separator = "::"
columns = ["user", "item", "rating", "when"]
encoding = "latin-1"
user = "user"
item = "item"
time = "when"
unit = "ms"
value = "rating"
duplicates = "last"
min_user_events = 5
max_bad_share = 0.05

[label]
at_least = 4
keep = "all"

[users]
path = "users.tsv"
id = "user"
features = { age = "numeric" }

[items]
path = "items.jsonl"
id = "item"
title = "name"

[items.features]
genres = { kind = "multi_categorical", separator = ",", width = 4 }
vector = { kind = "vector", columns = ["v0", "v1"] }
name = "text"

[split]
kind = "last-n"
n = 2
"""


def write(tmp_path, text):
    path = tmp_path / "spec.toml"
    path.write_text(text, encoding="utf-8")
    return path


def test_every_key_is_read(tmp_path):
    spec = Spec.from_toml(write(tmp_path, FULL))
    assert spec == Spec(
        name="films",
        interactions=Interactions(
            Source(
                ("a.csv", "more/*.csv"),
                separator="::",
                columns=("user", "item", "rating", "when"),
                encoding="latin-1",
            ),
            user="user",
            item="item",
            time="when",
            unit="ms",
            value="rating",
            duplicates="last",
            min_user_events=5,
            max_bad_share=0.05,
        ),
        label=Label(at_least=4.0, keep="all"),
        users=Entities(Source(("users.tsv",)), id="user", features=(FeatureSpec("age", "numeric"),)),
        items=Entities(
            Source(("items.jsonl",)),
            id="item",
            title="name",
            features=(
                FeatureSpec("genres", "multi_categorical", separator=",", width=4),
                FeatureSpec("vector", "vector", columns=("v0", "v1")),
                FeatureSpec("name", "text"),
            ),
        ),
        split={"kind": "last-n", "n": 2},
    )
    assert spec.folder == tmp_path


def test_written_and_read_back_is_equal(tmp_path):
    spec = Spec.from_toml(write(tmp_path, FULL))
    spec.to_toml(tmp_path / "again.toml")
    assert Spec.from_toml(tmp_path / "again.toml") == spec
    assert Spec.from_dict(spec.to_dict()) == spec


def test_paths_stay_right_in_another_folder(tmp_path):
    spec = Spec.from_toml(write(tmp_path, FULL))
    spec.to_toml(tmp_path / "elsewhere" / "spec.toml")
    moved = Spec.from_toml(tmp_path / "elsewhere" / "spec.toml")
    assert moved.interactions.source.path == (str(tmp_path / "a.csv"), str(tmp_path / "more/*.csv"))


@pytest.mark.parametrize(
    ("old", "new", "words"),
    [
        ("duplicates =", "duplicate =", "[interactions]: unknown key 'duplicate'; did you mean 'duplicates'?"),
        ("[label]", "[lable]", "unknown key 'lable'; did you mean 'label'?"),
        ('name = "text"', 'name = "txt"', "unknown kind 'txt'; did you mean 'text'?"),
        ("width = 4", "widht = 4", "[items.features.genres]: unknown key 'widht'; did you mean 'width'?"),
        ('kind = "last-n"', 'kind = "last_m"', "did you mean 'last-n'?"),
        ("n = 2", "m = 2", "unknown option 'm'"),
        ('unit = "ms"', 'unit = "msec"', "unknown unit 'msec'; did you mean 'ms'"),
        ('duplicates = "last"', 'duplicates = "lst"', "did you mean 'last'?"),
        ('keep = "all"', 'keep = "al"', "did you mean 'all'?"),
        ("at_least = 4", "", "[label] needs one of at_least and equals"),
        ("at_least = 4", "at_least = 4\nequals = 1", "[label] needs one of at_least and equals"),
        ("at_least = 4", "at_least = nan", "[label] at_least is a finite number, got nan"),
        ("at_least = 4", 'at_least = "four"', "[label] at_least must be a number, got 'four'"),
        ("min_user_events = 5", "min_user_events = 2.5", "min_user_events must be a whole number, got 2.5"),
        ("min_user_events = 5", "min_user_events = 0", "must be at least 1"),
        ("max_bad_share = 0.05", "max_bad_share = 5", "max_bad_share must be between 0 and 1"),
        ('user = "user"\n', "", "[interactions] user is missing"),
        ('path = "users.tsv"', "path = 3", "[users] path must be a text or a list of texts, got 3"),
        ('path = "users.tsv"', "path = []", "path names no file"),
        ('id = "user"', 'id = "user"\ntitle = "user"', "titles belong to items"),
        ('value = "rating"', "", "[label] names no column"),
        ('kind = "multi_categorical", separator', 'kind = "text", columns = ["a"], separator', "use column"),
        ("genres = {", '"a/b" = {', "without slash"),
        ('name = "films"', 'name = "films', "not valid TOML"),
    ],
)
def test_a_mistake_is_named_with_the_closest_word(tmp_path, old, new, words):
    assert old in FULL
    with pytest.raises(InputError) as error:
        Spec.from_toml(write(tmp_path, FULL.replace(old, new, 1)))
    assert words in str(error.value)
    assert str(tmp_path / "spec.toml") in str(error.value)


def test_a_missing_file_is_named(tmp_path):
    with pytest.raises(InputError, match="no such file"):
        Spec.from_toml(tmp_path / "none.toml")
