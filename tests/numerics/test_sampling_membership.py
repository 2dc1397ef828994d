"""The look-up of known positives against sets in Python."""

import itertools

import pytest
import torch

from twotower.core.errors import InputError
from twotower.sampling import known
from twotower.sampling.known import Positives


def make_log(num_users, num_items, num_events, seed=0):
    generator = torch.Generator().manual_seed(seed)
    owners = torch.randint(2, num_users, (num_events,), generator=generator).sort().values
    items = torch.randint(2, num_items, (num_events,), generator=generator)
    offsets = torch.zeros(num_users + 1, dtype=torch.int64)
    offsets[1:] = torch.bincount(owners, minlength=num_users).cumsum(0)
    return offsets, items


def slow(offsets, items, users, candidates):
    sets = [set(items[start:end].tolist()) for start, end in itertools.pairwise(offsets)]
    return [[item in sets[user] for item in row] for user, row in zip(users.tolist(), candidates.tolist(), strict=True)]


@pytest.fixture(params=["walk", "padded walk", "search"])
def way(request, monkeypatch):
    """How shared candidates are met: as on a CPU, as on a GPU, and as there where they are few."""
    if request.param != "walk":
        monkeypatch.setattr(known, "WAITING", ("cpu",))
        monkeypatch.setattr(known, "MOST_SEARCHED", 0 if request.param == "padded walk" else 1 << 19)


@pytest.mark.usefixtures("way")
@pytest.mark.parametrize(("num_users", "num_items", "num_events"), [(9, 17, 60), (40, 11, 5), (5, 30, 200)])
def test_matches_sets(num_users, num_items, num_events):
    offsets, items = make_log(num_users, num_items, num_events)
    positives = Positives(offsets, items, num_items)
    generator = torch.Generator().manual_seed(1)
    users = torch.randint(0, num_users, (13,), generator=generator)
    own = torch.randint(0, num_items, (13, 7), generator=generator)
    shared = torch.randint(0, num_items, (19,), generator=generator)
    assert positives.contains(users, own).tolist() == slow(offsets, items, users, own)
    assert positives.contains(users, shared).tolist() == slow(offsets, items, users, shared.expand(13, 19))
    found = positives.contains(users, shared, own[:, 0])
    assert found.tolist() == (positives.contains(users, shared) | (shared == own[:, :1])).tolist()
    assert positives.to("cpu").contains(users, shared, own[:, 0]).equal(found)


@pytest.mark.usefixtures("way")
def test_user_without_events_and_empty_logs_have_no_positives():
    offsets, items = torch.tensor([0, 0, 0, 0]), torch.zeros(0, dtype=torch.int64)
    positives = Positives(offsets, items, 5)
    assert not positives.contains(torch.tensor([2, 1]), torch.tensor([2, 3, 4])).any()
    assert not positives.contains(torch.tensor([2, 1]), torch.tensor([[2, 3], [4, 2]])).any()


@pytest.mark.usefixtures("way")
def test_no_candidates_give_an_empty_mask():
    offsets, items = make_log(6, 8, 20)
    mask = Positives(offsets, items, 8).contains(torch.tensor([2, 3, 4]), torch.zeros(0, dtype=torch.int64))
    assert mask.shape == (3, 0)


@pytest.mark.bad_input
def test_bad_input_is_one_clear_line():
    offsets, items = make_log(6, 8, 20)
    with pytest.raises(InputError, match="ids must lie in 0 to 3"):
        Positives(offsets, items, 4)
    with pytest.raises(InputError, match="offsets must run"):
        Positives(offsets, items[:-1], 8)
