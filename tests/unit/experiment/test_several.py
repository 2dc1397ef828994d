"""What several processes are told before they train, each without starting any."""

from __future__ import annotations

import json
from dataclasses import replace

import pytest
import torch

from twotower.core.errors import InputError, SharedError
from twotower.experiment import several
from twotower.experiment.learn import new_model
from twotower.experiment.placement import pick_device
from twotower.experiment.run import ModelSection, Run
from twotower.experiment.several import check_alike, check_model
from twotower.training import collectives
from twotower.training.distributed import World


def told_by(monkeypatch, dataset, run=None, *, device="cpu", **machine):
    """What a rank tells the others, were it on another machine."""
    said = []
    with monkeypatch.context() as elsewhere:
        for name, value in machine.items():
            elsewhere.setattr(several, name, value)
        elsewhere.setattr(collectives, "texts", lambda text: said.append(text) or [text])
        check_alike(World(1, 2), run or Run(), replace(dataset, place=torch.device(device)))
    return said[0]


@pytest.mark.parametrize(
    ("other", "said"),
    [
        ({"__version__": "9.8.7"}, "another version of twotower than rank 0 (9.8.7, not "),
        ({"device": "cuda"}, "another kind of device than rank 0 (cuda, not cpu)"),
        ({"run": Run().with_settings(["training.seed=9"])}, "another run file than rank 0: "),
    ],
)
def test_ranks_of_two_kinds_are_refused_in_one_line_that_says_in_what_they_differ(
    other, said, tiny_dataset, monkeypatch
):
    words = told_by(monkeypatch, tiny_dataset, **other)
    monkeypatch.setattr(collectives, "texts", lambda text: [text, words])
    for rank, kind in ((0, InputError), (1, SharedError)):  # rank 0 alone reports
        with pytest.raises(kind) as refused:
            check_alike(World(rank, 2), Run(), tiny_dataset)
        assert f"rank 1 has {said}" in str(refused.value)
        assert str(refused.value).endswith("start all ranks alike")
        assert "\n" not in str(refused.value)
    monkeypatch.setattr(collectives, "texts", lambda text: [text, text])
    check_alike(World(0, 2), Run(), tiny_dataset)


REFUSED = {
    "computed at once": (ModelSection("ease", {}), 56),
    "normalises over its batch (user_stack.norms.0)": (ModelSection("int_tower", {}), 56),
    "looks at its batch as a whole": (ModelSection("int_tower", {"batch_norm": False}), 56),
    "each needs a row": (ModelSection("two_tower", {"dim": 4}), 1),
    "set model.table = 'sharded'": (ModelSection("two_tower", {"dim": 4, "table": "sparse"}), 56),
}


@pytest.mark.parametrize("said", REFUSED)
def test_what_several_ranks_cannot_do_alike_is_refused_and_one_process_may(said, tiny_dataset):
    model, batch = REFUSED[said]
    run = Run(model=model).with_settings([f"training.batch_size={batch}"])
    made = new_model(run, tiny_dataset)
    check_model(World(), run, made)
    with pytest.raises(InputError) as refused:
        check_model(World(1, 2), run, made)
    assert said in str(refused.value)


def test_a_version_that_tells_of_less_is_refused_by_its_number(monkeypatch):
    monkeypatch.setattr(collectives, "texts", lambda text: [text, json.dumps({"version of twotower": "0.1"})])
    with pytest.raises(InputError, match=r"rank 1 has another version of twotower than rank 0 \(0.1, not 0.2\)"):
        World(0, 2).agree({"version of twotower": "0.2", "something newer": "here"})
    monkeypatch.setattr(collectives, "texts", lambda text: [text, json.dumps({"version of twotower": "0.2"})])
    with pytest.raises(InputError, match=r"another something newer than rank 0 \(none, not here\)"):
        World(0, 2).agree({"version of twotower": "0.2", "something newer": "here"})


def test_more_processes_than_gpus_are_refused_with_the_setting_to_change(monkeypatch):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 1)
    with pytest.raises(InputError, match=r"which has 1 GPU\(s\): .* or set training.device to 'cpu'"):
        pick_device("auto", World(1, 2, local_rank=1))
    with pytest.raises(InputError, match=r"training.device is 'cuda:0' on 2 ranks: write 'cuda'"):
        pick_device("cuda:0", World(1, 2, local_rank=1))
