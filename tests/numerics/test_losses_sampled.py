"""Sampled losses against loops in Python floats."""

import math

import pytest
import torch

from twotower.core.errors import InputError
from twotower.losses.pointwise import SampledBCE, binary_cross_entropy
from twotower.losses.sampled_softmax import SampledSoftmax


def make_case(num_rows, num_candidates, seed=0):
    generator = torch.Generator().manual_seed(seed + 31 * num_rows + num_candidates)
    positive = torch.randn(num_rows, generator=generator, dtype=torch.float64)
    negative = torch.randn(num_rows, num_candidates, generator=generator, dtype=torch.float64)
    log_q = torch.randn(num_rows, num_candidates, generator=generator, dtype=torch.float64) - 1.0
    mask = torch.rand(num_rows, num_candidates, generator=generator) < 0.7
    return positive, negative, log_q, mask


def slow_softmax(positive, negative, log_q, mask, positive_log_q=None):
    total = 0.0
    for i, score in enumerate(positive):
        top = math.exp(score) / (math.exp(positive_log_q[i]) if positive_log_q else 1.0)
        rest = sum(math.exp(s) / math.exp(q) for s, q, keep in zip(negative[i], log_q[i], mask[i], strict=True) if keep)
        total -= math.log(top / (top + rest))
    return total / len(positive)


SIZES = [(1, 1), (3, 7), (5, 2), (4, 0)]


@pytest.mark.parametrize(("rows", "candidates"), SIZES)
def test_sampled_softmax_matches_the_loop(rows, candidates):
    case = make_case(rows, candidates)
    expected = slow_softmax(*(tensor.tolist() for tensor in case))
    assert SampledSoftmax()(*case).item() == pytest.approx(expected, rel=1e-12)


def test_positive_log_q_makes_the_positive_one_more_draw():
    case = make_case(3, 7)
    own = torch.tensor([-1.0, -3.0, -0.5], dtype=torch.float64)
    expected = slow_softmax(*(tensor.tolist() for tensor in case), own.tolist())
    assert SampledSoftmax()(*case, own).item() == pytest.approx(expected, rel=1e-12)
    positive, negative, log_q, mask = case
    assert SampledSoftmax()(positive, negative, log_q + 2.0, mask, own + 2.0).item() == pytest.approx(expected)


def test_shared_log_q_is_the_same_for_every_row():
    positive, negative, log_q, mask = make_case(3, 7)
    shared = SampledSoftmax()(positive, negative, log_q[0], mask)
    assert shared.item() == SampledSoftmax()(positive, negative, log_q[:1].expand(3, 7), mask).item()


def test_a_masked_negative_has_no_effect_at_any_scale():
    positive, negative, log_q, mask = make_case(5, 7)
    near = SampledSoftmax()(positive, negative, log_q, mask)
    far = SampledSoftmax()(positive - 1e6, negative - 1e6, log_q, mask)
    torch.testing.assert_close(far, near, rtol=0, atol=1e-8)


def test_a_row_with_nothing_left_costs_nothing_and_has_no_nan_gradient():
    positive, negative, log_q, mask = make_case(3, 4)
    mask[1] = False
    negative.requires_grad_()
    SampledSoftmax()(positive, negative, log_q, mask).backward()
    assert negative.grad.isfinite().all()
    assert not negative.grad[1].any()


def test_log_q_is_subtracted_after_the_temperature():
    # The scores come divided already; doubling them must not double the correction.
    positive, negative, log_q, mask = make_case(3, 7)
    expected = slow_softmax((positive * 2).tolist(), (negative * 2).tolist(), log_q.tolist(), mask.tolist())
    assert SampledSoftmax()(positive * 2, negative * 2, log_q, mask).item() == pytest.approx(expected, rel=1e-12)


def test_sampled_softmax_gradcheck():
    positive, negative, log_q, mask = make_case(3, 4)
    assert torch.autograd.gradcheck(
        lambda p, n: SampledSoftmax()(p, n, log_q, mask), (positive.requires_grad_(), negative.requires_grad_())
    )


def test_half_precision_scores_are_added_up_in_float32():
    positive, negative, log_q, mask = make_case(3, 7)
    loss = SampledSoftmax()(positive.bfloat16(), negative.bfloat16(), log_q.float(), mask)
    assert loss.dtype == torch.float32


def slow_bce(positive, negative, mask, beta=1.0):
    total = 0.0
    for score, others, keeps in zip(positive, negative, mask, strict=True):
        kept = [s for s, keep in zip(others, keeps, strict=True) if keep]
        terms = -math.log((1 / (1 + math.exp(-score))) ** beta) - sum(
            math.log(1 - 1 / (1 + math.exp(-s))) for s in kept
        )
        total += terms / (1 + len(kept))
    return total / len(positive)


@pytest.mark.parametrize(("rows", "candidates"), SIZES)
def test_bce_matches_the_loop(rows, candidates):
    positive, negative, log_q, mask = make_case(rows, candidates)
    expected = slow_bce(positive.tolist(), negative.tolist(), mask.tolist())
    assert SampledBCE()(positive, negative, log_q, mask).item() == pytest.approx(expected, rel=1e-12)


@pytest.mark.parametrize("calibration", [0.0, 0.3, 1.0])
def test_gbce_matches_the_loop(calibration):
    positive, negative, log_q, mask = make_case(5, 7)
    alpha = 7 / 49
    beta = alpha * (calibration * (1 - 1 / alpha) + 1 / alpha)
    expected = slow_bce(positive.tolist(), negative.tolist(), mask.tolist(), beta)
    found = SampledBCE(num_items=50, calibration=calibration)(positive, negative, log_q, mask)
    assert found.item() == pytest.approx(expected, rel=1e-12)
    assert beta == pytest.approx({0.0: 1.0, 1.0: alpha}.get(calibration, beta))


def test_bce_with_labels_matches_the_loop():
    scores, labels = [0.3, -2.0, 1.5], [1.0, 0.0, 0.25]
    expected = (
        -sum(
            y * math.log(1 / (1 + math.exp(-s))) + (1 - y) * math.log(1 - 1 / (1 + math.exp(-s)))
            for s, y in zip(scores, labels, strict=True)
        )
        / 3
    )
    found = binary_cross_entropy(torch.tensor(scores, dtype=torch.float64), torch.tensor(labels, dtype=torch.float64))
    assert found.item() == pytest.approx(expected, rel=1e-12)


@pytest.mark.bad_input
@pytest.mark.parametrize("loss", [SampledSoftmax(), SampledBCE()])
def test_shapes_that_do_not_belong_together_are_refused(loss):
    positive, negative, log_q, mask = make_case(3, 7)
    for broken in [
        (positive[:2], negative, log_q, mask),
        (positive, negative, log_q[:, :3], mask),
        (positive, negative, log_q, mask[:2]),
        (positive, negative[0], log_q, mask),
    ]:
        with pytest.raises(InputError, match="expected positive scores"):
            loss(*broken)
    with pytest.raises(InputError, match="no rows"):
        loss(positive[:0], negative[:0], log_q[:0], mask[:0])


def test_gbce_refuses_settings_that_contradict():
    with pytest.raises(InputError, match="between 0 and 1"):
        SampledBCE(num_items=5, calibration=1.5)
    with pytest.raises(InputError, match="needs the number of items"):
        SampledBCE(calibration=0.5)
    with pytest.raises(InputError, match="9 negatives of 4 other items"):
        SampledBCE(num_items=5, calibration=0.5).beta(9)


@pytest.mark.parametrize("bad", [float("inf"), float("nan"), 3e38])
def test_what_is_masked_may_be_anything(bad):
    """Also on the quick path of the CPU, which multiplies where the plain one branches."""
    generator = torch.Generator().manual_seed(4)
    positive, negative = torch.randn(3, generator=generator), torch.randn(3, 5, generator=generator)
    mask = torch.ones(3, 5, dtype=torch.bool)
    mask[1, 2] = mask[2, 4] = False
    log_q = torch.randn(3, 5, generator=generator)
    results = []
    for value in (0.0, bad):
        scores = negative.clone()
        scores[~mask] = value
        scores.requires_grad_()
        loss = SampledSoftmax()(positive, scores, log_q, mask)
        (gradient,) = torch.autograd.grad(loss, scores)
        results.append((loss, gradient))
    torch.testing.assert_close(results[1][0], results[0][0])
    torch.testing.assert_close(results[1][1], results[0][1])


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.bfloat16])
def test_one_chunk_gives_the_gradient_of_many(dtype, monkeypatch):
    positive, negative = torch.randn(9), torch.randn(9, 6).to(dtype)
    log_q, mask = torch.rand(6).log(), torch.rand(9, 6) < 0.8

    def both() -> tuple[torch.Tensor, torch.Tensor]:
        own, others = positive.clone().requires_grad_(), negative.clone().requires_grad_()
        SampledSoftmax()(own, others, log_q, mask).backward()
        return own.grad, others.grad

    whole = both()
    monkeypatch.setattr("twotower.losses.sampled_softmax._CACHED", 12)
    parts = both()
    assert all(one.dtype == other.dtype for one, other in zip(whole, parts, strict=True))
    assert all(torch.equal(one, other) for one, other in zip(whole, parts, strict=True))
