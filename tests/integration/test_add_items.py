"""New items in a bundle without training: encoded as unknown ones by their features, searched, or refused."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

import twotower
from twotower.cli.main import main
from twotower.core.errors import InputError
from twotower.core.records import Items
from twotower.data.dataset import Dataset
from twotower.experiment.index_tuning import rebuild_index
from twotower.experiment.index_users import show_users
from twotower.index.abilities import FiltersColumns
from twotower.index.registry import build_index
from twotower.models.base import Model, attach_items
from twotower.models.encode import encode_known_items, inference
from twotower.models.registry import build_model
from twotower.serving.asking import asker_of
from twotower.serving.bundle import Bundle, changing_bundle
from twotower.serving.contents import Contents, write_bundle
from twotower.serving.filters.parse import parse
from twotower.serving.grow import Added, add_items

Write = Callable[..., Model]
MORE: dict[str, dict[str, Any]] = {
    "int_tower": {},
    "rank_tower": {},
    "cold": {},
    "dat": {},
    "fit": {"meta_queries": 4},
    "sparcode": {"codebook": 4},
    "semantic": {},
    "sasrec": {"item_features": True, "dim": 8},
    "t2diff": {"item_features": True, "dim": 8},
}
TEXT = (
    "id,brand,genres,price,title,picture,year\n"
    "new1,brand3,genres2|genres5,1.25,title2 title9,0.5 -1 2,1999\n"
    "i7,,,,,,\n"
    "new2,never seen,genres4,,title3,1 1 1,soon\n"
)


@pytest.fixture
def new_items(tmp_path: Path) -> Path:
    path = tmp_path / "new.csv"
    path.write_text(TEXT)
    return path


def call(*words: object) -> int:
    with pytest.raises(SystemExit) as stop:
        main([str(word) for word in words])
    assert isinstance(stop.value.code, int)
    return stop.value.code


def encoded(model: Model) -> torch.Tensor:
    """What the item tower makes of the two new items as unknown ones."""
    features = {
        "brand": torch.tensor([3, 1]),
        "genres": torch.tensor([[2, 5, 0], [4, 0, 0]]),
        "price": torch.tensor([1.25, float("nan")]),
        "title": torch.tensor([[2, 9, 0, 0], [3, 0, 0, 0]]),
        "picture": torch.tensor([[0.5, -1.0, 2.0], [1.0, 1.0, 1.0]]),
    }
    with inference(model):
        states: torch.Tensor = model.encode_items(Items(torch.tensor([1, 1]), features))
    return states


def test_new_items_are_encoded_by_their_features_and_the_rest_stays(
    write: Write, titled_dataset: Dataset, new_items: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    model = write(tmp_path / "bundle", titled_dataset)
    before = Bundle.load(tmp_path / "bundle")
    old_states, old_ids = before.item_states.clone(), before.item_ids.tolist()
    assert add_items(tmp_path / "bundle", new_items) == Added(added=2, known=1, items=10)
    assert "1 of 3 items are in the catalogue already" in caplog.text
    after = Bundle.load(tmp_path / "bundle")
    assert after.item_ids.tolist() == [*old_ids, 10, 11]
    assert torch.equal(after.item_states[:8], old_states)
    assert torch.allclose(after.item_states[8:], encoded(model), atol=1e-6)
    assert after.manifest["added_items"] == 2
    assert "| items added since, by their features | 2 |" in (tmp_path / "bundle" / "README.md").read_text()


def test_new_items_come_into_qdrant_with_their_columns(
    write: Write, titled_dataset: Dataset, new_items: Path, tmp_path: Path
) -> None:
    pytest.importorskip("qdrant_edge")
    write(tmp_path / "bundle", titled_dataset)
    rebuild_index(tmp_path / "bundle", "qdrant_edge", {"columns": "year"})
    add_items(tmp_path / "bundle", new_items)
    new = twotower.load(tmp_path / "bundle")
    index = new.bundle.index
    assert isinstance(index, FiltersColumns)
    assert index.answers(parse("year > 1990"))
    assert [answer.id for answer in new.recommend("u3", k=10, filter="year > 1990")] == ["new1"]
    assert "new2" in [answer.id for answer in new.recommend("u3", k=10, filter="not year > 1990")], "it has no year"


def test_they_are_recommended_asked_for_and_read_in_histories(
    bundle_folder: Path, new_items: Path, caplog: pytest.LogCaptureFixture
) -> None:
    old = twotower.load(bundle_folder)
    similar, unknown = old.similar_table(new_items, k=8)[0].answers, asker_of(old.bundle, "u3", None)
    add_items(bundle_folder, new_items)
    assert "column 'year': 1 values are no INTEGER" in caplog.text
    assert "columns that the catalogue does not have are left out: 'brand'" in caplog.text
    new = twotower.load(bundle_folder)
    assert "new1" in [answer.id for answer in new.recommend("u3", k=10)]
    assert {a.id: a.score for a in new.similar("new1", k=9) if a.id != "new2"} == {
        answer.id: pytest.approx(answer.score, abs=1e-6) for answer in similar
    }
    assert new.items(["new1", "new2", "i4"])[0].columns == {"year": 1999, "title": "title2 title9"}
    assert new.items(["new2"])[0].columns["year"] is None
    users = asker_of(new.bundle, None, ["new1", "i3"]).users
    assert users.history.tolist() == [[10, 3]]
    assert "new1" not in [answer.id for answer in new.recommend(history=["new1", "i3"], k=10)]
    assert torch.equal(asker_of(new.bundle, "u3", None).users.history, unknown.users.history)


def test_a_bundle_may_grow_twice_and_elsewhere(bundle_folder: Path, new_items: Path, tmp_path: Path) -> None:
    bytes_before = (bundle_folder / "manifest.json").read_bytes()
    add_items(bundle_folder, new_items, to=tmp_path / "today")
    assert (bundle_folder / "manifest.json").read_bytes() == bytes_before
    new_items.write_text(TEXT.replace("new", "newer"))
    assert add_items(tmp_path / "today", new_items) == Added(added=2, known=1, items=12)
    retriever = twotower.load(tmp_path / "today")
    scores = {answer.id: answer.score for answer in retriever.recommend("u3", k=12, include_seen=True)}
    assert len(scores) == 12
    assert scores["newer1"] == pytest.approx(scores["new1"], abs=1e-6), "of the same features"


@pytest.mark.parametrize("kind", ["exact", "hnsw", "nominate"])
def test_the_index_takes_them(
    kind: str, write: Write, titled_dataset: Dataset, new_items: Path, tmp_path: Path
) -> None:
    if kind == "hnsw":
        pytest.importorskip("faiss")
    model = write(tmp_path / "without", titled_dataset)
    items = encode_known_items(model, titled_dataset)
    index = build_index(kind, {}, model)
    show_users(index, model, titled_dataset, titled_dataset.log)
    index.build(items.states, items.ids)
    write(tmp_path / "with", titled_dataset, index=index)
    for name in ("without", "with"):
        add_items(tmp_path / name, new_items)
    found = [
        {
            answer.id: pytest.approx(answer.score, abs=1e-5)
            for answer in twotower.load(tmp_path / name).recommend("u3", k=9)
        }
        for name in ("without", "with")
    ]
    assert {"new1", "new2"} <= set(found[1])
    assert found[0] == found[1]


@pytest.mark.parametrize("name", MORE)
def test_other_models_with_features_grow(name: str, titled_dataset: Dataset, new_items: Path, tmp_path: Path) -> None:
    model = build_model(name, titled_dataset.schema, MORE[name])
    attach_items(model, titled_dataset.all_items())
    contents = Contents(
        model=model,
        model_name=name,
        model_parameters=MORE[name],
        dataset=titled_dataset,
        items=encode_known_items(model, titled_dataset),
        histories=titled_dataset.log,
    )
    write_bundle(tmp_path / "bundle", contents)
    before = twotower.load(tmp_path / "bundle").rank("u3", ["i2", "i4"])
    add_items(tmp_path / "bundle", new_items)
    after = twotower.load(tmp_path / "bundle")
    assert {a.id: a.score for a in after.rank("u3", ["i2", "i4", "new1"]) if a.id != "new1"} == {
        answer.id: pytest.approx(answer.score, abs=1e-5) for answer in before
    }


@pytest.mark.parametrize("name", ["sasrec", "ease", "item_cosine", "popularity"])
def test_a_model_that_reads_no_features_says_so_and_nothing_changes(
    name: str, write: Write, titled_dataset: Dataset, new_items: Path, tmp_path: Path, capsys: Any
) -> None:
    write(tmp_path / "bundle", titled_dataset, name)
    before = (tmp_path / "bundle" / "manifest.json").read_bytes()
    assert call("add-items", tmp_path / "bundle", new_items) == 2
    *_, line = capsys.readouterr().err.strip().splitlines()
    assert line.startswith("error: ")
    assert "reads no item features" in line
    assert (tmp_path / "bundle" / "manifest.json").read_bytes() == before


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("id,brand\ni7,brand2\n", "all of its 1 items are in the catalogue already"),
        ("id,brand\nx,brand2\nx,brand3\n", "id 'x' comes 2 times"),
        ("brand\nbrand2\n", "no column 'id'"),
        ("id,colour\nx,red\n", "the file has none of their columns"),
    ],
)
def test_a_file_that_adds_nothing_is_refused(text: str, message: str, bundle_folder: Path, tmp_path: Path) -> None:
    (tmp_path / "new.csv").write_text(text)
    with pytest.raises(InputError, match=message):
        add_items(bundle_folder, tmp_path / "new.csv")
    Bundle.load(bundle_folder)


def test_a_bundle_that_changed_meanwhile_is_not_overwritten(
    bundle_folder: Path, new_items: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from twotower.serving import grow

    def slowly(path: Path, bundle: Bundle) -> list[dict[str, Any]]:
        with changing_bundle(bundle_folder) as (_, manifest):
            manifest["metrics"] = {"recall@10": 0.5}
        return [{}, {}, {}]

    monkeypatch.setattr(grow, "raw_columns", slowly)
    with pytest.raises(InputError, match="another process has changed it"):
        add_items(bundle_folder, new_items)
    assert Bundle.load(bundle_folder).metrics == {"recall@10": 0.5}


def test_the_command_says_what_it_did(bundle_folder: Path, new_items: Path, tmp_path: Path, capsys: Any) -> None:
    assert call("add-items", bundle_folder, new_items, "--to", tmp_path / "today", "--json") == 0
    told = json.loads(capsys.readouterr().out)
    assert {name: told[name] for name in ("added", "known", "items")} == {"added": 2, "known": 1, "items": 10}
    assert any("already" in text for text in told["notices"])
    assert call("add-items", bundle_folder, new_items) == 0
    assert "2 new items, 10 in all" in capsys.readouterr().out


def test_a_new_item_has_its_title_whatever_the_column_of_titles_is_called(tmp_path: Path) -> None:
    (tmp_path / "log.csv").write_text(
        "user,film,when\n" + "".join(f"u{u},f{(u + k) % 6},{k}\n" for u in range(12) for k in range(4))
    )
    (tmp_path / "films.csv").write_text(
        "film,name,title,genre\n" + "".join(f"f{i},F {i},s,g{i % 2}\n" for i in range(6))
    )
    (tmp_path / "films.toml").write_text(
        'name = "films"\n[interactions]\npath = "log.csv"\nuser = "user"\nitem = "film"\ntime = "when"\n'
        '[items]\npath = "films.csv"\nid = "film"\ntitle = "name"\n[items.features]\ngenre = "categorical"\n'
    )
    dataset = Dataset.prepare(tmp_path / "films.toml", tmp_path / "prepared")
    twotower.train("two_tower", dataset, to=tmp_path / "bundle", epochs=1)
    (tmp_path / "new.csv").write_text("film,name,title,genre\nn1,Brand new,t,g1\n")
    add_items(tmp_path / "bundle", tmp_path / "new.csv")
    (found,) = Bundle.load(tmp_path / "bundle").item_vocabulary.records([8])
    assert (found.id, found.columns["title"], found.columns["title_"]) == ("n1", "Brand new", "t")
