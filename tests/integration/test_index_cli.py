"""``twotower index`` and what ``evaluate`` says of an index, as a user runs them."""

from __future__ import annotations

import contextlib
import io
import json
import shutil
from pathlib import Path

import pytest
import torch

from twotower.cli.main import main
from twotower.experiment.index_loss import index_loss, shared
from twotower.experiment.index_tuning import doublings, rebuild_index, tune
from twotower.index.hnsw import HNSWIndex
from twotower.serving.bundle import Bundle
from twotower.serving.retriever import load

SMALL = ("--set", "model.dim=8", "--set", "training.epochs=1", "--set", "training.patience=0")


def twotower(*words: str | Path) -> tuple[int, str, str]:
    out, errors = io.StringIO(), io.StringIO()
    with contextlib.redirect_stdout(out), contextlib.redirect_stderr(errors), pytest.raises(SystemExit) as ended:
        main([*map(str, words)])
    return int(ended.value.code or 0), out.getvalue(), errors.getvalue()


def refused(*words: str | Path) -> str:
    status, out, errors = twotower(*words)
    assert (status, out, len(errors.strip().splitlines())) == (2, "", 1), errors
    return errors


@pytest.fixture(scope="module")
def data(tmp_path_factory) -> Path:
    from twotower.data import sources
    from twotower.data.prepare.prepare import prepare
    from twotower.data.prepare.spec import Spec
    from twotower.data.sources.synthetic import Synthetic

    folder = tmp_path_factory.mktemp("data")
    settings = Synthetic(users=120, items=900, cold_items=3, events=8)
    return prepare(Spec.from_toml(sources.get("synthetic", folder / "raw", settings=settings)), folder / "prepared")


@pytest.fixture(scope="module")
def trained(data, tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("trained") / "bundle"
    words = ("train", "--data", data, "--model", "two_tower", *SMALL, "--set", "index.kind=hnsw", "--set", "index.m=8")
    assert twotower(*words, "--to", folder)[0] == 0
    return folder


@pytest.fixture
def bundle(trained, tmp_path) -> Path:
    """A copy that may be changed."""
    return Path(shutil.copytree(trained, tmp_path / "bundle"))


def test_a_run_with_an_index_trains_and_serves_through_it(trained):
    found = Bundle.load(trained)
    assert isinstance(found.index, HNSWIndex)
    assert found.manifest["index"] == "hnsw"
    assert found.manifest["index_settings"] == found.index.settings
    assert found.index.settings["m"] == 8
    assert len(load(trained).recommend(load(trained).bundle.user_vocabulary.ids([5])[0], k=7)) == 7


@pytest.mark.parametrize("kind", ["exact", "hnsw", "ivf_flat", "ivf_pq", "nominate", "brute_force", "qdrant_edge"])
def test_any_index_takes_the_place_of_another(bundle, kind):
    if kind == "qdrant_edge":
        pytest.importorskip("qdrant_edge")
    status, out, _ = twotower("index", bundle, "--kind", kind, "--json")
    assert status == 0
    printed = json.loads(out)
    assert printed["kind"] == kind
    assert printed["tuning"] is None
    after = Bundle.load(bundle)  # hashes hold
    assert after.manifest["index"] == kind
    assert after.manifest["index_settings"] == printed["settings"] == after.index.settings
    retriever = load(bundle)
    user = retriever.bundle.user_vocabulary.ids([4])[0]
    seen = {item.id for item in retriever.seen(user)}
    assert not seen & {answer.id for answer in retriever.recommend(user, k=400)}


def test_an_index_with_columns_filters_by_itself_and_its_answers_are_those_of_a_mask(bundle, monkeypatch):
    pytest.importorskip("qdrant_edge")
    column = sorted(load(bundle).items(load(bundle).bundle.item_vocabulary.ids([5]))[0].columns)[0]
    value = load(bundle).items(load(bundle).bundle.item_vocabulary.ids([5]))[0].columns[column]
    chosen = f"{column} = '{value}'" if isinstance(value, str) else f"{column} >= {value}"
    user = load(bundle).bundle.user_vocabulary.ids([4])[0]
    rebuild_index(bundle, "exact")
    expected = load(bundle).recommend(user, k=20, filter=chosen)
    assert len(expected) > 1
    rebuild_index(bundle, "qdrant_edge", {"columns": column})
    retriever = load(bundle)  # hashes hold, although the engine writes beside what it reads
    with monkeypatch.context() as patch:
        patch.setattr(type(retriever.bundle.index), "search", lambda *_: pytest.fail("by a mask"))
        found = retriever.recommend(user, k=20, filter=chosen)
    assert [answer.id for answer in found] == [answer.id for answer in expected]
    tuned = rebuild_index(bundle, "qdrant_edge", {"columns": column}, recall=0.9).tuning
    assert tuned.reached
    assert load(bundle).bundle.index.settings["ef_search"] == tuned.chosen.value
    message = refused("index", bundle, "--kind", "qdrant_edge", "--set", "columns=no_such")
    assert "index.columns: unknown column of items that a filter reads 'no_such'" in message
    assert "a text is wanted" in refused("index", bundle, "--kind", "qdrant_edge", "--set", "columns=3")


def test_settings_reach_the_index_and_come_back(bundle):
    assert twotower("index", bundle, "--kind", "ivf_flat", "--set", "nlist=10", "--set", "nprobe=3")[0] == 0
    assert Bundle.load(bundle).index.settings == {"nlist": 10, "nprobe": 3}


def test_tuning_chooses_the_least_value_that_reaches_the_recall_and_writes_the_curve(bundle):
    words = ("index", bundle, "--kind", "ivf_flat", "--set", "nlist=100", "--tune", "recall=0.999")
    status, out, _ = twotower(*words, "--json")
    assert status == 0
    printed = json.loads(out)
    tuning = printed["tuning"]
    values = [point["value"] for point in tuning["curve"]]
    assert values == doublings(1, 100)[: len(values)]
    assert len(values) > 1
    assert all(point["choosing"] < 0.999 for point in tuning["curve"][:-1])
    assert tuning["chosen"] == tuning["curve"][-1]
    assert tuning["chosen"]["choosing"] >= 0.999
    assert tuning["reached"] is True
    assert all(point["p50_ms"] > 0 for point in tuning["curve"])
    assert json.loads((bundle / "index.json").read_text()) == printed
    after = Bundle.load(bundle)
    assert after.index.settings["nprobe"] == after.manifest["index_settings"]["nprobe"] == tuning["chosen"]["value"]
    assert "target 0.999 reached" in " ".join(twotower(*words)[1].split())


def test_a_tuned_index_finds_as_much_for_those_of_whom_nothing_is_left_out(bundle, monkeypatch):
    """Those with seen items are searched harder, which must not choose too little for the others."""
    whole = HNSWIndex.search

    def search(self, states, k, exclude=None, allow=None):
        found = whole(self, states, k, exclude, allow)
        if exclude is None and self.settings["ef_search"] < 64:
            found.ids[:, k // 2 :] = -1
        return found

    monkeypatch.setattr(HNSWIndex, "search", search)
    index, found = HNSWIndex(), Bundle.load(bundle)
    index.build(found.item_states, found.item_ids)
    tuning = tune(found, index, 0.9, 10)
    assert tuning.reached
    assert tuning.chosen.value == 64
    assert tuning.curve[0].recall < 0.6


def test_a_recall_out_of_reach_is_said_and_the_best_is_taken(bundle, monkeypatch, caplog):
    monkeypatch.setattr(HNSWIndex, "most_effort", lambda self: 8)
    index = HNSWIndex(m=2, ef_construction=1)
    found = Bundle.load(bundle)
    index.build(torch.randn(len(found.item_ids), 8, generator=torch.Generator().manual_seed(0)), found.item_ids)
    tuning = tune(found, index, 1.0, 10)
    assert not tuning.reached
    assert "recall 1.000 is not reached" in caplog.text


def test_the_index_keeps_the_chosen_setting_whatever_was_timed_last(bundle, monkeypatch):
    def timed(index, exact, values, *_):
        index.set_effort(values[0])
        return dict.fromkeys([0, *values], 1.0)

    monkeypatch.setattr("twotower.experiment.index_tuning.take_turns", timed)
    built = rebuild_index(bundle, "ivf_flat", {"nlist": 100}, recall=0.999)
    assert built.tuning.chosen.value > 1
    assert Bundle.load(bundle).index.settings["nprobe"] == built.tuning.chosen.value


def test_evaluate_shows_the_loss_of_the_index_apart(bundle):
    assert twotower("index", bundle, "--kind", "ivf_flat", "--set", "nlist=60", "--set", "nprobe=1")[0] == 0
    status, out, _ = twotower("evaluate", bundle, "-k", "10,50", "--json")
    assert status == 0
    printed = json.loads(out)
    loss = printed["index"]
    assert loss["kind"] == "ivf_flat"
    assert 0 < loss["against_exact"]["recall@10"] < 1
    for name in ("recall@10", "recall@50"):
        assert loss["against_truth"][name]["exact"] == pytest.approx(printed["metrics"][name], abs=1e-9)
        assert loss["against_truth"][name]["index"] <= 1
    table = " ".join(twotower("evaluate", bundle, "-k", "10")[1].split())
    assert "what the index 'ivf_flat' loses" in table


def test_an_exact_index_loses_nothing_and_is_not_mentioned(bundle):
    rebuild_index(bundle, "exact")
    assert "index" not in json.loads(twotower("evaluate", bundle, "-k", "10", "--json")[1])


def test_with_every_list_probed_the_index_loses_nothing(bundle):
    rebuild_index(bundle, "ivf_flat", {"nlist": 20, "nprobe": 20})
    from twotower.experiment.catalogue import split_of
    from twotower.experiment.run import Run

    found = Bundle.load(bundle)
    cut = split_of(Run.load(bundle / "run.toml"), found.dataset)
    loss = index_loss(found, found.dataset, cut.test, (10, 100))
    assert loss.against_exact == {10: 1.0, 100: 1.0}
    assert loss.truth_exact == loss.truth_index


def test_shares_count_distinct_ids_and_no_padding():
    wanted = torch.tensor([[3, 3, 5, -1], [-1, -1, -1, -1]])
    assert shared(wanted, torch.tensor([[3, -1], [-1, -1]])).tolist() == [0.5, 1.0]


def test_bad_words_are_refused_and_the_bundle_stays(bundle, data, tmp_path):
    before = (bundle / "manifest.json").read_bytes()
    assert "unknown index 'hnws'; did you mean 'hnsw'?" in refused("index", bundle, "--kind", "hnws")
    message = refused("index", bundle, "--kind", "hnsw", "--set", "ef_serch=64")
    assert "'index.ef_serch'; did you mean 'index.ef_search'?" in message
    assert "whole number" in refused("index", bundle, "--kind", "hnsw", "--set", "ef_search=many")
    assert "write key=value" in refused("index", bundle, "--kind", "hnsw", "--set", "ef_search")
    for tuned in ("recall=2", "recall=0", "recall=nan"):
        assert "a share above 0 and at most 1" in refused("index", bundle, "--kind", "hnsw", "--tune", tuned)
    for tuned in ("recall", "ndcg=0.5", "recall=much"):
        assert "write recall=SHARE" in refused("index", bundle, "--kind", "hnsw", "--tune", tuned)
    assert "nothing to tune" in refused("index", bundle, "--kind", "exact", "--tune", "recall=0.9")
    assert "k must be at least 1" in refused("index", bundle, "--kind", "hnsw", "-k", "0")
    assert "no such bundle" in refused("index", tmp_path / "nowhere", "--kind", "hnsw")
    assert (bundle / "manifest.json").read_bytes() == before


def test_a_model_without_inner_products_takes_no_vector_index(data, tmp_path):
    words = ("train", "--data", data, "--model", "ease", "--to", tmp_path / "ease")
    assert twotower(*words)[0] == 0
    assert "finds inner products, and model 'ease' has another score" in refused(
        "index", tmp_path / "ease", "--kind", "hnsw"
    )
    assert "finds inner products, and model 'ease'" in refused(*words, "--set", "index.kind=hnsw")
    assert twotower("index", tmp_path / "ease", "--kind", "brute_force")[0] == 0
    assert type(Bundle.load(tmp_path / "ease").index).__name__ == "BruteForceIndex"
