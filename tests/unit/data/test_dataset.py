import json

import numpy as np
import pytest
import torch

from twotower.core.errors import InputError
from twotower.core.files import read_json, write_json
from twotower.core.folders import replacing_folder
from twotower.data.dataset import Dataset


def test_a_folder_comes_back_as_it_was_written(tiny_dataset, prepared_folder):
    loaded = Dataset.load(prepared_folder)
    assert loaded.schema == tiny_dataset.schema
    assert loaded.name == "tiny"
    assert loaded.folder == prepared_folder
    assert loaded.log.labels is None
    for ours, theirs in zip(loaded.log[:3], tiny_dataset.log[:3], strict=True):
        assert torch.equal(ours, theirs)
    for side in ("user_features", "item_features"):
        for name, column in getattr(tiny_dataset, side).items():
            torch.testing.assert_close(getattr(loaded, side)[name], column, rtol=0, atol=0, equal_nan=True)


def test_narrow_arrays_on_disk_become_int64_and_float32(prepared_folder):
    np.save(prepared_folder / "log" / "items.npy", np.load(prepared_folder / "log" / "items.npy").astype(np.int32))
    np.save(prepared_folder / "items" / "price.npy", np.ones(10, dtype=np.float64))
    loaded = Dataset.load(prepared_folder, verify=False)
    assert loaded.log.items.dtype == torch.int64
    assert loaded.item_features["price"].dtype == torch.float32


def test_records_carry_the_features_of_their_rows(tiny_dataset):
    ids = torch.tensor([3, 0, 9])
    items = tiny_dataset.items(ids)
    assert torch.equal(items.features["genres"], tiny_dataset.item_features["genres"][[3, 0, 9]])
    assert tiny_dataset.all_items().ids.tolist() == list(range(10))
    users = tiny_dataset.users(torch.tensor([6, 1]), torch.zeros(2, 4, dtype=torch.int64))
    assert torch.equal(users.features["city"], tiny_dataset.user_features["city"][[6, 1]])
    assert users.history_times is None


def test_another_log_or_device_changes_nothing_else(tiny_dataset):
    shorter = tiny_dataset.log.select(tiny_dataset.log.items > 4)
    assert tiny_dataset.with_log(shorter).log is shorter
    assert tiny_dataset.with_log(shorter).item_features is tiny_dataset.item_features
    assert tiny_dataset.to("cpu").schema is tiny_dataset.schema
    assert tiny_dataset.device == torch.device("cpu")


@pytest.mark.parametrize("name", ["log/items.npy", "items/price.npy", "schema.json"])
def test_a_changed_byte_is_found(prepared_folder, name):
    path = prepared_folder / name
    content = bytearray(path.read_bytes())
    content[-2] ^= 1
    path.write_bytes(content)
    with pytest.raises(InputError, match=f"{name} was changed after it was written"):
        Dataset.load(prepared_folder)


def test_a_missing_file_is_found(prepared_folder):
    (prepared_folder / "log" / "times.npy").unlink()
    with pytest.raises(InputError, match="log/times.npy is missing"):
        Dataset.load(prepared_folder)


def test_an_array_that_the_manifest_does_not_name_is_not_read(prepared_folder):
    np.save(prepared_folder / "log" / "labels.npy", np.ones(18, dtype=np.float32))
    assert Dataset.load(prepared_folder, verify=False).log.labels is None
    with pytest.raises(InputError, match=r"log/labels.npy is not part of this prepared data set"):
        Dataset.load(prepared_folder)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"format": 3}, "format 3, this version reads up to 2; upgrade"),
        ({"format": "one"}, "format 'one', this version reads"),
        ({"kind": "bundle"}, "not that of a prepared data set"),
        ({"hashes": None}, "not that of a prepared data set"),
    ],
)
def test_another_format_or_kind_is_refused(prepared_folder, change, message):
    manifest = {**read_json(prepared_folder / "manifest.json"), **change}
    write_json(prepared_folder / "manifest.json", {key: value for key, value in manifest.items() if value is not None})
    with pytest.raises(InputError, match=message):
        Dataset.load(prepared_folder)


@pytest.mark.parametrize("content", [None, "[]", "{"])
def test_a_foreign_folder_is_refused(tmp_path, content):
    if content is not None:
        (tmp_path / "manifest.json").write_text(content)
    with pytest.raises(InputError, match="not a prepared data set|not that of a prepared|not valid JSON"):
        Dataset.load(tmp_path)


def test_disk_full_while_preparing_again_leaves_the_data_readable(prepared_folder):
    with pytest.raises(OSError, match="No space left"), replacing_folder(prepared_folder) as partial:
        (partial / "log").mkdir()
        np.save(partial / "log" / "offsets.npy", np.zeros(3))
        raise OSError(28, "No space left on device")
    assert Dataset.load(prepared_folder).log.num_events == 18
    assert list(prepared_folder.parent.iterdir()) == [prepared_folder]


def test_the_manifest_names_every_file(prepared_folder):
    manifest = json.loads((prepared_folder / "manifest.json").read_text())
    assert manifest["kind"] == "prepared-data"
    found = {path.relative_to(prepared_folder).as_posix() for path in prepared_folder.rglob("*.*")}
    assert set(manifest["hashes"]) == found - {"manifest.json"}
