"""What is written is read back to the last bit, in another process too; what was tampered with is refused."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import NamedTuple

import pytest
import torch
from torch import Tensor, nn

from twotower.core.errors import InputError
from twotower.core.records import Items, Users
from twotower.core.schema import Schema
from twotower.core.states import to_tensors
from twotower.data.dataset import Dataset
from twotower.index.exact import ExactIndex
from twotower.models import registry as build
from twotower.models.base import Model
from twotower.models.encode import encode_known_items, inference, users_with_history
from twotower.models.item_store import ItemStore
from twotower.serving.bundle import Bundle, changing_bundle
from twotower.serving.contents import Contents, write_bundle
from twotower.serving.vocabulary import Record

Write = Callable[..., Model]
KNOWN_ITEMS = torch.arange(2, 10)
KNOWN_USERS = torch.arange(2, 7)

ANSWER = """
import sys, torch
from twotower.serving.bundle import Bundle
torch.set_num_threads(int(sys.argv[2]))
bundle = Bundle.load(sys.argv[1])
with torch.inference_mode():
    users = bundle.model.encode_users(bundle.users(torch.arange(2, 7)))
    scores = bundle.model.score(users, bundle.item_states)
print([number.hex() for number in scores.flatten().tolist()])
"""


@pytest.mark.parametrize("name", ["two_tower", "sasrec"])
def test_a_fresh_process_gives_the_same_scores_to_the_last_bit(
    write: Write, name: str, titled_dataset: Dataset, tmp_path: Path
) -> None:
    model = write(tmp_path / "bundle", titled_dataset, name)
    shutil.rmtree(titled_dataset.folder or tmp_path / "none")
    with inference(model):
        users = users_with_history(titled_dataset, titled_dataset.log, KNOWN_USERS, model.history_length)
        items = model.encode_items(titled_dataset.items(KNOWN_ITEMS))
        scores = model.score(model.encode_users(users), items)
    told = subprocess.run(
        [sys.executable, "-c", ANSWER, str(tmp_path / "bundle"), str(torch.get_num_threads())],
        capture_output=True, text=True, check=True,
    )  # fmt: skip
    assert told.stdout.strip() == str([number.hex() for number in scores.flatten().tolist()])
    assert told.stderr == ""


WITHOUT_DUCKDB = """
import sys, torch
sys.modules["duckdb"] = None
from pathlib import Path
from twotower.core.schema import Schema
from twotower.data.dataset import Dataset
from twotower.data.log import Log
from twotower.models.registry import build_model
from twotower.models.encode import encode_known_items
from twotower.serving.bundle import Bundle
from twotower.serving.contents import Contents, write_bundle
log = Log(torch.tensor([0, 0, 0, 2, 3]), torch.tensor([2, 3, 2]))
data = Dataset(Schema(4, 5, has_times=False), log, {}, {}, {"name": "bare"}, Path(sys.argv[1]))
model = build_model("sasrec", data.schema)
write_bundle(sys.argv[2], Contents(model=model, model_name="sasrec", model_parameters={}, dataset=data,
                                   items=encode_known_items(model, data), histories=log))
print(Bundle.load(sys.argv[2]).item_states.shape[0])
"""


def test_writing_needs_no_database(titled_dataset: Dataset, tmp_path: Path) -> None:
    words = [sys.executable, "-c", WITHOUT_DUCKDB, str(titled_dataset.folder), str(tmp_path / "bundle")]
    told = subprocess.run(words, capture_output=True, text=True, check=False)
    assert (told.stdout, told.stderr) == ("3\n", "")


def test_everything_comes_back(write: Write, titled_dataset: Dataset, tmp_path: Path) -> None:
    model = write(
        tmp_path / "bundle",
        titled_dataset,
        metrics={"auc": 0.5, "ndcg@10": float("nan")},
        diagnosis={"verdict": "healthy"},
    )
    bundle = Bundle.load(tmp_path / "bundle")
    assert bundle.schema == titled_dataset.schema
    assert bundle.manifest["data"] == "tiny"
    assert bundle.metrics == {"auc": 0.5, "ndcg@10": None}
    assert bundle.diagnosis == {"verdict": "healthy"}
    assert (bundle.folder / "run.toml").read_text() == "[training]\nseed = 3\n"
    assert bundle.item_ids.tolist() == KNOWN_ITEMS.tolist()
    assert (bundle.model.training, model.training) == (False, True), "writing leaves the model in its own mode"
    for name, tensor in model.state_dict().items():
        assert torch.equal(tensor, bundle.model.state_dict()[name]), name
    for mine, theirs in ((bundle.dataset.item_features, titled_dataset.item_features),
                         (bundle.dataset.user_features, titled_dataset.user_features)):  # fmt: skip
        assert mine.keys() == theirs.keys()
        for name in mine:
            torch.testing.assert_close(mine[name], theirs[name], rtol=0, atol=0, equal_nan=True)
    for part in ("offsets", "items", "times"):
        assert torch.equal(getattr(bundle.dataset.log, part), getattr(titled_dataset.log, part)), part


def test_a_bundle_can_be_written_again_from_itself(bundle_folder: Path, tmp_path: Path) -> None:
    first = Bundle.load(bundle_folder)
    contents = Contents(
        model=first.model,
        model_name=first.manifest["model"]["name"],
        model_parameters=first.manifest["model"]["parameters"],
        dataset=first.dataset,
        items=encode_known_items(first.model, first.dataset),
        metrics=first.metrics,
        histories=first.dataset.log,
    )
    write_bundle(tmp_path / "again", contents)
    again = Bundle.load(tmp_path / "again")
    assert torch.equal(again.item_states, first.item_states)
    assert again.item_vocabulary.records([9]) == first.item_vocabulary.records([9])


def test_every_file_is_watched(bundle_folder: Path) -> None:
    names = sorted(path.relative_to(bundle_folder) for path in bundle_folder.rglob("*") if path.is_file())
    assert len(names) > 15
    for name in names:
        path = bundle_folder / name
        whole = path.read_bytes()
        for place in (0, len(whole) // 2, len(whole) - 1):
            path.write_bytes(whole[:place] + bytes([whole[place] ^ 1]) + whole[place + 1 :])
            with pytest.raises(InputError, match=path.name) as error:
                Bundle.load(bundle_folder)
            assert "\n" not in str(error.value)
        path.unlink()
        with pytest.raises(InputError, match=path.name):
            Bundle.load(bundle_folder)
        path.write_bytes(whole)
    (bundle_folder / "items" / "extra.npy").write_bytes(b"")
    with pytest.raises(InputError, match=r"items/extra.npy is not part of this bundle"):
        Bundle.load(bundle_folder)


def test_no_file_is_a_pickle(bundle_folder: Path) -> None:
    suffixes = {path.suffix for path in bundle_folder.rglob("*") if path.is_file()}
    assert suffixes == {".json", ".toml", ".npy", ".parquet", ".safetensors", ".md"}


def test_even_a_blank_of_the_manifest_is_watched(bundle_folder: Path) -> None:
    path = bundle_folder / "manifest.json"
    path.write_text(path.read_text().replace("  ", "\t", 1))
    with pytest.raises(InputError, match="manifest.json was changed"):
        Bundle.load(bundle_folder)


def test_others_may_read_every_file(bundle_folder: Path) -> None:
    (bundle_folder.parent / "plain").touch()
    modes = {path.stat().st_mode for path in bundle_folder.rglob("*") if path.is_file()}
    assert modes == {(bundle_folder.parent / "plain").stat().st_mode}


def test_a_newer_format_is_refused_before_its_hashes_are_looked_at(bundle_folder: Path) -> None:
    path = bundle_folder / "manifest.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), "format": 3}))
    with pytest.raises(InputError, match="format 3, this version reads up to 2; upgrade twotower"):
        Bundle.load(bundle_folder)


@pytest.mark.parametrize(
    ("manifest", "message"),
    [
        ({"kind": "prepared-data", "format": 1}, "prepared data, not a bundle; train on it"),
        ({"kind": "cake", "format": 1}, "not that of a bundle"),
        ({"kind": "bundle"}, "not that of a bundle"),
        ([1], "not that of a bundle"),
    ],
)
def test_another_kind_of_folder_is_refused(manifest: object, message: str, tmp_path: Path) -> None:
    (tmp_path / "manifest.json").write_text(json.dumps(manifest))
    with pytest.raises(InputError, match=message):
        Bundle.load(tmp_path)


def test_a_device_that_is_not_there(bundle_folder: Path) -> None:
    for device in ("gpu", "cuda:77"):
        with pytest.raises(InputError, match=f"device '{device}': ") as error:
            Bundle.load(bundle_folder, device)
        assert "\n" not in str(error.value)


def test_a_missing_and_an_empty_folder_are_told_apart(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="no such bundle"):
        Bundle.load(tmp_path / "nowhere")
    with pytest.raises(InputError, match="not a bundle"):
        Bundle.load(tmp_path)


def test_prepared_data_is_not_overwritten(write: Write, titled_dataset: Dataset, prepared_folder: Path) -> None:
    before = sorted(prepared_folder.rglob("*"))
    with pytest.raises(InputError, match="something other than a bundle"):
        write(prepared_folder, titled_dataset)
    assert sorted(prepared_folder.rglob("*")) == before


def test_a_failed_write_leaves_the_earlier_bundle(write: Write, bundle_folder: Path, titled_dataset: Dataset) -> None:
    class Full(ExactIndex):
        def save(self, folder: Path) -> None:
            raise OSError(28, "No space left on device")

    with pytest.raises(OSError, match="No space left"):
        write(bundle_folder, titled_dataset, index=Full())
    assert Bundle.load(bundle_folder).metrics == {"recall@10": 0.25}
    assert [path.name for path in bundle_folder.parent.iterdir() if path.name.startswith(".")] == []


def test_other_library_versions_are_noted_not_refused(bundle_folder: Path, caplog: pytest.LogCaptureFixture) -> None:
    with changing_bundle(bundle_folder) as (_, manifest):
        manifest["versions"]["torch"] = "1.13.1"
    Bundle.load(bundle_folder)
    assert "written with torch 1.13.1" in caplog.text


def test_changing_a_bundle_keeps_it_whole(bundle_folder: Path) -> None:
    with changing_bundle(bundle_folder) as (copy, _):
        (copy / "diagnosis.json").write_text('{"verdict": "suspect"}')
    assert Bundle.load(bundle_folder).diagnosis == {"verdict": "suspect"}
    with pytest.raises(RuntimeError, match="half way"), changing_bundle(bundle_folder) as (copy, _):
        (copy / "run.toml").unlink()
        raise RuntimeError("half way")
    assert (Bundle.load(bundle_folder).folder / "run.toml").is_file()


def test_a_stored_index_comes_back(write: Write, titled_dataset: Dataset, tmp_path: Path) -> None:
    index = ExactIndex()
    index.build(torch.eye(8), KNOWN_ITEMS)
    write(tmp_path / "bundle", titled_dataset, index=index)
    bundle = Bundle.load(tmp_path / "bundle")
    assert bundle.manifest["index"] == "exact"
    assert bundle.index is not None
    assert bundle.index.search(torch.eye(8)[[5]], 1).ids.tolist() == [[7]]


def test_bare_data_is_enough(write: Write, tiny_dataset: Dataset, tmp_path: Path) -> None:
    """No features, no clock, no outside ids, no histories."""
    schema = Schema(num_users=7, num_items=10, has_times=False)
    bare = replace(
        tiny_dataset, schema=schema, log=tiny_dataset.log._replace(times=None), user_features={}, item_features={}
    )
    write(tmp_path / "without", bare, histories=None)
    write(tmp_path / "with", bare)
    without, with_log = Bundle.load(tmp_path / "without"), Bundle.load(tmp_path / "with")
    assert without.users(KNOWN_USERS).history.tolist() == [[0]] * 5
    assert with_log.users(torch.tensor([5])).history.tolist() == [[4, 4]]
    assert with_log.users(torch.tensor([5])).history_times is None
    assert with_log.item_vocabulary.records([9]) == [Record("9", {})]


def test_labels_below_one_half_are_no_history(write: Write, titled_dataset: Dataset, tmp_path: Path) -> None:
    labels = torch.ones(titled_dataset.log.num_events)
    labels[titled_dataset.log.offsets[4]] = 0.0
    write(tmp_path / "bundle", titled_dataset, histories=titled_dataset.log._replace(labels=labels))
    bundle = Bundle.load(tmp_path / "bundle")
    first = int(titled_dataset.log.offsets[4])
    assert bundle.users(torch.tensor([4])).history.tolist() == [
        titled_dataset.log.items[first + 1 : first + 4].tolist()
    ]
    assert bundle.dataset.log.num_events == titled_dataset.log.num_events, "what was rated badly is seen, and kept"


def test_a_bundle_of_format_1_opens(bundle_folder: Path) -> None:
    """It kept positives alone, without labels: all that it kept is both history and seen."""
    with changing_bundle(bundle_folder) as (_, manifest):
        manifest["format"] = 1
    bundle = Bundle.load(bundle_folder)
    assert (bundle.manifest["format"], bundle.dataset.log.labels) == (1, None)
    assert bundle.positives.num_events == bundle.dataset.log.num_events > 0


class Heads(NamedTuple):
    heads: Tensor
    bias: Tensor


class Tied(Model):
    """Item states of two parts, a buffer, and two names for one table."""

    item_store = ItemStore(Heads)
    inner_product = False

    def __init__(self, schema: Schema, *, dim: int = 3) -> None:
        super().__init__()
        self.schema = schema
        self.item_table = nn.Embedding(schema.num_items, dim)
        self.history_table = nn.Embedding(schema.num_items, dim)
        self.history_table.weight = self.item_table.weight
        self.register_buffer("bias", torch.randn(schema.num_items))

    def encode_users(self, users: Users) -> Tensor:
        return self.history_table(users.history).sum(dim=1)

    def encode_items(self, items: Items) -> Heads:
        return Heads(self.item_table(items.ids), self.bias[items.ids])

    def score(self, users: Tensor, items: Heads) -> Tensor:
        return users @ items.heads.T + items.bias


def test_tied_weights_buffers_and_states_of_several_parts(
    write: Write, titled_dataset: Dataset, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(build.MODELS.parts, "tied", Tied)
    model = write(tmp_path / "bundle", titled_dataset, "tied", parameters={"dim": 4})
    bundle = Bundle.load(tmp_path / "bundle")
    assert bundle.model.item_table.weight is bundle.model.history_table.weight
    assert torch.equal(bundle.model.bias, model.bias)
    assert isinstance(bundle.item_states, Heads)
    expected = to_tensors(model.encode_items(titled_dataset.items(KNOWN_ITEMS)))
    for name, tensor in to_tensors(bundle.item_states).items():
        assert torch.equal(tensor, expected[name])


def test_the_check_of_a_bundle_knows_how_popular_its_items_are(titled_dataset, write, tmp_path):
    from twotower.diagnosis.load import load_table

    write(tmp_path / "bundle", titled_dataset)
    table = load_table(tmp_path / "bundle")
    assert len(table.ids) == len(KNOWN_ITEMS)
    expected = [titled_dataset.log.items.tolist().count(row) for row in KNOWN_ITEMS.tolist()]
    assert table.popularity.tolist() == expected
    assert sum(expected) == titled_dataset.log.num_events


@pytest.mark.parametrize("codes", ["quantised", "gate"])
def test_learned_codes_come_back_with_the_bundle(
    write: Write, codes: str, titled_dataset: Dataset, tmp_path: Path
) -> None:
    parameters = {"dim": 8, "tokens": 2, "codebook": 4, "chosen": 2, "codes": codes}
    model = write(tmp_path / "bundle", titled_dataset, "sparcode", parameters=parameters)
    users = users_with_history(titled_dataset, titled_dataset.log, KNOWN_USERS, model.history_length)
    model.set_progress(2.0)  # type: ignore[operator]
    model.train().encode_users(users)
    contents = Contents(
        model=model,
        model_name="sparcode",
        model_parameters=parameters,
        dataset=titled_dataset,
        items=encode_known_items(model, titled_dataset),
        histories=titled_dataset.log,
    )
    write_bundle(tmp_path / "started", contents)
    again = Bundle.load(tmp_path / "started")
    with inference(model), inference(again.model):
        one, other = model.encode_users(users), again.model.encode_users(users)
        assert one.codes.equal(other.codes)
        assert (one.codes >= 0).all()
        assert model.score(one, again.item_states).equal(again.model.score(other, again.item_states))
