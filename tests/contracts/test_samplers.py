"""What every sampler keeps to."""

import pytest
import torch

from twotower.core import states
from twotower.core.records import Batch, Encoded, Items, TopK, Users
from twotower.experiment.sources import SAMPLERS
from twotower.sampling.base import Observer, Sampler, Stateful
from twotower.sampling.counts import ItemCounts
from twotower.sampling.frequency import StreamingFrequency
from twotower.sampling.in_batch import InBatch
from twotower.sampling.index_mined import IndexMined
from twotower.sampling.known import listed
from twotower.sampling.memory_bank import MemoryBank
from twotower.sampling.mixed import Mixed
from twotower.sampling.popularity import Popularity
from twotower.sampling.sum import Sum
from twotower.sampling.uniform import Uniform

NUM_ITEMS, NUM_USERS, ROWS, DIM = 23, 11, 6, 3
LOG = torch.randint(2, NUM_ITEMS, (300,), generator=torch.Generator().manual_seed(9))


def generator():
    return torch.Generator().manual_seed(1)


def counts():
    return ItemCounts(LOG, NUM_ITEMS)


def search(users, k):
    ids = (users[:, None] * 3 + torch.arange(k)) % (NUM_ITEMS - 2) + 2
    return TopK(torch.zeros(ids.shape), ids)


def mined():
    return IndexMined(search, NUM_USERS, 2, generator(), last=4, refresh=3)


MEMBERS = {
    "in_batch": lambda: InBatch(counts()),
    "in_batch_first": lambda: InBatch(counts(), count=4),
    "in_batch_uncorrected": lambda: InBatch(None),
    "in_batch_streaming": lambda: InBatch(StreamingFrequency(64)),
    "uniform": lambda: Uniform(NUM_ITEMS, 7, generator()),
    "uniform_per_row": lambda: Uniform(NUM_ITEMS, 4, generator(), per_row=True),
    "popularity": lambda: Popularity(counts().counts, 7, generator()),
    "popularity_per_row": lambda: Popularity(counts().counts, 4, generator(), per_row=True, power=1.0),
    "mixed": lambda: Mixed([InBatch(counts()), Uniform(NUM_ITEMS, 7, generator())]),
    "memory_bank": lambda: MemoryBank(9, ROWS, counts()),
    "memory_bank_later": lambda: MemoryBank(9, ROWS, counts(), start=2),
    "index_mined": mined,
    "sum": lambda: Sum([mined(), MemoryBank(9, ROWS, counts()), Uniform(NUM_ITEMS, 7, generator()), InBatch(counts())]),
}


@pytest.fixture(params=MEMBERS)
def make(request):
    return MEMBERS[request.param]


def batches(number, rows=ROWS):
    source = torch.Generator().manual_seed(2)
    for _ in range(number):
        users = torch.randint(2, NUM_USERS, (rows,), generator=source)
        items = LOG[torch.randint(len(LOG), (rows,), generator=source)]
        yield Batch(Users(users, {}, torch.zeros(rows, 0)), Items(items))


def encode(batch):
    ids = batch.items.ids[batch.items.ids > 0]
    return Encoded(torch.zeros(len(ids), DIM), ids[:, None] * torch.ones(DIM), ids, {})


def step(sampler, batch):
    negatives = sampler.sample(batch)
    if isinstance(sampler, Observer):
        sampler.observe(encode(batch))
    return negatives


def parts(negatives):
    return [part for part in (negatives, negatives.per_row) if part is not None]


def test_every_source_that_a_run_can_name_is_a_member():
    assert set(SAMPLERS) <= set(MEMBERS)


def test_is_a_sampler(make):
    assert isinstance(make(), Sampler)


def test_shapes_and_kinds_belong_together(make):
    sampler = make()
    for batch in batches(5):
        for part in parts(step(sampler, batch)):
            assert part.ids.dtype == torch.int64
            assert part.ids.ndim == 1 or len(part.ids) == ROWS
            assert part.log_q.shape in (part.ids.shape, part.ids.shape[1:])
            assert part.log_q.dtype == torch.float32
            if part.keep is not None:
                assert part.keep.dtype == torch.bool
                assert part.keep.shape in (part.ids.shape, (ROWS, part.ids.shape[-1]))
            kept = 0 if part.states is None else states.rows(part.states)
            assert part.in_batch + kept <= part.ids.shape[-1]


def test_candidates_are_known_items_with_finite_log_q(make):
    sampler = make()
    for batch in batches(5):
        for part in parts(step(sampler, batch)):
            kept = torch.ones_like(part.ids, dtype=torch.bool) if part.keep is None else part.keep
            ids = part.ids.expand(kept.shape)[kept]
            assert ((ids >= 2) & (ids < NUM_ITEMS)).all()
            assert part.log_q.isfinite().all()


def test_the_first_candidates_are_the_batchs_own(make):
    sampler = make()
    for batch in batches(3):
        negatives = step(sampler, batch)
        assert negatives.in_batch in (0, 4, ROWS)
        if negatives.in_batch:
            own = slice(negatives.in_batch)
            assert torch.equal(negatives.ids[own], batch.items.ids[own])


def test_states_that_come_along_are_those_of_their_ids(make):
    sampler = make()
    for batch in batches(5):
        negatives = sampler.sample(batch)
        if negatives.states is not None:
            ids = negatives.ids[-len(negatives.states) :]
            assert torch.equal(negatives.states, ids[:, None] * torch.ones(DIM))
            assert not negatives.states.requires_grad
        if isinstance(sampler, Observer):
            sampler.observe(encode(batch))


def test_a_resumed_sampler_goes_on_with_the_same_candidates(make):
    whole, half, resumed = make(), make(), make()
    for place, batch in enumerate(batches(8)):
        expected = step(whole, batch)
        if place == 4 and isinstance(half, Stateful):
            resumed.load_state_dict({name: value.clone() for name, value in half.state_dict().items()})
        found = step(half if place < 4 else resumed, batch)
        assert found.ids.tolist() == expected.ids.tolist()
        assert found.log_q.tolist() == expected.log_q.tolist()


def test_state_is_tensors_alone(make):
    sampler = make()
    for batch in batches(3):
        step(sampler, batch)
    if isinstance(sampler, Stateful):
        assert all(isinstance(value, torch.Tensor) for value in sampler.state_dict().values())


def test_causal_batches_bring_one_row_for_each_position_with_a_next_item(make):
    sampler = make()
    items = torch.tensor([[4, 5, 0], [6, 0, 0], [7, 8, 9]])
    batch = Batch(Users(torch.tensor([2, 3, 4]), {}, torch.zeros(3, 3)), Items(items))
    for part in parts(step(sampler, batch)):
        if part.ids.ndim == 2:
            assert len(part.ids) == 6
        if part.in_batch:
            assert part.ids[: part.in_batch].tolist() == [4, 5, 6, 7, 8, 9][: part.in_batch]


def test_a_last_batch_of_one_row_is_served(make):
    sampler = make()
    (batch,) = batches(1, rows=1)
    for part in parts(step(sampler, batch)):
        assert part.log_q.isfinite().all()


def test_a_sum_leaves_a_rows_mined_items_to_the_miner():
    sampler = MEMBERS["sum"]()
    for batch in batches(4):
        negatives = step(sampler, batch)
        covered = sampler.sources[0].covers(batch)
        assert torch.equal(negatives.keep, ~listed(covered, negatives.ids))
        assert (~negatives.keep).any()
