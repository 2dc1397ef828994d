"""Lists as an index of a run and of a bundle: built, tuned, judged, served, grown."""

from __future__ import annotations

import contextlib
import io
import json
import shutil
from pathlib import Path

import pytest
import torch

from twotower.cli.main import main
from twotower.core.errors import InputError
from twotower.core.records import Users
from twotower.data import sources
from twotower.data.prepare.prepare import prepare
from twotower.data.prepare.spec import Spec
from twotower.data.sources.synthetic import Synthetic
from twotower.experiment.index_tuning import rebuild_index
from twotower.index.nominate_index import NominateIndex
from twotower.index.postings_index import PostingsIndex
from twotower.index.postings_store import PostingsStore
from twotower.index.short_lists import WholeCatalogue
from twotower.models.encode import users_with_history
from twotower.models.sparcode import Coded
from twotower.serving.bundle import Bundle, changing_bundle
from twotower.serving.compact import compact_bundle
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
    folder = tmp_path_factory.mktemp("data")
    settings = Synthetic(users=120, items=900, cold_items=3, events=8)
    return prepare(Spec.from_toml(sources.get("synthetic", folder / "raw", settings=settings)), folder / "prepared")


def train(data: Path, folder: Path, *words: str) -> Path:
    status, _, errors = twotower("train", "--data", data, "--to", folder, *words)
    assert status == 0, errors
    return folder


@pytest.fixture(scope="module")
def trained(data, tmp_path_factory) -> Path:
    words = ("--model", "two_tower", *SMALL, "--set", "index.kind=nominate", "--set", "index.codes=20")
    return train(data, tmp_path_factory.mktemp("trained") / "bundle", *words)


@pytest.fixture
def bundle(trained, tmp_path) -> Path:
    """A copy that may be changed."""
    return Path(shutil.copytree(trained, tmp_path / "bundle"))


def test_a_run_names_it_and_its_bundle_answers_by_lists(trained, monkeypatch):
    found = Bundle.load(trained)
    assert isinstance(found.index, NominateIndex)
    assert found.manifest["index"] == "nominate"
    assert found.manifest["index_settings"] == {"codes": 20, "longest": 0, "nearest": 8, "members": 0, "seed": 0}
    assert found.index.most_effort() == 20
    monkeypatch.setattr(WholeCatalogue, "search", lambda *_: pytest.fail("by a scan"))
    retriever = load(trained)
    assert len(retriever.recommend(retriever.bundle.user_vocabulary.ids([5])[0], k=7)) == 7


def test_with_all_lists_read_and_no_list_cut_it_answers_as_a_scan_does(bundle):
    user = load(bundle).bundle.user_vocabulary.ids([4])[0]
    rebuild_index(bundle, "exact")
    exact = load(bundle).recommend(user, k=50)
    rebuild_index(bundle, "nominate", {"codes": 5, "longest": 2_000, "nearest": 1})
    assert [answer.id for answer in load(bundle).recommend(user, k=50)] == [answer.id for answer in exact]


def test_tuning_finds_how_many_lists_to_read(bundle):
    words = ("index", bundle, "--kind", "nominate", "--set", "codes=16", "--set", "longest=6", "-k", "10")
    status, out, _ = twotower(*words, "--tune", "recall=0.7", "--json")
    assert status == 0
    tuning = json.loads(out)["tuning"]
    assert tuning["setting"] == "nearest"
    assert tuning["reached"]
    assert len(tuning["curve"]) > 1
    assert [point["recall"] for point in tuning["curve"]] == sorted(point["recall"] for point in tuning["curve"])
    assert Bundle.load(bundle).index.settings["nearest"] == tuning["chosen"]["value"]
    assert tuning["curve"][0]["recall"] <= 0.6  # although what one list leaves open is filled by a scan
    loss = json.loads(twotower("evaluate", bundle, "-k", "10", "--json")[1])["index"]
    assert loss["kind"] == "nominate"
    assert 0.7 < loss["against_exact"]["recall@10"] <= 1


def test_more_codes_than_users_make_as_many_lists_as_there_are_users(bundle, caplog):
    rebuild_index(bundle, "nominate", {"codes": 500})
    assert "index.codes = 500 for 120 users: 120 lists are made" in caplog.text
    assert Bundle.load(bundle).index.most_effort() == 120


def test_short_lists_are_filled_by_a_scan_and_that_is_said_once(bundle, caplog):
    rebuild_index(bundle, "nominate", {"codes": 20, "longest": 3, "nearest": 1})
    retriever = load(bundle)
    user = retriever.bundle.user_vocabulary.ids([4])[0]
    found = [retriever.recommend(user, k=30) for _ in range(2)]
    assert caplog.text.count("are answered by a scan of all items (said once)") == 1
    rebuild_index(bundle, "exact")
    assert [a.id for a in found[0]] == [a.id for a in found[1]] == [a.id for a in load(bundle).recommend(user, k=30)]


def test_what_it_cannot_do_is_said_in_one_line(bundle):
    before = (bundle / "manifest.json").read_bytes()
    assert "index.nearest = 0: at least 1 is wanted" in refused(
        "index", bundle, "--kind", "nominate", "--set", "nearest=0"
    )
    assert "did you mean 'index.longest'?" in refused("index", bundle, "--kind", "nominate", "--set", "longets=9")
    assert (bundle / "manifest.json").read_bytes() == before


@pytest.mark.parametrize(
    ("model", "settings"),
    [
        ("ease", ()),
        ("two_tower", (*SMALL, "--set", "model.score=mlp")),
        ("fit", (*SMALL,)),
        ("cold", ("--set", "model.field_dim=8", "--set", "model.hidden=[16, 8]", *SMALL[2:])),
        ("sparcode", ("--set", "training.epochs=2", "--set", "model.codebook=8", "--set", "model.dim=8")),
        ("all_to_all", ("--set", "training.epochs=1", "--set", "model.dim=8", "--set", "model.history_length=5")),
    ],
)
def test_a_model_without_inner_products_is_searched_by_its_own_score(data, tmp_path, model, settings):
    words = ("--model", model, *settings, "--set", "index.kind=nominate", "--set", "index.codes=16")
    bundle = train(data, tmp_path / "bundle", *words)
    assert twotower("index", bundle, "--kind", "nominate", "--set", "longest=90", "--tune", "recall=0.7")[0] == 0
    retriever = load(bundle)
    assert isinstance(retriever.bundle.index, NominateIndex)
    users = retriever.bundle.user_vocabulary.ids([3, 4, 5, 6])
    found = {user: {a.id: a.score for a in retriever.recommend(user, k=20)} for user in users}
    if model not in ("fit", "cold"):  # judged among candidates
        assert json.loads(twotower("evaluate", bundle, "-k", "20", "--json")[1])["index"]["kind"] == "nominate"
    rebuild_index(bundle, "brute_force")
    scan = load(bundle)
    for user, answers in found.items():
        true = {a.id: a.score for a in scan.recommend(user, k=900)}
        assert len(answers) == 20
        assert answers == pytest.approx({id: true[id] for id in answers}, abs=1e-4)


@pytest.mark.parametrize("kind", ["nominate", "brute_force"])
def test_item_states_in_fewer_bytes_are_indexed_and_read_back(data, tmp_path, kind):
    bundle = train(data, tmp_path / "bundle", "--model", "fit", *SMALL)
    compact_bundle(bundle, "int8")
    rebuild_index(bundle, kind, {"codes": 4, "longest": 200} if kind == "nominate" else {})
    user = load(bundle).bundle.user_vocabulary.ids([5])[0]
    found = {a.id: pytest.approx(a.score, abs=1e-4) for a in load(bundle).recommend(user, k=5)}
    assert len(found) == 5
    assert {a.id: a.score for a in load(bundle).rank(user, list(found))} == found


@pytest.fixture(scope="module")
def coded(data, tmp_path_factory) -> Path:
    words = ("training.epochs=3", "training.patience=0", "model.codebook=8", "model.dim=8", "index.kind=postings")
    settings = [part for word in words for part in ("--set", word)]
    return train(data, tmp_path_factory.mktemp("coded") / "bundle", "--model", "sparcode", *settings)


def test_a_sparcode_is_searched_by_its_own_lists(coded, tmp_path):
    bundle = Path(shutil.copytree(coded, tmp_path / "bundle"))
    assert Bundle.load(bundle).manifest["index_settings"] == {"longest": 0, "precision": "float16", "above": 0.0}
    users = load(bundle).bundle.user_vocabulary.ids([3, 4, 5, 6])
    rebuild_index(bundle, "brute_force")
    true = {
        user: [(a.id, pytest.approx(a.score, abs=1e-4)) for a in load(bundle).recommend(user, k=9)] for user in users
    }
    status, _, errors = twotower("index", bundle, "--kind", "postings", "--set", "longest=2000")
    assert status == 0, errors
    retriever = load(bundle)
    assert isinstance(retriever.bundle.index, PostingsIndex)
    for user in users:
        assert [(a.id, a.score) for a in retriever.recommend(user, k=9)] == true[user]
    assert twotower("index", bundle, "--kind", "postings", "--set", "longest=40", "--set", "precision=uint8")[0] == 0
    loss = json.loads(twotower("evaluate", bundle, "-k", "10", "--json")[1])["index"]
    assert loss["kind"] == "postings"
    assert loss["against_exact"]["recall@10"] > 0.3
    assert "nothing to tune" in refused("index", bundle, "--kind", "postings", "--tune", "recall=0.9")
    assert "unknown index.precision 'float8'" in refused(
        "index", bundle, "--kind", "postings", "--set", "precision=float8"
    )


@pytest.mark.filterwarnings("ignore:Local mode performs exact")
@pytest.mark.parametrize(("kind", "needed"), [("qdrant_edge", "qdrant_edge"), ("qdrant", "qdrant_client")])
def test_qdrant_answers_by_the_same_lists(coded, tmp_path, monkeypatch, kind, needed):
    pytest.importorskip(needed)
    monkeypatch.setenv("TWOTOWER_QDRANT_URL", ":memory:")
    bundle = Path(shutil.copytree(coded, tmp_path / "bundle"))
    lists = {"longest": 40, "precision": "float32"}
    rebuild_index(bundle, "postings", lists)
    users = load(bundle).bundle.user_vocabulary.ids([3, 4, 5, 6])
    wanted = {user: [(a.id, a.score) for a in load(bundle).recommend(user, k=9)] for user in users}
    rebuild_index(bundle, f"postings_{kind}", lists)
    retriever = load(bundle)
    assert {user: [(a.id, a.score) for a in retriever.recommend(user, k=9)] for user in users} == wanted
    index = retriever.bundle.index
    assert isinstance(index, PostingsStore)
    many = retriever.recommend(users[0], k=200)  # more than its lists hold: a scan
    assert len(many) == 200
    assert many[0].id == wanted[users[0]][0][0]
    if kind == "qdrant":
        assert index.delete_collection(index.collection)
        with pytest.raises(InputError, match="does not have it; build it there: twotower index BUNDLE"):
            _ = load(bundle).bundle.index


def test_the_use_of_codes_is_told_epoch_by_epoch_and_by_diagnose(data, coded, trained, tmp_path):
    lines = [json.loads(line) for line in Path(f"{coded}.run", "train.jsonl").read_text().splitlines()]
    told = [line for line in lines if "codes/used" in line]
    assert [line["epoch"] for line in told] == [line["epoch"] for line in lines if line["epoch"] > 1]
    for line in told:
        assert 0.0 < line["codes/used"] <= 1.0
        assert 1 / 8 <= line["codes/perplexity"] <= 1.0
        assert 1 / 8 <= line["codes/busiest"] < 1.0
        assert 1.0 < line["codes/longest"] <= 32.0
    status, out, _ = twotower("diagnose", coded, "--json")
    assert status == 0
    sentence, lists = json.loads(out)["read"]["notices"]
    assert sentence.startswith("4 codebook(s) of 8 codes: ")
    assert "the busiest code has" in sentence
    assert lists == "index of 32 lists: 0 empty, 100 items on average, the longest has 100"
    gate = ("training.epochs=3", "training.patience=0", "model.codebook=8", "model.dim=8", "model.codes=gate")
    words = [part for word in (*gate, "model.chosen=2") for part in ("--set", word)]
    gated = train(data, tmp_path / "gated", "--model", "sparcode", *words)
    (sentence,) = json.loads(twotower("diagnose", gated, "--json")[1])["read"]["notices"]
    assert sentence.startswith("1 codebook(s) of 8 codes: ")
    assert json.loads(twotower("diagnose", trained, "--json")[1])["read"]["notices"] == [
        "index of 20 lists: 0 empty, 100 items on average, the longest has 100"
    ]


def test_a_model_whose_scores_are_all_0_answers_by_popularity_and_says_so_once(coded, tmp_path, caplog):
    bundle = Path(shutil.copytree(coded, tmp_path / "bundle"))
    loaded = Bundle.load(bundle)
    model, index = loaded.model, loaded.index
    model._activate = torch.relu
    with torch.no_grad():
        model.bias.fill_(-1e6)
    index.build(loaded.item_states, loaded.item_ids)
    assert not index._lists.lengths.any()
    index.save(tmp_path / "again")
    index = PostingsIndex.load(tmp_path / "again", model=model)
    with torch.inference_mode():
        users = model.encode_users(model_users(loaded, [3, 4]))
    events = loaded.positives.items.bincount(minlength=loaded.schema.num_items)
    order = sorted(loaded.item_ids.tolist(), key=lambda item: (-int(events[item]), item))
    for _ in range(2):
        found = index.search(users, 5, torch.tensor([[order[0]], [order[2]]]))
        assert found.ids.tolist() == [order[1:6], [*order[:2], *order[3:6]]]
        assert found.scores.tolist() == [[0.0] * 5] * 2
    assert caplog.text.count("such users get the most popular items (said once)") == 1
    few = torch.tensor(order[7:10])
    assert index.search(users, 2, allow=few).ids.tolist() == [order[7:9]] * 2


def model_users(bundle: Bundle, ids: list[int]) -> Users:
    return users_with_history(bundle.dataset, bundle.positives, torch.tensor(ids), bundle.model.history_length)


def test_users_whose_lists_hold_something_are_no_matter_of_popularity(coded):
    index = Bundle.load(coded).index
    index.read_events(torch.arange(5000))
    users = index._model.encode_users(model_users(Bundle.load(coded), [3, 4, 5]))
    with_events = index.search(users, 5)
    index._popular = None
    assert index.search(users, 5).ids.equal(with_events.ids)


def test_one_threshold_lists_what_is_above_it_alone_also_of_items_that_are_added(coded):
    bundle = Bundle.load(coded)
    model, states, ids = bundle.model, bundle.item_states, bundle.item_ids
    with torch.inference_mode():
        scores = model.list_scores(torch.arange(model.num_lists), states)
    above = float(scores.quantile(0.9))
    index = PostingsIndex(model, longest=5_000, above=above)
    index.build(states[:-50], ids[:-50])
    index.add(states[-50:], ids[-50:])
    assert index._lists.lengths.tolist() == (scores > above).sum(1).tolist()
    with pytest.raises(InputError, match="index.above = -1"):
        PostingsIndex(model, above=-1.0)


def test_of_many_codes_those_that_users_have_get_a_list(coded, tmp_path, monkeypatch):
    bundle = Path(shutil.copytree(coded, tmp_path / "bundle"))
    monkeypatch.setattr("twotower.index.model_lists.EVERY", 10)
    monkeypatch.setattr("twotower.index.model_lists.USERS", 4)
    rebuild_index(bundle, "postings", {"longest": 2_000, "precision": "float32"})
    after = load(bundle)
    index = after.bundle.index
    assert isinstance(index, PostingsIndex)
    model, states = after.bundle.model, after.bundle.item_states
    with torch.no_grad():
        everyone = model.encode_users(model_users(after.bundle, list(range(2, 122))))
    have = torch.isin(everyone.codes, index._codes.codes)
    assert len(index._codes.codes) == index._lists.num_codes <= 16
    assert have.all(1).sum() >= 4
    users = after.bundle.user_vocabulary.ids((have.all(1).nonzero()[:4, 0] + 2).tolist())
    rebuild_index(bundle, "brute_force")
    exact = load(bundle)
    for user in users:
        assert [a.id for a in after.recommend(user, k=9)] == [a.id for a in exact.recommend(user, k=9)]
    late = torch.tensor([5000])
    index.add(states[:1], late)
    assert (index._lists.lengths == len(states) + 1).all()
    index.remove(late)
    # a code that nobody had adds nothing; without any other the answer is a scan
    absent = next(code for code in range(32) if code not in index._codes.codes)
    only = map_rows(everyone)._replace(codes=torch.full((1, 4), absent))
    assert index.search(only, 5).ids.tolist() == [
        after.bundle.item_ids[model.score(only, states)[0].topk(5).indices].tolist()
    ]
    with pytest.raises(InputError, match="code 32, but the model has 32"):
        index.search(only._replace(codes=torch.full((1, 4), 32)), 5)
    with pytest.raises(InputError, match="it has read no users"):
        PostingsIndex(model).build(states, after.bundle.item_ids)


def map_rows(users: Coded) -> Coded:
    """The first of some users."""
    return Coded(*(part[:1] for part in users))


def test_a_model_without_lists_is_refused_before_it_is_trained(data, trained, tmp_path):
    words = ("train", "--data", data, "--to", tmp_path / "bundle", "--set", "index.kind=postings")
    assert "TwoTower has none; use nominate" in refused(*words, "--model", "two_tower")
    assert "lists are of codes = 'gate'" in refused(*words, "--model", "sparcode", "--set", "model.codes=none")
    assert not (tmp_path / "bundle.run" / "train.jsonl").exists()
    assert "TwoTower has none" in refused("index", trained, "--kind", "postings")


def test_lists_of_another_model_or_cut_short_are_refused(coded, trained, tmp_path):
    model, folder = Bundle.load(coded).model, tmp_path / "index"
    shutil.copytree(coded / "index", folder)
    with torch.no_grad():
        model.bias.add_(0.5)  # as large as before, and trained again
    with pytest.raises(InputError, match="lists of another model, or of before its last training"):
        PostingsIndex.load(folder, model=model)
    model.coder.codes += 1
    with pytest.raises(InputError, match="lists of another model"):
        PostingsIndex.load(folder, model=model)
    (folder / "items.safetensors").write_bytes(b"nothing")
    with pytest.raises(InputError, match="not an index of this kind"):
        PostingsIndex.load(folder, model=model)
    with pytest.raises(InputError, match="it is a PostingsIndex"):
        NominateIndex.load(folder, model=model)


def test_new_items_join_the_lists_that_score_them(trained):
    index = Bundle.load(trained).index
    likes = index._lists.centres
    before = index.search(likes, 3)
    late = torch.arange(5000, 5000 + len(likes))
    index.add(100 * likes, late)
    assert (index.search(likes, 1).ids >= 5000).all()
    index.remove(late)
    assert index.search(likes, 3).ids.equal(before.ids)


def test_nominating_lists_of_another_training_are_refused_and_older_ones_without_a_key_are_read(
    data, trained, bundle, tmp_path
):
    words = ("--model", "two_tower", *SMALL, "--set", "index.kind=nominate", "--set", "index.codes=20")
    other = train(data, tmp_path / "other", *words, "--set", "training.seed=7")
    user = str(load(bundle).bundle.user_vocabulary.ids([5])[0])
    assert [twotower("recommend", one, "--user", user, "-k", "3")[0] for one in (trained, other)] == [0, 0]
    with changing_bundle(bundle) as (copy, _):  # whose digests are those of the swapped files
        shutil.rmtree(copy / "index")
        shutil.copytree(other / "index", copy / "index")  # as many lists, as wide, of the same items
    error = refused("recommend", bundle, "--user", user)
    assert f"{bundle / 'index'}: lists of another model, or of before its last training; build them again" in error
    assert twotower("index", bundle, "--kind", "nominate", "--set", "codes=20")[0] == 0
    assert twotower("recommend", bundle, "--user", user)[0] == 0
    with changing_bundle(other) as (copy, _):
        note = json.loads((copy / "index" / "index.json").read_text())
        del note["key"], note["key_rows"]
        (copy / "index" / "index.json").write_text(json.dumps(note))
    assert twotower("recommend", other, "--user", user)[0] == 0


@pytest.mark.parametrize("model", ["popularity", "ease", "item_lists"])
def test_a_model_that_is_items_alone_has_a_key_as_well(data, model, tmp_path):
    folder = train(data, tmp_path / "bundle", "--model", model, "--set", "index.kind=nominate")
    model, lists = Bundle.load(folder).model, folder / "index"
    assert len(NominateIndex.load(lists, model=model)) > 0
    weight = next(part for part in model.state_dict().values() if part.is_floating_point())
    weight[-1] += 1.0
    with pytest.raises(InputError, match="lists of another model, or of before its last training"):
        NominateIndex.load(lists, model=model)
