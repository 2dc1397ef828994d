"""The step against samples: every source's states, log q and mask land in the loss as a slow loop says."""

import math

import pytest
import torch

from twotower.core.records import Batch, Encoded, Items, Negatives, Users
from twotower.core.schema import Schema
from twotower.data.dataset import Dataset
from twotower.data.log import Log
from twotower.losses.sampled_softmax import SampledSoftmax
from twotower.models.base import Model
from twotower.sampling.known import Positives
from twotower.training.against_all import AgainstAll
from twotower.training.against_samples import AgainstSamples
from twotower.training.objective import AgainstLabels, with_terms

ITEMS, DIM = 9, 3


class Tables(Model):
    """User and item vectors looked up in fixed tables; temperature 0.5."""

    def __init__(self) -> None:
        super().__init__()
        generator = torch.Generator().manual_seed(1)
        self.of_users = torch.nn.Parameter(torch.randn(6, DIM, generator=generator, dtype=torch.float64))
        self.of_items = torch.nn.Parameter(torch.randn(ITEMS, DIM, generator=generator, dtype=torch.float64))
        self.encoded = []

    def encode_users(self, users: Users):
        return self.of_users[users.ids]

    def encode_items(self, items: Items):
        self.encoded.append(items.ids)
        return self.of_items[items.ids]

    def logit_scale(self) -> float:
        return 2.0


class Fixed:
    """A source that always gives the same candidates."""

    def __init__(self, negatives: Negatives) -> None:
        self.negatives, self.observed = negatives, []

    def sample(self, batch: Batch) -> Negatives:
        return self.negatives

    def observe(self, encoded: Encoded) -> None:
        self.observed.append(encoded)


@pytest.fixture
def dataset() -> Dataset:
    log = Log(torch.tensor([0, 0, 0, 2, 4, 5, 6]), torch.tensor([2, 3, 4, 2, 5, 6]))
    return Dataset(Schema(6, ITEMS), log, {}, {}, {})


def batch() -> Batch:
    return Batch(
        Users(torch.tensor([2, 3, 5]), {}, torch.zeros(3, 1, dtype=torch.int64)), Items(torch.tensor([3, 4, 6]), {})
    )


def slow(model: Tables, rows: list[tuple[int, int, list[tuple[int, float]]]]) -> float:
    """Mean sampled softmax in Python: (user, positive, candidates that count with their log q)."""
    users, items = model.of_users.tolist(), model.of_items.tolist()

    def score(user: int, item: int) -> float:
        return 2.0 * sum(a * b for a, b in zip(users[user], items[item], strict=True))

    total = 0.0
    for user, positive, candidates in rows:
        top = math.exp(score(user, positive))
        total -= math.log(top / (top + sum(math.exp(score(user, item) - lq) for item, lq in candidates)))
    return total / len(rows)


def step(model: Tables, dataset: Dataset, negatives: Negatives) -> tuple[float, Fixed]:
    source = Fixed(negatives)
    known = Positives(dataset.log.offsets, dataset.log.items, ITEMS)
    return AgainstSamples(dataset, source, SampledSoftmax(), known)(model, batch()).item(), source


def test_in_batch_drawn_and_kept_states_in_their_order(dataset):
    model = Tables()
    ids = torch.tensor([3, 4, 6, 7, 7, 5, 8])
    log_q = torch.arange(7).double() / 10
    bank = torch.tensor([[9.0, 0.0, 1.0]]).double()  # an old state of item 8
    loss, source = step(model, dataset, Negatives(ids, log_q, states=bank, in_batch=3))
    with torch.no_grad():
        model.of_items[8] = bank[0]
    expected = slow(
        model,
        [
            (2, 3, [(4, 0.1), (6, 0.2), (7, 0.3), (7, 0.4), (5, 0.5), (8, 0.6)]),  # knows 2 and 3
            (3, 4, [(3, 0.0), (6, 0.2), (7, 0.3), (7, 0.4), (5, 0.5), (8, 0.6)]),  # knows 4 and 2
            (5, 6, [(3, 0.0), (4, 0.1), (7, 0.3), (7, 0.4), (5, 0.5), (8, 0.6)]),  # knows 6
        ],
    )
    assert loss == pytest.approx(expected, rel=1e-12)
    assert len(source.observed) == 1
    assert [ids.tolist() for ids in model.encoded] == [[3, 4, 6], [5, 7]]  # each drawn item once


def test_known_positives_and_left_out_candidates_do_not_count(dataset):
    model = Tables()
    keep = torch.tensor([True, True, False])
    loss, _ = step(model, dataset, Negatives(torch.tensor([2, 5, 8]), torch.zeros(3).double(), keep=keep))
    expected = slow(model, [(2, 3, [(5, 0.0)]), (3, 4, [(5, 0.0)]), (5, 6, [(2, 0.0), (5, 0.0)])])
    assert loss == pytest.approx(expected, rel=1e-12)


def test_candidates_of_each_row_stand_beside_shared_ones(dataset):
    model = Tables()
    own = Negatives(
        torch.tensor([[7, 3], [5, 8], [6, 4]]), torch.tensor([[0.5, 0.1], [0.2, 0.3], [0.4, 0.6]], dtype=torch.float64)
    )
    shared = Negatives(torch.tensor([5]), torch.tensor([0.7], dtype=torch.float64), per_row=own)
    loss, _ = step(model, dataset, shared)
    expected = slow(
        model,
        [(2, 3, [(5, 0.7), (7, 0.5)]), (3, 4, [(5, 0.7), (5, 0.2), (8, 0.3)]), (5, 6, [(5, 0.7), (4, 0.6)])],
    )
    assert loss == pytest.approx(expected, rel=1e-12)


def test_a_source_that_has_not_started_gives_no_loss(dataset):
    loss, _ = step(Tables(), dataset, Negatives(torch.zeros(0, dtype=torch.int64), torch.zeros(0).double()))
    assert loss == 0.0


def test_against_all_is_the_softmax_over_known_items(dataset):
    model = Tables()
    loss = AgainstAll(dataset)(model, batch()).item()
    everything = [(item, 0.0) for item in range(2, ITEMS)]
    rows = [(u, p, [pair for pair in everything if pair[0] != p]) for u, p in ((2, 3), (3, 4), (5, 6))]
    assert loss == pytest.approx(slow(model, rows), rel=1e-12)


def test_items_without_training_events_are_no_negatives(dataset):
    model, seen = Tables(), torch.ones(ITEMS, dtype=torch.bool)
    seen[[2, 7]] = False
    loss = AgainstAll(dataset, seen=seen)(model, batch())
    candidates = [(item, 0.0) for item in range(3, ITEMS) if item != 7]
    rows = [(u, p, [pair for pair in candidates if pair[0] != p]) for u, p in ((2, 3), (3, 4), (5, 6))]
    assert loss.item() == pytest.approx(slow(model, rows), rel=1e-12)
    loss.backward()
    grad = model.of_items.grad
    assert not grad[[0, 1, 2, 7]].any()
    assert grad[[3, 4, 5, 6]].any(dim=1).all()


def test_against_labels_is_binary_cross_entropy(dataset):
    model = Tables()
    labels = torch.tensor([1.0, 0.0, 1.0])
    loss = AgainstLabels()(model, batch()._replace(labels=labels)).item()
    scores = [
        2 * sum(a * b for a, b in zip(model.of_users[u].tolist(), model.of_items[i].tolist(), strict=True))
        for u, i in ((2, 3), (3, 4), (5, 6))
    ]
    expected = sum(
        math.log1p(math.exp(-s)) if y else math.log1p(math.exp(s)) for s, y in zip(scores, labels.tolist(), strict=True)
    )
    assert loss == pytest.approx(expected / 3, rel=1e-12)


def test_a_model_s_own_losses_are_added(dataset):
    class WithLoss(Tables):
        def forward(self, batch: Batch) -> Encoded:
            return super().forward(batch)._replace(losses={"commitment": torch.tensor(3.0), "mimic": torch.tensor(0.5)})

    plain = AgainstAll(dataset)(Tables(), batch()).item()
    assert AgainstAll(dataset)(WithLoss(), batch()).item() == pytest.approx(plain + 3.5, rel=1e-9)
    known = Positives(dataset.log.offsets, dataset.log.items, ITEMS)
    source = Fixed(Negatives(torch.tensor([3, 4]), torch.zeros(2).double()))
    sampled = AgainstSamples(dataset, source, SampledSoftmax(), known)
    assert sampled(WithLoss(), batch()).item() == pytest.approx(sampled(Tables(), batch()).item() + 3.5, rel=1e-9)


def test_a_rescaled_bank_changes_no_score_and_scales_what_candidates_pass_to_items(dataset):
    ids, log_q = torch.tensor([3, 4, 6, 7, 8, 8]), torch.zeros(6).double()
    bank = torch.tensor([[9.0, 0.0, 1.0], [0.0, 2.0, 1.0]]).double()
    known = Positives(dataset.log.offsets, dataset.log.items, ITEMS)
    found = {}
    for rescale in (False, True):
        model = Tables()
        source = Fixed(Negatives(ids, log_q, states=bank, in_batch=3))
        loss = AgainstSamples(dataset, source, SampledSoftmax(), known, rescale_bank=rescale)(model, batch())
        loss.backward()
        found[rescale] = loss.item(), model.of_users.grad, model.of_items.grad
    assert found[True][0] == pytest.approx(found[False][0], rel=1e-12)
    torch.testing.assert_close(found[True][1], found[False][1])
    # Item 7 is a candidate and nobody's positive: 6 candidates stand behind the 4 that were encoded.
    torch.testing.assert_close(found[True][2][7], found[False][2][7] * 6 / 4)
    # What pulls an item to its own row is not scaled: item 3 in a row of its own.
    users, items = model.of_users.detach(), model.of_items.detach()

    def shares(user: int, own: int, others: list[torch.Tensor]) -> torch.Tensor:
        return (2.0 * torch.stack([items[own], *others]) @ users[user]).softmax(0)

    own = shares(2, 3, [items[4], items[6], items[7], *bank])[0] - 1.0
    pushed = (
        shares(3, 4, [items[3], items[6], items[7], *bank])[1],
        shares(5, 6, [items[3], items[4], items[7], *bank])[1],
    )
    expected = (own * users[2] + 6 / 4 * (pushed[0] * users[3] + pushed[1] * users[5])) * 2.0 / 3
    torch.testing.assert_close(found[True][2][3], expected)


def test_encoding_drawn_items_with_the_batch_s_changes_nothing(dataset, monkeypatch):
    ids = torch.tensor([3, 4, 6, 7, 7, 5, 8])
    bank = torch.tensor([[9.0, 0.0, 1.0]]).double()
    found = []
    for kinds in ((), ("cpu",)):
        monkeypatch.setattr("twotower.training.against_samples.TOGETHER", kinds)
        model = Tables()
        source = Fixed(Negatives(ids, torch.zeros(7).double(), states=bank, in_batch=3))
        known = Positives(dataset.log.offsets, dataset.log.items, ITEMS)
        loss = AgainstSamples(dataset, source, SampledSoftmax(), known)(model, batch())
        loss.backward()
        found.append((loss.item(), model.of_users.grad, model.of_items.grad, len(model.encoded)))
    assert found[0][0] == pytest.approx(found[1][0], rel=1e-12)
    torch.testing.assert_close(found[0][1], found[1][1])
    torch.testing.assert_close(found[0][2], found[1][2])
    assert [calls for *_, calls in found] == [2, 1]


def test_a_term_that_a_run_does_not_have_costs_nothing():
    loss = torch.tensor(2.0)
    assert with_terms(loss, 0.0, 0.0) is loss
    assert float(with_terms(loss, torch.tensor(0.5), 0.0, 1.0)) == 3.5
