"""Stored arrays that are not what their schema says are refused with one line, even where nobody compares hashes."""

import numpy as np
import pytest

from twotower.core.errors import InputError
from twotower.data.dataset import Dataset


def _change(folder, name, change):
    np.save(folder / name, change(np.load(folder / name)))


@pytest.mark.parametrize(
    ("name", "change", "message"),
    [
        ("log/items.npy", lambda items: items + 1000, "'items' names rows beyond"),
        ("log/items.npy", lambda items: -items, "'items' names rows beyond"),
        ("log/items.npy", lambda items: items + 0.5, r"items\.npy: damaged, holds torch.float64, not whole"),
        ("log/items.npy", lambda items: items[:-1], "'offsets' is not that of"),
        ("log/offsets.npy", lambda offsets: offsets[::-1].copy(), "'offsets' is not that of"),
        ("log/offsets.npy", lambda offsets: np.r_[offsets[:2], -5, offsets[3:]], "'offsets' does not rise from 0"),
        ("log/times.npy", lambda times: times[:3], r"'times' has the shape \(3,\)"),
        ("items/price.npy", lambda price: price[:2], r"'price' has the shape \(2,\)"),
    ],
)
def test_an_array_that_its_schema_does_not_describe_is_refused_by_name(prepared_folder, name, change, message):
    _change(prepared_folder, name, change)
    with pytest.raises(InputError, match=message):
        Dataset.load(prepared_folder, verify=False)


@pytest.mark.parametrize("content", [b"", b"\x93NUMPY", b"\x93NUMPY\x01\x00v\x00{'descr': '|O'}", b"no array"])
def test_a_file_that_is_no_array_is_refused_by_name(prepared_folder, content):
    (prepared_folder / "log" / "items.npy").write_bytes(content)
    with pytest.raises(InputError, match=r"items\.npy: damaged, no array of numbers"):
        Dataset.load(prepared_folder, verify=False)


def test_a_category_beyond_its_vocabulary_is_refused_by_name(prepared_folder):
    schema = Dataset.load(prepared_folder).schema
    feature = next(feature for feature in schema.features("item") if feature.is_discrete)
    _change(prepared_folder, f"items/{feature.name}.npy", lambda column: column + feature.size)
    with pytest.raises(InputError, match=f"'{feature.name}' holds values beyond the {feature.size:,}"):
        Dataset.load(prepared_folder, verify=False)
