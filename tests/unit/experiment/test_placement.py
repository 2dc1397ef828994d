"""Data go to the device where they fit, and stay in main memory where they do not."""

import pytest
import torch

from twotower.core.errors import InputError
from twotower.data.dataset import LOOKED_UP, Dataset
from twotower.experiment import placement
from twotower.experiment.run import Run


@pytest.fixture
def gpu(monkeypatch):
    """A GPU that is not there: where the data set would go is noted instead."""
    gone = []
    monkeypatch.setattr(Dataset, "to", lambda self, device: gone.append("device") or self)
    monkeypatch.setattr(Dataset, "near", lambda self, device: gone.append("host") or self)
    return gone


def run_with(*words):
    return Run().with_settings(list(words))


@pytest.mark.parametrize(("free", "where"), [(2.1, "device"), (1.9, "host")])
def test_auto_takes_the_device_up_to_half_of_its_free_memory(free, where, tiny_dataset, gpu, monkeypatch, caplog):
    monkeypatch.setattr(placement, "free_memory", lambda device: int(free * tiny_dataset.bytes_of_log))
    placement.placed(tiny_dataset, torch.device("cuda"), run_with())
    assert gpu == [where]
    assert ("they stay in main memory" in caplog.text) == (where == "host")


@pytest.mark.parametrize("where", ["device", "host"])
def test_what_the_run_says_goes(where, tiny_dataset, gpu):
    placement.placed(tiny_dataset, torch.device("cuda"), run_with(f"training.data={where}"))
    assert gpu == [where]


def test_on_a_cpu_nothing_streams(tiny_dataset, gpu):
    placement.placed(tiny_dataset, torch.device("cpu"), run_with("training.data=host"))
    assert gpu == ["device"]


def test_a_closed_form_takes_the_whole_log(tiny_dataset, gpu):
    placement.placed(tiny_dataset, torch.device("cuda"), run_with("model.name=ease", "training.data=host"))
    assert gpu == ["device"]


def test_lists_of_candidates_cannot_stream(tiny_dataset, gpu):
    run = run_with("data.split=pre-ranking", "training.data=host")
    with pytest.raises(InputError, match=r"training.data = 'host' is for the full catalogue"):
        placement.placed(tiny_dataset, torch.device("cuda"), run)


def test_the_log_counts_what_training_looks_up_in_it(tiny_dataset):
    log, users = tiny_dataset.log, tiny_dataset.user_features
    parts = [log.offsets, log.items, log.times, *users.values()]
    assert tiny_dataset.bytes_of_log == sum(part.nbytes for part in parts) + LOOKED_UP * 18


@pytest.mark.bad_input
def test_a_place_that_is_none_is_refused():
    with pytest.raises(InputError, match=r"training.data.*auto, device"):
        run_with("training.data=disk")
