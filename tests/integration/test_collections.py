"""Collections of a vector store that indexes of a bundle leave: kept for who serves them, noted, deleted when asked."""

from __future__ import annotations

import contextlib
import io
import json
import logging
import shutil
from pathlib import Path

import pytest

from twotower.cli.main import main
from twotower.core.errors import InputError
from twotower.experiment import index_tuning
from twotower.experiment.index_tuning import rebuild_index
from twotower.index.address import address_of
from twotower.serving.bundle import Bundle, changing_bundle
from twotower.serving.collections import LEFT
from twotower.serving.drop import drop_left
from twotower.serving.retriever import load

pytest.importorskip("qdrant_client")
pytestmark = pytest.mark.filterwarnings("ignore:Local mode performs exact")


@pytest.fixture(autouse=True)
def in_memory(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TWOTOWER_QDRANT_URL", ":memory:")


def there() -> set[str]:
    from twotower.index.qdrant_server import connected

    return {one.name for one in connected(address_of("qdrant")).get_collections().collections}


def collection(folder: Path) -> str:
    return str(Bundle.load(folder).index.collection)


def twotower(*words: str | Path) -> tuple[int, str, str]:
    out, errors = io.StringIO(), io.StringIO()
    with contextlib.redirect_stdout(out), contextlib.redirect_stderr(errors), pytest.raises(SystemExit) as ended:
        main([*map(str, words)])
    return int(ended.value.code or 0), out.getvalue(), errors.getvalue()


def test_a_rebuilt_index_leaves_its_collection_until_it_is_dropped(bundle_folder, caplog):
    caplog.set_level(logging.WARNING)
    rebuild_index(bundle_folder, "qdrant")
    first, served = collection(bundle_folder), load(bundle_folder)
    assert not caplog.records, "nothing was there before"
    rebuild_index(bundle_folder, "qdrant")
    second = collection(bundle_folder)
    assert f"collection '{first}' of qdrant is left" in caplog.text
    assert {first, second} <= there()
    assert len(served.recommend("u4", k=2)) == 2, "what is served goes on with the old one"
    status, out, errors = twotower("index", bundle_folder, "--drop")
    assert (status, out, errors) == (0, f"deleted: {first}\n", "")
    assert first not in there()
    assert second in there()
    assert len(load(bundle_folder).recommend("u4", k=2)) == 2
    assert LEFT not in Bundle.load(bundle_folder).manifest


def test_all_that_several_builds_left_goes_and_what_is_gone_is_said(bundle_folder):
    rebuild_index(bundle_folder, "qdrant", {"collection": "films"})
    first = collection(bundle_folder)
    rebuild_index(bundle_folder, "qdrant")
    second = collection(bundle_folder)
    rebuild_index(bundle_folder, "exact")
    from twotower.index.qdrant_server import QdrantIndex

    QdrantIndex.delete_collection(first)
    status, out, _ = twotower("index", bundle_folder, "--drop", "--json")
    assert (status, json.loads(out)) == (0, {"deleted": [second], "gone": [first]})
    with pytest.raises(InputError, match="no collection is left from an earlier index$"):
        drop_left(bundle_folder)


def test_a_bundle_in_the_place_of_another_notes_what_that_one_used(bundle_folder, write, titled_dataset):
    rebuild_index(bundle_folder, "qdrant")
    first = collection(bundle_folder)
    write(bundle_folder, titled_dataset)
    assert drop_left(bundle_folder).deleted == [first]


def test_what_a_bundle_uses_and_what_no_build_has_named_is_never_dropped(bundle_folder):
    rebuild_index(bundle_folder, "qdrant")
    used = collection(bundle_folder)
    with pytest.raises(InputError, match=f"it uses '{used}': give it another index first"):
        drop_left(bundle_folder)
    for name in (used, "users"):
        with changing_bundle(bundle_folder) as (_, manifest):
            manifest[LEFT] = [{"kind": "qdrant", "name": name}]
        with pytest.raises(InputError, match=f"collection '{name}' is not one that was left here"):
            drop_left(bundle_folder)
    assert used in there()


def test_a_build_that_fails_deletes_what_it_began(bundle_folder, monkeypatch):
    rebuild_index(bundle_folder, "qdrant")
    before = there()
    with pytest.raises(InputError, match="the data has no|unknown column"):
        rebuild_index(bundle_folder, "qdrant", {"columns": "no_such"})
    assert there() == before

    def full(*_: object) -> None:
        assert there() > before
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(index_tuning, "write_json", full)
    with pytest.raises(OSError, match="No space"):
        rebuild_index(bundle_folder, "qdrant")
    assert there() == before
    assert len(load(bundle_folder).recommend("u4", k=2)) == 2


def test_a_server_that_does_not_answer_leaves_the_note(bundle_folder, monkeypatch):
    monkeypatch.setattr("twotower.index.address.PAUSES", (0.0, 0.0))
    rebuild_index(bundle_folder, "qdrant")
    rebuild_index(bundle_folder, "exact")
    copy = Path(shutil.copytree(bundle_folder, bundle_folder.parent / "copy"))
    monkeypatch.setenv("TWOTOWER_QDRANT_URL", "http://127.0.0.1:9")
    status, _, errors = twotower("index", copy, "--drop")
    assert status == 2
    assert "qdrant at http://127.0.0.1:9 does not answer" in errors
    monkeypatch.setenv("TWOTOWER_QDRANT_URL", ":memory:")
    assert len(drop_left(copy).deleted) == 1


@pytest.mark.parametrize("more", [("--kind", "exact"), ("--tune", "recall=0.9"), ("--set", "m=3")])
def test_drop_stands_alone_and_without_it_a_kind_is_wanted(bundle_folder, more):
    assert "--drop stands alone" in twotower("index", bundle_folder, "--drop", *more)[2]
    assert "--kind is wanted: exact, hnsw" in twotower("index", bundle_folder)[2]
