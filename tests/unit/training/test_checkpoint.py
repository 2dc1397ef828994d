"""Checkpoints: what goes in comes out, and what cannot be read is one line."""

import json

import pytest
import torch
from safetensors.torch import save_file

from twotower.core.errors import InputError
from twotower.training.checkpoint import FORMAT, load_checkpoint, save_checkpoint


def test_lists_of_tensors_come_back_each_with_its_own_values(tmp_path):
    first, second = torch.arange(3.0), torch.arange(6).view(2, 3)
    save_checkpoint(tmp_path / "c", {"list": [first, {"inner": [second, first + 1]}, None], 7: "text"})
    back = load_checkpoint(tmp_path / "c")
    assert torch.equal(back["list"][0], first)
    assert torch.equal(back["list"][1]["inner"][0], second)
    assert torch.equal(back["list"][1]["inner"][1], first + 1)
    assert back["list"][2] is None
    assert back[7] == "text"


def test_a_newer_checkpoint_is_refused(tmp_path):
    state = json.dumps({"dict": []})
    save_file({}, tmp_path / "c", metadata={"format": str(FORMAT + 1), "state": state})
    with pytest.raises(InputError, match=f"format {FORMAT + 1}, this version reads up to {FORMAT}"):
        load_checkpoint(tmp_path / "c")
    save_file({}, tmp_path / "c", metadata={"format": str(FORMAT), "state": state})
    assert load_checkpoint(tmp_path / "c") == {}
