"""A tree from the command line: trained, searched by default, tuned, judged, grown, refused."""

from __future__ import annotations

import contextlib
import io
import json
import shutil
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from twotower.cli.main import main
from twotower.core.errors import InputError
from twotower.core.records import Users
from twotower.core.schema import Schema
from twotower.core.states import take
from twotower.data import sources
from twotower.data.prepare.prepare import prepare
from twotower.data.prepare.spec import Spec
from twotower.data.sources.synthetic import Synthetic
from twotower.experiment.index_tuning import rebuild_index
from twotower.index.tree_index import LEAVES, TreeIndex
from twotower.models.encode import inference
from twotower.models.enlarge import enlarged
from twotower.models.registry import build_model
from twotower.models.tdm import TDM
from twotower.serving.bundle import Bundle
from twotower.serving.retriever import load

SETTINGS = ("model.dim=8", "model.parts=1", "model.hidden=[8]", "model.negatives=4", "index.beam=20")
SMALL = ("training.epochs=1", "training.patience=0")


def twotower(*words: str | Path) -> tuple[int, str, str]:
    out, errors = io.StringIO(), io.StringIO()
    with contextlib.redirect_stdout(out), contextlib.redirect_stderr(errors), pytest.raises(SystemExit) as ended:
        main([*map(str, words)])
    return int(ended.value.code or 0), out.getvalue(), errors.getvalue()


def train(data: Path, folder: Path, model: str, *settings: str) -> tuple[int, str]:
    sets = [word for setting in (*settings, *SMALL) for word in ("--set", setting)]
    status, _, errors = twotower("train", "--data", data, "--to", folder, "--model", model, *sets)
    return status, errors


@pytest.fixture(scope="module")
def data(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("data")
    settings = Synthetic(users=100, items=200, cold_items=3, events=8)
    return prepare(Spec.from_toml(sources.get("synthetic", folder / "raw", settings=settings)), folder / "prepared")


@pytest.fixture(scope="module")
def trained(data, tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("trained") / "bundle"
    status, errors = train(data, folder, "tdm", *SETTINGS)
    assert status == 0, errors
    return folder


@pytest.fixture
def bundle(trained, tmp_path) -> Path:
    """A copy that may be changed."""
    return Path(shutil.copytree(trained, tmp_path / "bundle"))


def test_its_bundle_answers_down_the_tree(trained):
    found = Bundle.load(trained)
    assert isinstance(found.index, TreeIndex)
    assert found.manifest["index_settings"] == {"beam": 20}
    assert isinstance(found.model, TDM)
    assert int(found.model.leaf_nodes[2:].min()) >= 0
    user = found.user_vocabulary.ids([5])[0]
    status, out, errors = twotower("recommend", trained, "--user", user, "-k", "7", "--json")
    assert status == 0, errors
    assert len({item["id"] for item in json.loads(out)["items"]}) == 7


def test_with_every_node_in_the_beam_it_answers_as_a_scan_does(bundle):
    user = load(bundle).bundle.user_vocabulary.ids([4])[0]
    rebuild_index(bundle, "brute_force")
    exact = load(bundle).recommend(user, k=30)
    rebuild_index(bundle, "tree", {"beam": 500})
    assert [answer.id for answer in load(bundle).recommend(user, k=30)] == [answer.id for answer in exact]


def test_tuning_finds_the_beam_and_evaluation_tells_what_the_tree_loses(bundle):
    words = ("index", bundle, "--kind", "tree", "-k", "5", "--tune", "recall=0.9", "--json")
    status, out, errors = twotower(*words)
    assert status == 0, errors
    tuning = json.loads(out)["tuning"]
    assert tuning["setting"] == "beam"
    assert tuning["chosen"]["choosing"] >= 0.9
    status, out, errors = twotower("evaluate", bundle, "--json")
    assert status == 0, errors
    loss = json.loads(out)["index"]
    assert loss["kind"] == "tree"
    assert loss["against_exact"]["recall@10"] > 0.5


def test_new_items_join_the_tree_of_the_grown_model(bundle):
    found = Bundle.load(bundle)
    before = found.schema.num_items
    described, schema = found.manifest["model"], replace(found.schema, num_items=before + 2)
    grown = enlarged(found.model, described["name"], described["parameters"], schema)
    index = TreeIndex.load(bundle / "index", model=grown)
    with inference(grown):
        late = torch.tensor([before, before + 1])
        index.add(grown.item_table.weight[late], late)
        user = take(grown.encode_users(Users(torch.tensor([2]), {}, torch.tensor([[5, 9]]))), slice(1))
        ids = index.search(user, before).ids[0].tolist()
    assert sorted(ids) == list(range(2, before + 2))


def test_a_grown_model_keeps_its_tree_however_many_items_come():
    model = build_model("tdm", Schema(9, 40), {"dim": 4})
    more = enlarged(model, "tdm", {"dim": 4}, Schema(9, 45))
    assert isinstance(more, TDM)
    assert more.leaf_nodes.tolist() == [*model.leaf_nodes.tolist(), *[-1] * 5]
    near = more.node_states(more.levels)[6][None].detach()
    assert more.nodes_above(torch.tensor([42]), near).tolist() == [6]
    many = enlarged(model, "tdm", {"dim": 4}, Schema(9, 300))
    assert isinstance(many, TDM)
    assert many.levels == model.levels < build_model("tdm", Schema(9, 300), {"dim": 4}).levels
    assert many.node_table.equal(model.node_table)
    many.new_tree(1)
    counts = many.leaf_nodes[2:].bincount(minlength=2**many.levels)
    assert int(counts.sum()) == 298
    assert int(counts.max() - counts.min()) == 1


def test_a_model_without_a_tree_is_refused_before_it_is_trained(data, tmp_path):
    status, errors = train(data, tmp_path / "bundle", "two_tower", "index.kind=tree")
    assert status == 2
    assert "index 'tree' searches a model's own tree, and TwoTower has none" in errors
    assert not (tmp_path / "bundle").exists()


def test_a_tree_of_another_model_or_a_cut_file_is_refused(bundle, tmp_path):
    found = Bundle.load(bundle).model
    folder = bundle / "index"
    other = build_model("tdm", found.schema, {"dim": 8, "branches": 4})
    with pytest.raises(InputError, match="but the model's has 3 with 4: a tree of another model"):
        TreeIndex.load(folder, model=other)
    whole = (folder / LEAVES).read_bytes()
    (folder / LEAVES).write_bytes(whole[:-10])
    with pytest.raises(InputError, match="not an index of this kind"):
        TreeIndex.load(folder, model=found)
