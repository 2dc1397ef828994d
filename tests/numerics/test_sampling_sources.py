"""Each source under its log q: the sum over items is unbiased with few draws, and with many the gradient is right.

The catalogue is small enough to add up in full; rows 0 and 1, padding and unknown, must never come up. In every batch
one row, at a random place, is watched; the other rows bring items as the training log does.
"""

import math

import pytest
import torch
from torch.nn import functional

from twotower.core.records import Batch, Encoded, Items, TopK, Users
from twotower.losses.sampled_softmax import SampledSoftmax
from twotower.sampling.base import Observer
from twotower.sampling.counts import ItemCounts
from twotower.sampling.in_batch import InBatch
from twotower.sampling.index_mined import IndexMined
from twotower.sampling.memory_bank import MemoryBank
from twotower.sampling.mixed import Mixed
from twotower.sampling.popularity import Popularity
from twotower.sampling.sum import Sum
from twotower.sampling.uniform import Uniform

NUM_ITEMS, NUM_USERS, DIM = 14, 7, 3
LOG = torch.tensor([2] * 40 + [3] * 25 + [4] * 12 + [5] * 9 + [6] * 6 + [7] * 5 + [8, 8, 9, 9, 10, 11, 12, 13])
USERS = torch.tensor([2, 3, 4, 5, 6])


def towers():
    generator = torch.Generator().manual_seed(5)
    users = torch.randn(NUM_USERS, DIM, generator=generator, dtype=torch.float64)
    items = torch.randn(NUM_ITEMS, DIM, generator=generator, dtype=torch.float64)
    return users.requires_grad_(), items.requires_grad_()


def likely_targets():
    """The second best item of each user: the positive's own share of the softmax is then worth getting right."""
    users, items = towers()
    return (users[USERS] @ items[2:].T).argsort(dim=1, descending=True)[:, 1] + 2


TARGETS = likely_targets()


def draw(count, generator, log=LOG):
    """Items as the training log brings them."""
    return log[torch.randint(len(log), (count,), generator=generator)]


def search(users, k):
    """The three best items of each user, and two for one of them."""
    user_vectors, item_vectors = (part.detach() for part in towers())
    best = (user_vectors[users] @ item_vectors[2:].T).topk(3, dim=1)
    ids = best.indices + 2
    ids[users == 4, 2] = -1
    return TopK(best.values, ids)


def make(name, generator, log=LOG):
    counts = ItemCounts(log, NUM_ITEMS)

    def uniform(**settings):
        return Uniform(NUM_ITEMS, 5, generator, **settings)

    def popularity():
        return Popularity(counts.counts, 4, generator, power=0.5)

    def mined():
        return IndexMined(search, NUM_USERS, 2, generator, last=2)

    def bank():
        return MemoryBank(7, 7, counts)

    sources = {
        "in_batch": lambda: InBatch(counts),
        "in_batch_first": lambda: InBatch(counts, count=4),
        "uniform": uniform,
        "popularity": popularity,
        "mixed": lambda: Mixed([InBatch(counts), uniform()]),
        "bank": bank,
        "in_batch+uniform": lambda: Sum([InBatch(counts), uniform()]),
        "in_batch+bank+popularity": lambda: Sum([popularity(), bank(), InBatch(counts)]),
        "in_batch+mined": lambda: Sum([InBatch(counts), mined()]),
        "uniform+mined": lambda: Sum([mined(), uniform()]),
        "own_uniform+bank+mined": lambda: Sum([uniform(per_row=True), bank(), mined()]),
    }
    return sources[name]()


SOURCES = [
    "in_batch",
    "in_batch_first",
    "uniform",
    "popularity",
    "mixed",
    "bank",
    "in_batch+uniform",
    "in_batch+bank+popularity",
    "in_batch+mined",
    "uniform+mined",
    "own_uniform+bank+mined",
]


def candidates(source, watched, generator, log=LOG):
    """Ids and log q of all candidates that count for the watched row; its own item does not."""
    if isinstance(source, Observer):
        fresh = draw(7, generator, log)  # fills a bank to its last place
        source.observe(Encoded(fresh, fresh[:, None].float(), fresh, {}))
    items = draw(7, generator, log)
    place = int(torch.randint(7, (), generator=generator))
    items[place] = TARGETS[watched]
    users = torch.full((7,), 2)
    users[place] = USERS[watched]
    batch = Batch(Users(users, {}, torch.zeros(7, 0)), Items(items))
    negatives = source.sample(batch)
    ids, log_q = [], []
    for part in (negatives, negatives.per_row):
        if part is not None:
            row_ids = part.ids if part.ids.ndim == 1 else part.ids[place]
            row_log_q = part.log_q if part.log_q.ndim == 1 else part.log_q[place]
            keep = row_ids != TARGETS[watched]
            if part.keep is not None:
                keep &= part.keep if part.keep.ndim == 1 else part.keep[place]
            ids.append(row_ids[keep])
            log_q.append(row_log_q[keep])
    return torch.cat(ids), torch.cat(log_q).double()


@pytest.mark.slow
@pytest.mark.parametrize("name", SOURCES)
def test_the_sum_over_items_is_unbiased_with_few_draws(name):
    generator = torch.Generator().manual_seed(11)
    users, items = (part.detach() for part in towers())
    values = (users[USERS[1]] @ items.T).exp()
    rounds = 800
    estimates = torch.zeros(rounds, dtype=torch.float64)
    source = make(name, generator)
    for trial in range(rounds):
        ids, log_q = candidates(source, 1, generator)
        assert (ids >= 2).all()
        estimates[trial] = (values[ids] / log_q.exp()).sum()
    expected = values[2:].sum() - values[TARGETS[1]]
    deviation = (estimates.mean() - expected) / (estimates.std() / rounds**0.5)
    assert abs(deviation) < 4.0
    assert estimates.std() / rounds**0.5 < 0.08 * expected  # else the test above could not tell


def relative_errors(name, rounds=300):
    """Distance of the sampled gradient from the full one, with the correction and without."""
    generator = torch.Generator().manual_seed(3)
    users, items = towers()
    full = functional.cross_entropy((users[USERS] @ items.T)[:, 2:], TARGETS - 2)
    expected = torch.cat([part.flatten() for part in torch.autograd.grad(full, (users, items))])
    errors = []
    drawn = []
    source = make(name, generator)
    for watched in range(5):
        parts = [candidates(source, watched, generator) for _ in range(rounds)]
        drawn.append((torch.cat([ids for ids, _ in parts]), torch.cat([log_q for _, log_q in parts])))
    for corrected in (True, False):
        loss = 0.0
        for watched, (ids, log_q) in enumerate(drawn):
            user = users[USERS[watched]]
            loss = loss + SampledSoftmax()(
                (user @ items[TARGETS[watched]])[None],
                (items[ids] @ user)[None],
                log_q + math.log(rounds) if corrected else torch.zeros_like(log_q),
                torch.ones(1, len(ids), dtype=torch.bool),
            )
        found = torch.cat([part.flatten() for part in torch.autograd.grad(loss / 5, (users, items))])
        errors.append(((found - expected).norm() / expected.norm()).item())
    return errors


@pytest.mark.slow
@pytest.mark.parametrize("name", SOURCES)
def test_with_many_draws_the_gradient_is_that_of_the_full_softmax_and_only_with_the_correction(name):
    corrected, uncorrected = relative_errors(name)
    assert corrected < 0.1
    assert uncorrected > 3 * corrected
    assert uncorrected > 0.15


@pytest.mark.slow
def test_an_item_without_events_is_estimated_by_the_mixture_and_missed_in_batch():
    log = LOG[LOG != 4]
    generator = torch.Generator().manual_seed(7)
    means = {}
    for name in ("mixed", "in_batch", "in_batch+uniform"):
        total, source = 0.0, make(name, generator, log)
        for _ in range(600):
            ids, log_q = candidates(source, 0, generator, log)
            total += (1.0 / log_q.exp())[ids == 4].sum().item()
        means[name] = total / 600
    assert means["mixed"] == pytest.approx(1.0, abs=0.2)
    assert means["in_batch"] == 0.0
    assert means["in_batch+uniform"] == pytest.approx(5 / 12, abs=0.1)  # the uniform source's share of the sample
