"""A checkpoint gives back what was saved, and refuses what it cannot read."""

from __future__ import annotations

import pytest
import torch
from safetensors.torch import save_file

from twotower.core.errors import InputError
from twotower.training.checkpoint import FORMAT, load_checkpoint, save_checkpoint


def test_what_was_saved_comes_back_tensor_by_tensor(tmp_path):
    shared = torch.arange(6.0).view(2, 3)
    state = {
        "weights": [shared, shared.T, shared[0]],
        "optimizer": {0: {"step": 7, "moments": [torch.ones(2), torch.zeros(2)]}, "name": "adam", "none": None},
        "done": True,
    }
    save_checkpoint(tmp_path / "c.safetensors", state)
    found = load_checkpoint(tmp_path / "c.safetensors")
    assert found.keys() == state.keys()
    assert all(torch.equal(a, b) for a, b in zip(found["weights"], state["weights"], strict=True))
    assert [part.tolist() for part in found["optimizer"][0]["moments"]] == [[1.0, 1.0], [0.0, 0.0]]
    assert found["optimizer"][0]["step"] == 7
    assert (found["optimizer"]["name"], found["optimizer"]["none"], found["done"]) == ("adam", None, True)


@pytest.mark.parametrize(
    ("header", "message"),
    [
        ({"format": str(FORMAT + 1), "state": "{}"}, f"format {FORMAT + 1}, this version reads up to {FORMAT}"),
        ({"format": str(FORMAT)}, "damaged checkpoint"),
        ({"format": "1", "state": "{"}, "damaged checkpoint"),
        ({"format": "1", "state": "[]"}, "damaged checkpoint"),
        ({"format": str(FORMAT), "state": "{}"}, "damaged checkpoint"),
    ],
)
def test_a_newer_or_damaged_checkpoint_is_one_line(tmp_path, header, message):
    save_file({"x": torch.zeros(1)}, tmp_path / "c.safetensors", metadata=header)
    with pytest.raises(InputError, match=message):
        load_checkpoint(tmp_path / "c.safetensors")


def test_whatever_byte_is_changed_the_checkpoint_is_refused_and_never_resumed(tmp_path):
    path = tmp_path / "c.safetensors"
    state = {"weights": [torch.arange(6.0), torch.zeros(0), torch.tensor(3)], "flags": torch.ones(3, dtype=torch.bool)}
    save_checkpoint(path, state)
    healthy = path.read_bytes()
    for place in range(len(healthy)):
        for changed in (healthy[place] ^ 1, healthy[place] ^ 0x20, 0x31, 0xFF):
            if changed == healthy[place]:
                continue
            path.write_bytes(healthy[:place] + bytes([changed]) + healthy[place + 1 :])
            with pytest.raises(InputError, match="damaged checkpoint|format .*, this version reads"):
                load_checkpoint(path)


def test_a_checkpoint_of_an_older_version_is_read(tmp_path):
    header = {"format": "1", "state": '{"dict": [["x", {"tensor": "/x"}]]}'}
    save_file({"/x": torch.ones(1)}, tmp_path / "c.safetensors", metadata=header)
    assert load_checkpoint(tmp_path / "c.safetensors")["x"].tolist() == [1.0]
