"""What a command may write over: never a user's file, and nothing inside a bundle."""

from __future__ import annotations

import pytest

from twotower.cli.main import main
from twotower.core.errors import InputError
from twotower.core.files import hash_folder
from twotower.serving.retriever import load


@pytest.fixture
def run(capsys):
    """Run a command; gives its exit status and what it says on standard error."""

    def run(*words: object) -> tuple[int, str]:
        try:
            main([str(word) for word in words])
            status = 0
        except SystemExit as ended:
            status = int(ended.code or 0)
        return status, capsys.readouterr().err

    return run


@pytest.mark.parametrize(
    "words",
    [
        ("vectors", "BUNDLE", "--to", "BUNDLE/vocabulary/users.parquet"),
        ("vectors", "BUNDLE", "--to", "BUNDLE/parts"),
        ("vectors", "BUNDLE", "--for", "qdrant", "--to", "BUNDLE/items/items.jsonl"),
        ("recommend", "BUNDLE", "--all", "--to", "BUNDLE/vocabulary/items.parquet"),
        ("similar", "BUNDLE", "--item", "i2", "--csv", "BUNDLE/similar.csv"),
        ("diagnose", "BUNDLE", "--html", "BUNDLE/page.html"),
        ("data", "generate", "--users", "6", "--items", "5", "--events", "30", "--to", "BUNDLE/raw"),
        ("data", "get", "synthetic", "--to", "BUNDLE/raw"),
        ("push", "BUNDLE", "BUNDLE/copy"),
        ("reproduce", "negatives", "--to", "BUNDLE/table"),
    ],
)
def test_no_command_writes_into_a_bundle(run, bundle_folder, words):
    before = hash_folder(bundle_folder, leave_out=())
    status, line = run(*(word.replace("BUNDLE", str(bundle_folder)) for word in words))
    assert status == 2
    assert f"lies inside the bundle {bundle_folder}" in line
    assert hash_folder(bundle_folder, leave_out=()) == before
    assert load(bundle_folder).similar("i2", k=1)


@pytest.mark.parametrize(
    "words",
    [
        ("generate", "--users", "6", "--items", "5", "--events", "30"),
        ("get", "synthetic", "--users", "20", "--items", "20", "--events", "6"),
    ],
)
def test_a_users_own_spec_and_log_are_not_written_over(run, tmp_path, words):
    mine = tmp_path / "mine"
    mine.mkdir()
    (mine / "spec.toml").write_text('name = "mine"\n')
    (mine / "log.csv").write_text("user_id,item_id\na,b\n")
    assert run("data", *words, "--to", mine)[0] == 2
    assert (mine / "log.csv").read_text() == "user_id,item_id\na,b\n"
    assert run("data", *words, "--to", tmp_path / "drawn")[0] == 0
    assert run("data", *words, "--to", tmp_path / "drawn")[0] == 0, "its own folder is replaced"
    (tmp_path / "drawn" / "log.csv").write_text("years of work")
    status, line = run("data", *words, "--to", tmp_path / "drawn")
    assert (status, "log.csv in it was not written by twotower" in line) == (2, True)
    assert (tmp_path / "drawn" / "log.csv").read_text() == "years of work"


def test_a_note_beside_the_files_of_a_bundle_is_not_lost_when_it_is_trained_anew(write, titled_dataset, tmp_path):
    write(tmp_path / "bundle", titled_dataset)
    (tmp_path / "bundle" / "notes.txt").write_text("years of work")
    with pytest.raises(InputError, match=r"notes\.txt in it was not written by twotower, and would be lost"):
        write(tmp_path / "bundle", titled_dataset)
    assert (tmp_path / "bundle" / "notes.txt").read_text() == "years of work"


def test_a_space_that_is_nested_too_deeply_is_no_traceback(run, tmp_path):
    space = "training.learning_rate=" + "[" * 2000 + "]" * 2000
    status, line = run("tune", "--model", "two_tower", "--space", space, "--to", tmp_path / "tuning")
    assert (status, "write section.key=[0.1, 0.3]" in line, len(line) < 500) == (2, True, True)


def test_a_target_below_a_file_is_a_wrong_name_and_no_failure_of_the_machine(run, bundle_folder, tmp_path):
    (tmp_path / "file").write_text("mine")
    status, line = run("vectors", bundle_folder, "--to", tmp_path / "file" / "x.parquet")
    assert (status, "file" in line) == (2, True)
    assert (tmp_path / "file").read_text() == "mine"
