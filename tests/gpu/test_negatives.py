# mypy: allow-untyped-defs, allow-incomplete-defs
"""Samplers, losses and clustering on CUDA give what they give on the CPU."""

import pytest
import torch

from twotower.core.records import Batch, Encoded, Items, TopK, Users
from twotower.losses.full_softmax import full_softmax
from twotower.losses.pairwise import BPR, Triplet
from twotower.losses.pointwise import SampledBCE
from twotower.losses.sampled_softmax import SampledSoftmax
from twotower.ops.balanced_kmeans import balanced_kmeans
from twotower.sampling.base import Observer
from twotower.sampling.counts import ItemCounts
from twotower.sampling.frequency import StreamingFrequency
from twotower.sampling.in_batch import InBatch
from twotower.sampling.index_mined import IndexMined
from twotower.sampling.known import Positives, listed
from twotower.sampling.memory_bank import MemoryBank
from twotower.sampling.mixed import Mixed
from twotower.sampling.popularity import Popularity
from twotower.sampling.sum import Sum
from twotower.sampling.uniform import Uniform

pytestmark = pytest.mark.gpu

NUM_ITEMS, NUM_USERS, ROWS = 50, 20, 16


def drawn(*shape, seed=0):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


@pytest.mark.parametrize("chunk", [None, 7])
def test_full_softmax(chunk):
    users, items = drawn(30, 8), drawn(NUM_ITEMS, 8, seed=1)
    targets = torch.randint(2, NUM_ITEMS, (30,), generator=torch.Generator().manual_seed(2))
    results = []
    for device in ("cpu", "cuda"):
        inputs = [part.to(device).requires_grad_() for part in (users, items, torch.tensor(3.0))]
        loss = full_softmax(inputs[0], inputs[1], targets.to(device), inputs[2], chunk=chunk)
        results.append([part.cpu() for part in (loss, *torch.autograd.grad(loss, inputs))])
    torch.testing.assert_close(results[1], results[0], rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("loss", [SampledSoftmax(), SampledBCE(), BPR(), Triplet()])
def test_sampled_losses(loss):
    mask = drawn(9, 13, seed=3) > -0.5
    results = []
    for device in ("cpu", "cuda"):
        inputs = [part.to(device).requires_grad_() for part in (drawn(9), drawn(9, 13, seed=1))]
        value = loss(*inputs, drawn(13, seed=2).to(device), mask.to(device))
        results.append([part.cpu() for part in (value, *torch.autograd.grad(value, inputs))])
    torch.testing.assert_close(results[1], results[0], rtol=1e-4, atol=1e-5)


def test_masks():
    offsets = torch.tensor([0, 0, 0, 5, 6, 12])
    items = torch.tensor([2, 9, 4, 30, 7, 8, 3, 3, 4, 40, 41, 9])
    users, shared = torch.tensor([2, 4, 3, 2]), torch.tensor([3, 4, 9, 9, 41, 2, 5])
    on_cpu = Positives(offsets, items, NUM_ITEMS)
    on_cuda = on_cpu.to("cuda")
    for candidates in (shared, shared.expand(4, 7)):
        found = on_cuda.contains(users.cuda(), candidates.cuda())
        assert torch.equal(found.cpu(), on_cpu.contains(users, candidates))
        assert torch.equal(
            listed(shared[None].cuda(), candidates[:1].cuda()).cpu(), listed(shared[None], candidates[:1])
        )


def search(users, k):
    ids = (users[:, None] + 3 * torch.arange(k, device=users.device)) % (NUM_ITEMS - 2) + 2
    return TopK(torch.zeros(ids.shape, device=users.device), ids)


def test_every_source_gives_candidates_on_the_device():
    generator = torch.Generator(device="cuda").manual_seed(0)
    log = torch.randint(2, NUM_ITEMS, (500,), generator=generator, device="cuda")
    counts = ItemCounts(log, NUM_ITEMS)
    sampler = Sum(
        [
            InBatch(StreamingFrequency(97, device="cuda")),
            Uniform(NUM_ITEMS, 8, generator, per_row=True),
            Popularity(counts.counts, 8, generator),
            MemoryBank(40, ROWS, counts),
            IndexMined(search, NUM_USERS, 3, generator, last=9),
        ]
    )
    mixed = Mixed([InBatch(counts), Uniform(NUM_ITEMS, 8, generator)])
    for _ in range(4):
        users = torch.randint(2, NUM_USERS, (ROWS,), generator=generator, device="cuda")
        ids = log[torch.randint(500, (ROWS,), generator=generator, device="cuda")]
        batch = Batch(Users(users, {}, torch.zeros(ROWS, 0, device="cuda")), Items(ids))
        for source in (sampler, mixed):
            negatives = source.sample(batch)
            assert negatives.ids.is_cuda
            assert negatives.log_q.is_cuda
            assert negatives.log_q.isfinite().all()
            if isinstance(source, Observer):
                source.observe(Encoded(ids[:, None].float(), ids[:, None].float(), ids, {}))
    assert negatives.in_batch == ROWS
    stored = {name: value.clone() for name, value in sampler.state_dict().items()}
    expected = sampler.sample(batch)
    sampler.load_state_dict(stored)
    again = sampler.sample(batch)
    assert again.per_row is not None
    assert expected.per_row is not None
    assert torch.equal(again.per_row.ids, expected.per_row.ids)
    assert torch.equal(again.ids, expected.ids)


def test_clusters_are_balanced():
    points = drawn(1003, 16).cuda()
    labels = balanced_kmeans(points, 37, generator=torch.Generator(device="cuda").manual_seed(0))
    sizes = labels.bincount(minlength=37)
    assert int(sizes.max() - sizes.min()) == 1
    assert len(sizes) == 37


@pytest.mark.parametrize(
    "settings",
    [
        ["sampling.sources=['mixed']"],
        ["sampling.sources=['in_batch', 'memory_bank']", "sampling.bank_drift=9.0", "sampling.frequency=streaming"],
        ["sampling.sources=['in_batch', 'index_mined']", "sampling.mine_ranks=[1, 6]", "sampling.mine_number=3"],
        ["sampling.sources=['in_batch', 'memory_bank']", "sampling.batches=clustered", "sampling.hard=radius"],
    ],
)
def test_runs_train_and_resume_on_the_device(settings, tmp_path):
    from twotower.core.schema import Schema
    from twotower.data.dataset import Dataset
    from twotower.data.log import Log
    from twotower.data.splitters import split_log
    from twotower.experiment.learn import learn
    from twotower.experiment.run import Run

    users = 24
    items = torch.cat([torch.randperm(30)[:8] + 2 for _ in range(users)])
    offsets = torch.cat([torch.zeros(3, dtype=torch.int64), 8 * torch.arange(1, users + 1)])
    schema = Schema(users + 2, 32, (), (), has_times=False)
    dataset = Dataset(schema, Log(offsets, items), {}, {}, {"name": "small"}).to("cuda")
    more = ["objective.loss=sampled_softmax", "training.batch_size=16", "sampling.number=24", "model.dim=8"]
    clusters = ["clusters.start_size=2", "clusters.refresh_every=1", "clusters.min_clusters=3"]
    split = split_log(dataset.log, "leave-one-out")
    short = Run().with_settings([*more, *clusters, *settings, "training.epochs=2"])
    _, records = learn(short, dataset, split, folder=tmp_path)
    assert len(records) == 2
    longer = Run().with_settings([*more, *clusters, *settings, "training.epochs=3"])
    _, records = learn(longer, dataset, split, folder=tmp_path, resume=True)
    assert [record.epoch for record in records] == [1, 2, 3]
    assert all(record.loss < float("inf") for record in records)
