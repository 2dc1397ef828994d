"""Pre-rankers served from bundles: candidates in order, two stages in one call, smaller item states."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file
from typer.testing import CliRunner

import twotower
from twotower.core.errors import InputError
from twotower.data.dataset import Dataset
from twotower.models.base import Model, attach_items
from twotower.models.encode import inference
from twotower.models.fit.model import FIT
from twotower.serving.bundle import changing_bundle
from twotower.serving.compact import compact_bundle
from twotower.serving.pipeline import Pipeline, load_pipeline
from twotower.serving.retriever import Retriever

Write = Callable[..., Model]
TINY = {"field_dim": 4, "hidden": [8, 6]}
RANKERS = {
    "fit": {**TINY, "dim": 8, "meta_queries": 5},
    "cold": TINY,
    "int_tower": {**TINY, "dim": 6, "item_heads": 2, "user_heads": 3},
    "rank_tower": {**TINY, "dim": 6, "item_heads": 2, "user_heads": 3},
    "dat": {**TINY, "dim": 6},
    "two_tower": {"dim": 5, "field_dim": 3, "hidden": [4]},
    "two_tower with an MLP": {"dim": 5, "field_dim": 3, "hidden": [4], "score": "mlp"},
}


@pytest.fixture
def bundle_of(write: Write, titled_dataset: Dataset, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable:
    """Write the bundle of a model whose history features are attached, and return its folder and the model."""

    def made(name: str, dataset: Dataset = titled_dataset, **more: object) -> tuple[Path, Model]:
        with monkeypatch.context() as patched:
            build = write.__globals__["build_model"]

            def attached(*arguments: object) -> Model:
                model = build(*arguments)
                attach_items(model, dataset.all_items())
                return model

            patched.setitem(write.__globals__, "build_model", attached)
            folder = tmp_path / f"{name}-{len(list(tmp_path.iterdir()))}"
            return folder, write(folder, dataset, name.split()[0], parameters=RANKERS[name], **more)

    return made


def expected(model: Model, dataset: Dataset, user: int, history: list[int], candidates: list[str]) -> list[str]:
    users = dataset.users(torch.tensor([user]), torch.tensor([history]))
    with inference(model):
        row = model.score(model.encode_users(users), model.encode_items(dataset.all_items()))[0]
    return sorted(candidates, key=lambda id: (-row[int(id[1:])].item(), int(id[1:])))


def ids(answers: list) -> list[str]:
    return [answer.id for answer in answers]


@pytest.mark.parametrize("name", RANKERS)
def test_every_ranker_orders_candidates_from_its_bundle(name, bundle_of, titled_dataset):
    folder, model = bundle_of(name)
    retriever = twotower.load(folder)
    candidates = ["i9", "i2", "i7", "i5"]
    assert ids(retriever.rank("u4", candidates)) == expected(model, titled_dataset, 4, [3, 8, 2, 9], candidates)
    newcomer = retriever.rank(candidates=candidates, history=["i8", "i2"], k=2)
    assert ids(newcomer) == expected(model, titled_dataset, 1, [8, 2], candidates)[:2]


def test_a_request_finds_the_serving_tables_made(bundle_of):
    folder, _ = bundle_of("fit")
    retriever = twotower.load(folder)
    retriever.rank("u4", ["i2", "i3"])
    model = retriever.bundle.model
    assert isinstance(model, FIT)
    assert model.prepared.tables is not None


@pytest.mark.parametrize("ranker", ["fit", "cold", "two_tower"])
@pytest.mark.parametrize("retriever", ["two_tower", "int_tower"])
def test_two_stages_in_one_call(retriever, ranker, bundle_of, titled_dataset):
    first, finder = bundle_of(retriever)
    second, judge = bundle_of(ranker)
    pipeline = load_pipeline(first, second, candidates=3)
    unseen = ["i4", "i5", "i6", "i7"]  # of user 4, who met 3, 8, 2, 9
    candidates = expected(finder, titled_dataset, 4, [3, 8, 2, 9], unseen)[:3]
    assert ids(pipeline.recommend(user="u4", k=2)) == expected(judge, titled_dataset, 4, [3, 8, 2, 9], candidates)[:2]
    typed = pipeline.recommend(history=["i3"], k=3, exclude=["i2", "i9"])
    assert not {"i3", "i2", "i9"} & set(ids(typed))
    assert len(typed) == 3
    everything = Pipeline(pipeline.retriever, pipeline.ranker)
    assert set(ids(everything.recommend(user="u4", k=8))) == set(unseen)
    assert len(everything.recommend(user="u4", k=8, include_seen=True)) == 8


def test_nothing_left_to_offer(bundle_of):
    pipeline = load_pipeline(bundle_of("two_tower")[0], bundle_of("fit")[0])
    everything = [f"i{row}" for row in range(2, 10)]
    assert pipeline.recommend(history=["i2"], exclude=everything) == []


def test_recommend_then_a_pre_ranker(bundle_of):
    from twotower.cli.main import build_app

    first, second = bundle_of("two_tower")[0], bundle_of("fit")[0]
    asked = ["recommend", str(first), "--then", str(second), "--candidates", "3", "--user", "u4", "-k", "2", "--json"]
    shown = CliRunner().invoke(build_app("recommend"), asked)
    assert shown.exit_code == 0, shown.output
    pipeline = load_pipeline(first, second, candidates=3)
    assert [row["id"] for row in json.loads(shown.output)["items"]] == ids(pipeline.recommend(user="u4", k=2))


@pytest.mark.parametrize(("precision", "most"), [("float16", 17), ("int8", 11)])
def test_smaller_item_states(precision, most, bundle_of):
    folder, _ = bundle_of("fit")
    retriever = twotower.load(folder)
    whole, near = retriever.rank("u6", ["i2", "i4", "i8"]), retriever.similar("i4", k=7)
    geometry = twotower.diagnose(folder).statistics
    assert compact_bundle(folder, precision) <= most  # 8 numbers whole: 33 bytes
    small = twotower.load(folder).rank("u6", ["i2", "i4", "i8"])
    assert {a.id: a.score for a in small} == pytest.approx({a.id: a.score for a in whole}, abs=0.02)
    assert {a.id: a.score for a in twotower.load(folder).similar("i4", k=7)} == pytest.approx(
        {a.id: a.score for a in near}, abs=0.02
    )
    for name in ("std_cosine", "norm_mean"):
        assert twotower.diagnose(folder).statistics[name] == pytest.approx(geometry[name], abs=0.01)
    with pytest.raises(InputError, match="stored small already"):
        compact_bundle(folder, precision)


@pytest.mark.bad_input
@pytest.mark.parametrize(
    ("ask", "message"),
    [
        (lambda r: r.rank("u2", []), "list of candidates is empty"),
        (lambda r: r.rank("u2", ["i3", "i2", "i3"]), "candidate 'i3' is named more than once"),
        (lambda r: r.rank("u2", ["i3", "nothing"]), "unknown item 'nothing'"),
        (lambda r: r.rank("u2", ["i3", ""]), "unknown item ''"),
        (lambda r: r.rank("x2", ["i3"]), "unknown user 'x2'"),
        (lambda r: r.rank(candidates=["i3"]), "either a user or a history"),
        (lambda r: r.rank(candidates=["i3"], history=[]), "history is empty"),
        (lambda r: r.rank("u2", ["i3"], k=0), "k must be at least 1"),
        (lambda r: Pipeline(r, r, candidates=0), "candidates must be a whole number of at least 1, got 0"),
        (lambda r: Pipeline(r, r, candidates="500"), "must be a whole number of at least 1, got '500'"),
        (lambda r: Pipeline(r, r, candidates=5.5), "must be a whole number of at least 1, got 5.5"),
        (lambda r: Pipeline(r, r, weight=1.5), "weight must be from 0 to 1, got 1.5"),
        (lambda r: Pipeline(r, r, candidates=5).recommend(user="u2", k=6), "k = 6 of 5 candidates"),
        (lambda r: Pipeline(r, r).recommend(user="u2", k=0), "k must be at least 1"),
        (lambda r: Pipeline(r, r).recommend(), "either a user or a history"),
        (lambda r: compact_bundle(r.bundle.folder, "int4"), "did you mean 'int8'"),
    ],
)
def test_bad_questions(ask: Callable[[Retriever], object], message, bundle_of):
    retriever = twotower.load(bundle_of("fit")[0])
    with pytest.raises(InputError, match=message) as error:
        ask(retriever)
    assert "\n" not in str(error.value)


@pytest.mark.bad_input
def test_a_user_of_whom_nothing_is_known(bundle_of, titled_dataset):
    schema = replace(titled_dataset.schema, user_features=())
    bare = replace(titled_dataset, schema=schema, user_features={})
    histories = bare.log.select(bare.log.users() != 3)
    retriever = twotower.load(bundle_of("fit", bare, histories=histories)[0])
    with pytest.raises(InputError, match="nothing is known of this user: no history"):
        retriever.rank("u3", ["i2", "i4"])
    featured = twotower.load(bundle_of("fit", histories=titled_dataset.log.select(titled_dataset.log.users() != 3))[0])
    assert len(featured.rank("u3", ["i2", "i4"])) == 2


@pytest.mark.bad_input
def test_other_catalogues_and_other_states(bundle_of, titled_dataset, tmp_path):
    import duckdb

    first = twotower.load(bundle_of("two_tower")[0])
    folder = tmp_path / "renamed"
    (folder / "vocabulary").mkdir(parents=True)
    for path in (titled_dataset.folder / "vocabulary").iterdir():
        (folder / "vocabulary" / path.name).write_bytes(path.read_bytes())
    target = folder / "vocabulary" / "items.parquet"
    duckdb.connect().execute(
        f"COPY (SELECT row, 'i' || (11 - row) AS id FROM range(2, 10) AS t(row)) TO '{target}' (FORMAT parquet)"
    )
    second = twotower.load(bundle_of("fit", replace(titled_dataset, folder=folder))[0])
    with pytest.raises(InputError, match="'i2' in the one is 'i9' in the other; train both on the same prepared data"):
        Pipeline(first, second)
    with changing_bundle(second.bundle.folder) as (partial, _):
        save_file({"state": torch.zeros(8, 4)}, partial / "items" / "states.safetensors")
    with pytest.raises(InputError, match="another model's states") as error:
        twotower.load(second.bundle.folder).rank("u4", ["i2"])
    assert "\n" not in str(error.value)
    third = bundle_of("fit")[0]
    with changing_bundle(third) as (partial, _):
        path = partial / "items" / "states.safetensors"
        save_file({name: value[:5].clone() for name, value in load_file(path).items()}, path)
    with pytest.raises(InputError, match=r"states.safetensors: holds 5 items, but the bundle has 8"):
        twotower.load(third).rank("u4", ["i2"])
    with pytest.raises(InputError, match="stores item states in one way alone"):
        compact_bundle(first.bundle.folder, "float16")
