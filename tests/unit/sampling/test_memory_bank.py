"""The ring against a Python deque, what starts it, and what it refuses."""

import collections
import math

import pytest
import torch

from twotower.core.errors import InputError
from twotower.core.records import Batch, Encoded, Items, Users
from twotower.sampling.counts import ItemCounts
from twotower.sampling.drift import EmbeddingDrift
from twotower.sampling.memory_bank import MemoryBank

COUNTS = ItemCounts(torch.arange(2, 40).repeat_interleave(torch.arange(1, 39)), 40)


class Pair(collections.namedtuple("Pair", ["left", "right"])):
    """An item state of two tensors."""


def batch_of(rows=4):
    return Batch(Users(torch.full((rows,), 2), {}, torch.zeros(rows, 0)), Items(torch.arange(2, 2 + rows)))


def encoded(ids, shift=0.0):
    ids = torch.tensor(ids)
    return Encoded(ids[:, None].float(), ids[:, None] + shift + torch.zeros(3), ids, {})


@pytest.mark.parametrize("sizes", [[4] * 7, [3, 1, 4, 4, 2, 4, 3, 4], [4, 4, 3, 1, 4]])
def test_order_after_wrap_around_is_that_of_a_deque(sizes):
    capacity = 11
    bank, slow = MemoryBank(capacity, 4, COUNTS), collections.deque(maxlen=capacity)
    generator = torch.Generator().manual_seed(sum(sizes))
    for step, size in enumerate(sizes):
        ids = torch.randint(2, 40, (size,), generator=generator).tolist()
        bank.observe(encoded(ids, shift=0.01 * step))
        slow.extend((item, step) for item in ids)
        negatives = bank.sample(batch_of())
        held = negatives.ids.tolist()
        states = negatives.states[:, 0].tolist()
        assert len(held) == len(slow) == min(capacity, sum(sizes[: step + 1]))
        # Places are reused, so the oldest stands where the next will be written.
        start = bank._next if len(slow) == capacity else 0
        turned = held[start:] + held[:start]
        assert turned == [item for item, _ in slow]
        turned_states = states[start:] + states[:start]
        assert turned_states == pytest.approx([item + 0.01 * when for item, when in slow])
        expected = [math.log(len(slow) * (item - 1) / sum(range(1, 39))) for item in held]
        assert negatives.log_q.tolist() == pytest.approx(expected, rel=1e-5)


class Moving:
    """A frequency under which each item is as likely as ``probability`` says now."""

    probability = 0.5

    def observe(self, ids):
        """It is moved by hand."""

    def log_q(self, ids):
        """The same for all."""
        return torch.full(ids.shape, math.log(self.probability))


def test_log_q_is_that_of_the_step_in_which_an_item_came_in():
    frequency = Moving()
    bank = MemoryBank(5, 2, frequency)
    for probability in (0.5, 0.25, 0.125):
        frequency.probability = probability
        bank.observe(encoded([3, 4]))
    frequency.probability = 1.0
    expected = [0.125 * 5, 0.5 * 5, 0.25 * 5, 0.25 * 5, 0.125 * 5]  # the last pair wraps: its second lies at place 0
    assert bank.sample(batch_of()).log_q.exp().tolist() == pytest.approx(expected)
    resumed = MemoryBank(5, 2, frequency)
    resumed.load_state_dict(bank.state_dict())
    assert resumed.sample(batch_of()).log_q.exp().tolist() == pytest.approx(expected)


def test_states_of_several_tensors_are_kept_and_stored():
    bank = MemoryBank(5, 3, COUNTS, state_kind=Pair)
    ids = torch.tensor([4, 5, 6])
    state = Pair(ids[:, None].float(), torch.stack([ids, ids], dim=1).float())
    for _ in range(3):
        bank.observe(Encoded(ids, state, ids, {}))
    resumed = MemoryBank(5, 3, COUNTS, state_kind=Pair)
    resumed.load_state_dict(bank.state_dict())
    found = resumed.sample(batch_of()).states
    assert isinstance(found, Pair)
    assert torch.equal(found.left, bank.sample(batch_of()).states.left)
    assert found.right.shape == (5, 2)


def test_it_waits_for_its_start_but_fills_at_once():
    bank = MemoryBank(8, 4, COUNTS, start=2)
    for step in range(3):
        assert len(bank.sample(batch_of()).ids) == (0 if step < 2 else 8)
        bank.observe(encoded([3, 4, 5, 6]))


def test_sampling_copies_no_states_and_its_ids_stay():
    bank = MemoryBank(4, 4, COUNTS)
    bank.observe(encoded([3, 4, 5, 6]))
    before = bank.sample(batch_of())
    assert before.states.data_ptr() == bank.sample(batch_of()).states.data_ptr()
    bank.observe(encoded([7, 8, 9, 10]))
    assert before.ids.tolist() == [3, 4, 5, 6]


def test_only_the_first_rows_of_a_step_go_in():
    bank = MemoryBank(5, 4, COUNTS, count=2)
    for _ in range(3):
        bank.observe(encoded([3, 4, 5, 6]))
    assert bank.sample(batch_of()).ids.tolist() == [4, 4, 3, 4, 3]
    with pytest.raises(InputError, match="1 places are fewer than the 2 rows"):
        MemoryBank(1, 4, COUNTS, count=2)


def test_no_gradient_reaches_the_bank():
    bank = MemoryBank(4, 2, COUNTS)
    items = torch.ones(2, 3, requires_grad=True)
    bank.observe(Encoded(items, items * 2, torch.tensor([3, 4]), {}))
    assert not bank.sample(batch_of()).states.requires_grad


def test_drift_is_a_mean_over_the_sample_and_opens_the_bank_for_good():
    table = torch.zeros(40, 2)
    sample = torch.tensor([3, 7, 9])
    looks = []

    def look(ids):
        looks.append(ids.tolist())
        return table[ids].clone()

    drift = EmbeddingDrift(look, sample, every=2, threshold=0.5)
    bank = MemoryBank(8, 4, COUNTS, start=drift)
    moves = {1: 1.0, 3: 0.6}  # step: by how much both coordinates move just after it
    started = []
    for step in range(7):
        bank.observe(encoded([3, 4, 5, 6]))
        table += moves.get(step, 0.0)
        started.append(bank.started)
    # Looks at steps 0, 2, 4: squared distances 2 · 1² = 2, then 2 · 0.6² = 0.72, then 0 at step 6.
    assert started == [False] * 6 + [True]
    assert looks == [[3, 7, 9]] * 4
    assert drift.value == 0.0
    table += 100.0
    bank.observe(encoded([3, 4, 5, 6]))
    assert bank.started


def test_drift_value_against_the_formula_and_resume():
    table = torch.randn(40, 3, generator=torch.Generator().manual_seed(0))
    drift = EmbeddingDrift(lambda ids: table[ids].clone(), torch.tensor([2, 5, 6, 30]), every=1, threshold=1e-9)
    drift.observe()
    stored = {name: part.clone() for name, part in drift.state_dict().items()}
    moved = torch.randn(40, 3, generator=torch.Generator().manual_seed(1))
    before = table.clone()
    table += moved
    drift.observe()
    rows = [(before[i] - table[i]).tolist() for i in (2, 5, 6, 30)]
    assert drift.value == pytest.approx(sum(x * x for row in rows for x in row) / 4, rel=1e-5)
    resumed = EmbeddingDrift(lambda ids: table[ids].clone(), torch.tensor([2, 5, 6, 30]), every=1, threshold=1e-9)
    resumed.load_state_dict(stored)
    resumed.observe()
    assert resumed.value == drift.value


def test_bad_input_is_one_clear_line():
    with pytest.raises(InputError, match="3 places are fewer than the 4 rows"):
        MemoryBank(3, 4, COUNTS)
    with pytest.raises(InputError, match="cannot start"):
        MemoryBank(4, 4, COUNTS, start=-1)
    bank = MemoryBank(4, 4, COUNTS)
    with pytest.raises(InputError, match="5 rows of a batch do not fit"):
        bank.observe(encoded([2, 3, 4, 5, 6]))
    broken = encoded([2, 3, 4])
    broken.items[1, 2] = float("nan")
    with pytest.raises(InputError, match="1 of 3 item states hold NaN"):
        bank.observe(broken)
    with pytest.raises(InputError, match="nothing to keep"):
        bank.observe(broken._replace(items=None))
    bank.observe(encoded([2, 3]))
    with pytest.raises(InputError, match="stored with 4 places, this run has 5"):
        MemoryBank(5, 4, COUNTS).load_state_dict(bank.state_dict())
    for settings in ({"every": 0, "threshold": 1.0}, {"every": 1, "threshold": 0.0}):
        with pytest.raises(InputError, match="must be positive"):
            EmbeddingDrift(lambda ids: ids, torch.tensor([2]), **settings)
    with pytest.raises(InputError, match="empty"):
        EmbeddingDrift(lambda ids: ids, torch.tensor([], dtype=torch.int64), every=1, threshold=1.0)
