"""The answers of many users in one file: the same as one by one, resumed, and refused where two would write it."""

from __future__ import annotations

import json
import subprocess
import sys
from collections import defaultdict
from collections.abc import Callable
from pathlib import Path
from typing import Any

import duckdb
import pytest

import twotower
from twotower.cli.main import main
from twotower.core.errors import InputError
from twotower.data.dataset import Dataset
from twotower.models.base import Model
from twotower.serving.everyone import write_recommendations
from twotower.serving.retriever import Retriever

Capture = pytest.CaptureFixture[str]
USERS = ["u2", "u3", "u4", "u5", "u6"]


def call(*words: object) -> int:
    """Run the command line in this process; returns the exit status."""
    with pytest.raises(SystemExit) as stop:
        main([str(word) for word in words])
    assert isinstance(stop.value.code, int)
    return stop.value.code


def lists(path: Path) -> dict[str, list[tuple[int, str, float]]]:
    """What the file has of each user, in its order."""
    found: dict[str, list[tuple[int, str, float]]] = defaultdict(list)
    for user, rank, item, score in duckdb.sql(f"SELECT * FROM '{path}'").fetchall():
        found[user].append((rank, item, score))
    return dict(found)


def alone(retriever: Retriever, user: str, **more: Any) -> list[tuple[int, str, float]]:
    answers = retriever.recommend(user, **more)
    return [(rank, answer.id, pytest.approx(answer.score, abs=1e-5)) for rank, answer in enumerate(answers, start=1)]


@pytest.fixture
def retriever(bundle_folder: Path) -> Retriever:
    return twotower.load(bundle_folder)


@pytest.mark.parametrize("more", [{}, {"include_seen": True}, {"exclude": ["i8", "i9"]}])
def test_every_user_gets_what_each_gets_alone(more: dict[str, Any], retriever: Retriever, tmp_path: Path) -> None:
    to = tmp_path / "lists.parquet"
    done = write_recommendations(retriever, to, k=4, part=2, **more)
    found = lists(to)
    assert list(found) == [user for user in USERS if user in found], "in the order of the bundle"
    assert found == {user: alone(retriever, user, k=4, **more) for user in found}
    assert (done.users, done.rows, done.resumed) == (5, sum(map(len, found.values())), 0)
    assert [path.name for path in tmp_path.iterdir() if "lists" in path.name] == ["lists.parquet"], "no parts are left"


@pytest.mark.parametrize("name", ["item_cosine", "sasrec"])
def test_any_model_writes_them(name: str, write: Callable[..., Model], titled_dataset: Dataset, tmp_path: Path) -> None:
    write(tmp_path / "other", titled_dataset, name)
    retriever = twotower.load(tmp_path / "other")
    write_recommendations(retriever, tmp_path / "lists.parquet", k=3)
    found = lists(tmp_path / "lists.parquet")
    assert found == {user: alone(retriever, user, k=3) for user in USERS}


@pytest.mark.parametrize(
    ("name", "text"), [("some.csv", "id,plan\nu5,a\ngone,b\nu3,a\nu5,c\n"), ("some.txt", "u5\n\ngone\nu3\n")]
)
def test_users_of_a_file_come_in_its_order_and_unknown_ones_are_told_of(
    name: str, text: str, bundle_folder: Path, retriever: Retriever, tmp_path: Path, capsys: Capture
) -> None:
    (tmp_path / name).write_text(text)
    to = tmp_path / "lists.parquet"
    assert call("recommend", bundle_folder, "--users", tmp_path / name, "--to", to, "-k", 2, "--json") == 0
    told = json.loads(capsys.readouterr().out)
    assert (told["users"], told["rows"]) == (2, 4)
    assert "1 of 3 users are unknown here and left out: 'gone'" in told["notices"][0]
    found = lists(to)
    assert list(found) == ["u5", "u3"]
    assert found == {user: alone(retriever, user, k=2) for user in ("u5", "u3")}


def test_a_file_of_all_can_be_handed_back(bundle_folder: Path, tmp_path: Path, capsys: Capture) -> None:
    first, again = tmp_path / "first.parquet", tmp_path / "again.parquet"
    assert call("recommend", bundle_folder, "--all", "--to", first, "-k", 2) == 0
    capsys.readouterr()
    assert call("recommend", bundle_folder, "--users", first, "--to", again, "-k", 2, "--json") == 0
    assert json.loads(capsys.readouterr().out)["notices"] == [f"{first}: ids are read from column 'user'"]
    assert lists(again) == lists(first)


@pytest.mark.parametrize(
    ("header", "row", "said"),
    [
        ("person", "u3", "ids are read from column 'person'"),
        ("id,person", "u5,u3", "ids are read from column 'person', not from 'id'"),
        ("user,person", "u5,u3", "ids are read from column 'person', not from 'user'"),
        ("id,user", "u3,u5", "ids are read from column 'id', not from 'user'"),
        ("id", "u3", ""),
    ],
)
def test_users_are_read_by_the_name_that_the_log_gave_them(
    header: str,
    row: str,
    said: str,
    write: Callable[..., Model],
    titled_dataset: Dataset,
    tmp_path: Path,
    capsys: Capture,
) -> None:
    spec = {"name": "shop", "interactions": {"path": "log.csv", "user": "person", "item": "thing"}}
    titled_dataset.manifest["spec"] = spec
    write(tmp_path / "bundle", titled_dataset)
    (tmp_path / "some.csv").write_text(f"{header}\n{row}\n")
    to = tmp_path / "lists.parquet"
    assert call("recommend", tmp_path / "bundle", "--users", tmp_path / "some.csv", "--to", to, "-k", 2, "--json") == 0
    notices = json.loads(capsys.readouterr().out)["notices"]
    assert notices == ([f"{tmp_path / 'some.csv'}: {said}"] if said else [])
    assert list(lists(to)) == ["u3"]


def test_without_a_column_of_ids_the_log_s_own_name_is_asked_for(
    write: Callable[..., Model], titled_dataset: Dataset, tmp_path: Path, capsys: Capture
) -> None:
    titled_dataset.manifest["spec"] = {"name": "shop", "interactions": {"user": "person", "item": "thing"}}
    write(tmp_path / "bundle", titled_dataset)
    (tmp_path / "some.csv").write_text("who\nu3\n")
    assert call("recommend", tmp_path / "bundle", "--users", tmp_path / "some.csv", "--to", tmp_path / "x.parquet") == 2
    assert "some.csv: no column 'person'; known: who" in capsys.readouterr().err


def test_a_finished_folder_with_changed_bytes_is_refused(bundle_folder: Path, tmp_path: Path, capsys: Capture) -> None:
    to = tmp_path / "lists"
    assert call("recommend", bundle_folder, "--all", "--to", to, "-k", 2) == 0
    part = to / "000000.parquet"
    changed = bytearray(part.read_bytes())
    changed[len(changed) // 3] ^= 1
    part.write_bytes(changed)
    capsys.readouterr()
    assert call("recommend", bundle_folder, "--all", "--to", to, "-k", 2) == 2
    assert "000000.parquet is damaged, not what the manifest says; make the parts anew" in capsys.readouterr().err


def test_a_stopped_run_goes_on_and_ends_with_the_same_file(retriever: Retriever, tmp_path: Path) -> None:
    whole, to = tmp_path / "whole.parquet", tmp_path / "lists.parquet"
    write_recommendations(retriever, whole, k=4, part=1)

    def stop(done: int, total: int) -> None:
        if done == 3:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        write_recommendations(retriever, to, k=4, part=1, on_progress=stop)
    assert not to.exists(), "no reader sees half a file"
    assert write_recommendations(retriever, to, k=4, part=1).resumed == 3
    assert lists(to) == lists(whole)


def test_parts_of_another_question_are_not_taken(
    retriever: Retriever, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    to = tmp_path / "lists.parquet"

    def stop(done: int, total: int) -> None:
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        write_recommendations(retriever, to, k=4, part=2, on_progress=stop)
    assert write_recommendations(retriever, to, k=3, part=2).resumed == 0
    assert "another bundle or question" in caplog.text
    assert max(map(len, lists(to).values())) == 3


def test_what_was_seen_is_kept_where_the_bundle_was_evaluated_with_it(
    write: Callable[..., Model], titled_dataset: Dataset, tmp_path: Path
) -> None:
    write(tmp_path / "kept", titled_dataset, run_toml="[evaluation]\nmask_seen = false\n")
    retriever = twotower.load(tmp_path / "kept")
    to = tmp_path / "lists.parquet"
    write_recommendations(retriever, to, k=8)
    assert {len(found) for found in lists(to).values()} == {8}
    write_recommendations(retriever, to, k=8, include_seen=False)
    assert max(map(len, lists(to).values())) == 7


def test_the_file_says_what_it_was_made_from(retriever: Retriever, tmp_path: Path) -> None:
    to = tmp_path / "lists.parquet"
    write_recommendations(retriever, to, k=4, exclude=["i9"])
    ((said,),) = duckdb.sql(f"SELECT decode(value) FROM parquet_kv_metadata('{to}') WHERE key = 'twotower'").fetchall()
    told = json.loads(said)
    assert (told["bundle"], told["k"], told["exclude"]) == (retriever.bundle.manifest["digest"], 4, ["i9"])


def test_a_target_that_another_process_writes_is_refused(retriever: Retriever, tmp_path: Path) -> None:
    to = tmp_path / "lists.parquet"
    code = (
        "import sys; from pathlib import Path; from twotower.core.lock import writing_alone\n"
        "with writing_alone(Path(sys.argv[1])): print('held', flush=True); sys.stdin.read()"
    )
    with subprocess.Popen(
        [sys.executable, "-c", code, str(to)], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    ) as other:
        assert other.stdout is not None
        assert other.stdout.readline() == "held\n"
        with pytest.raises(InputError, match="another process"):
            write_recommendations(retriever, to)
        other.communicate("")
    assert not to.exists()


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["--all"], "name it by --to"),
        (["--to", "A.parquet"], "goes with --all or --users"),
        (["--all", "--users", "A.csv", "--to", "A.parquet"], "not both"),
        (["--all", "--user", "u2", "--to", "A.parquet"], "leave them out"),
        (["--all", "--then", "B", "--to", "A.parquet"], "no such bundle"),
        (["--all", "--candidates", "9", "--to", "A.parquet"], "name the pre-ranker's bundle by --then"),
        (["--all", "--to", "A.csv"], "name it *.parquet"),
        (["--all", "--to", "A.parquet", "-k", "0"], "k must be at least 1"),
        (["--users", "nowhere.csv", "--to", "A.parquet"], "no such file"),
        (["--users", "nowhere.txt", "--to", "A.parquet"], "no such file"),
        (["--users", "FILE", "--to", "A.parquet"], "none of its 2 users is known, such as 'gone'"),
        (["--users", "EMPTY", "--to", "A.parquet"], "names no user"),
    ],
)
def test_a_mistake_is_one_line_and_nothing_is_written(
    words: list[str], message: str, bundle_folder: Path, tmp_path: Path, capsys: Capture
) -> None:
    (tmp_path / "gone.csv").write_text("id\ngone\nlost\n")
    (tmp_path / "empty.txt").touch()
    places = {"FILE": tmp_path / "gone.csv", "EMPTY": tmp_path / "empty.txt", "A.parquet": tmp_path / "a.parquet"}
    assert call("recommend", bundle_folder, *(places.get(word, word) for word in words)) == 2
    told = capsys.readouterr()
    (line,) = told.err.strip().splitlines()
    assert line.startswith("error: ")
    assert message in line
    assert not [path for path in tmp_path.iterdir() if "a.parquet" in path.name]
