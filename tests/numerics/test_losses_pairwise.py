"""BPR and triplet losses against loops in Python floats."""

import math

import pytest
import torch

from twotower.core.errors import InputError
from twotower.losses.base import Loss
from twotower.losses.pairwise import BPR, Triplet
from twotower.losses.pointwise import SampledBCE
from twotower.losses.sampled_softmax import SampledSoftmax


def make_case(num_rows, num_candidates, keep=0.7):
    generator = torch.Generator().manual_seed(31 * num_rows + num_candidates)
    positive = torch.randn(num_rows, generator=generator, dtype=torch.float64)
    negative = torch.randn(num_rows, num_candidates, generator=generator, dtype=torch.float64)
    mask = torch.rand(num_rows, num_candidates, generator=generator) < keep
    return positive, negative, torch.zeros(num_candidates), mask


SIZES = [(1, 1), (3, 7), (6, 15), (5, 2), (4, 0)]


def kept(negative, mask):
    return [s for s, keep in zip(negative.tolist(), mask.tolist(), strict=True) if keep]


@pytest.mark.parametrize(("rows", "candidates"), SIZES)
def test_bpr_matches_the_loop(rows, candidates):
    positive, negative, log_q, mask = make_case(rows, candidates)
    total = 0.0
    for row in range(rows):
        terms = [-math.log(1 / (1 + math.exp(s - positive[row].item()))) for s in kept(negative[row], mask[row])]
        total += sum(terms) / max(len(terms), 1)
    assert BPR()(positive, negative, log_q, mask).item() == pytest.approx(total / rows, rel=1e-12)


def slow_triplet(positive, negative, mask, margin, hardest, temperature):
    total = 0.0
    for row in range(len(positive)):
        scores = sorted(kept(negative[row], mask[row]), reverse=True)[:hardest]
        violations = [max(0.0, margin + s - positive[row].item()) for s in scores]
        if temperature is None:
            total += sum(violations) / max(len(violations), 1)
        else:
            weights = [math.exp(v / temperature) if v > 0 else 0.0 for v in violations]
            total += sum(w * v for w, v in zip(weights, violations, strict=True)) / (sum(weights) or 1.0)
    return total / len(positive)


@pytest.mark.parametrize(("rows", "candidates"), SIZES)
@pytest.mark.parametrize(
    ("margin", "hardest", "temperature"), [(0.3, 10, 0.1), (0.3, 2, 0.1), (1.0, None, None), (0.5, 3, None)]
)
def test_triplet_matches_the_loop(rows, candidates, margin, hardest, temperature):
    positive, negative, log_q, mask = make_case(rows, candidates)
    expected = slow_triplet(positive, negative, mask, margin, hardest, temperature)
    found = Triplet(margin=margin, hardest=hardest, weight_temperature=temperature)(positive, negative, log_q, mask)
    assert found.item() == pytest.approx(expected, rel=1e-12)


@pytest.mark.parametrize(
    "loss", [BPR(), Triplet(weight_temperature=None), Triplet(hardest=None, weight_temperature=None)]
)
def test_gradcheck(loss):
    positive, negative, log_q, mask = make_case(3, 5)
    inputs = (positive.requires_grad_(), negative.requires_grad_())
    assert torch.autograd.gradcheck(lambda p, n: loss(p, n, log_q, mask), inputs)


def test_triplet_weights_take_no_gradient():
    positive, negative, log_q, mask = make_case(4, 6, keep=1.1)
    negative.requires_grad_()
    Triplet(margin=5.0, hardest=None)(positive, negative, log_q, mask).backward()
    weights = ((5.0 + negative.detach() - positive[:, None]) / 0.1).softmax(1)
    torch.testing.assert_close(negative.grad, weights / 4)


def test_rows_without_a_violation_cost_nothing_and_have_no_nan_gradient():
    positive, negative, log_q, mask = make_case(3, 4)
    positive = (positive + 100.0).requires_grad_()
    loss = Triplet()(positive, negative, log_q, mask)
    loss.backward()
    assert loss.item() == 0.0
    assert not positive.grad.any()


@pytest.mark.parametrize("loss", [SampledSoftmax(), SampledBCE(), BPR(), Triplet()])
def test_every_loss_keeps_to_the_protocol(loss):
    assert isinstance(loss, Loss)
    positive, negative, log_q, mask = make_case(5, 9)
    value = loss(positive.float(), negative.float(), log_q, mask)
    assert value.shape == ()
    assert value.dtype == torch.float32
    order = torch.randperm(9)
    moved = loss(positive.float(), negative.float()[:, order], log_q[order], mask[:, order])
    torch.testing.assert_close(value, moved)
    far = negative.float().masked_fill(~mask, 1e9)
    torch.testing.assert_close(loss(positive.float(), far, log_q, mask), value)


@pytest.mark.bad_input
def test_bad_input_is_one_clear_line():
    positive, negative, log_q, mask = make_case(3, 7)
    for loss in (BPR(), Triplet()):
        with pytest.raises(InputError, match="expected positive scores"):
            loss(positive[:2], negative, log_q, mask)
    for settings in ({"margin": 0.0}, {"hardest": 0}, {"weight_temperature": -1.0}):
        with pytest.raises(InputError, match="must be positive and finite"):
            Triplet(**settings)
