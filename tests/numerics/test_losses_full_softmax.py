"""The chunked full softmax against the formula in Python floats, plain autograd and gradcheck."""

import math

import pytest
import torch
from torch.nn import functional

from twotower.core.errors import InputError
from twotower.losses.full_softmax import full_softmax


def make_case(num_rows=7, num_items=13, dim=5, dtype=torch.float64, spread=1.0):
    generator = torch.Generator().manual_seed(num_rows * 100 + num_items)
    users = (torch.randn(num_rows, dim, generator=generator, dtype=dtype) * spread).requires_grad_()
    items = (torch.randn(num_items, dim, generator=generator, dtype=dtype) * spread).requires_grad_()
    bias = torch.randn(num_items, generator=generator, dtype=dtype).requires_grad_()
    targets = torch.randint(2, num_items, (num_rows,), generator=generator)
    return users, items, targets, torch.tensor(1.7, dtype=dtype, requires_grad=True), bias


def slow_loss(users, items, targets, scale, bias):
    """The formula in Python floats."""
    total = 0.0
    for user, target in zip(users, targets, strict=True):
        logits = [
            scale * sum(a * b for a, b in zip(user, item, strict=True)) + c for item, c in zip(items, bias, strict=True)
        ]
        total -= math.log(math.exp(logits[target]) / sum(math.exp(logit) for logit in logits[2:]))
    return total / len(users)


@pytest.mark.parametrize("chunk", [None, 1, 3, 7, 50])
def test_matches_the_formula(chunk):
    users, items, targets, scale, bias = make_case()
    expected = slow_loss(users.tolist(), items.tolist(), targets.tolist(), scale.item(), bias.tolist())
    assert full_softmax(users, items, targets, scale, bias=bias, chunk=chunk).item() == pytest.approx(
        expected, rel=1e-12
    )


@pytest.mark.parametrize("chunk", [1, 3, 100])
def test_gradients_are_those_of_the_plain_form(chunk):
    case = make_case(11, 6, 3)
    users, items, targets, scale, bias = case
    inputs = (users, items, scale, bias)
    plain = functional.cross_entropy((scale * users @ items.T + bias)[:, 2:], targets - 2)
    expected = torch.autograd.grad(3.0 * plain, inputs)
    found = torch.autograd.grad(3.0 * full_softmax(users, items, targets, scale, bias=bias, chunk=chunk), inputs)
    torch.testing.assert_close(found, expected, rtol=1e-12, atol=1e-14)


def test_gradcheck():
    users, items, targets, scale, bias = make_case(4, 6, 3)
    assert torch.autograd.gradcheck(
        lambda u, i, s, b: full_softmax(u, i, targets, s, bias=b, chunk=3), (users, items, scale, bias)
    )


def test_padding_and_unknown_are_no_candidates():
    users, items, targets, _, _ = make_case()
    full_softmax(users, items, targets).backward()
    assert not items.grad[:2].any()
    moved = items.detach().clone()
    moved[:2] = 1e6
    assert full_softmax(users, moved, targets).item() == full_softmax(users, items, targets).item()


def test_a_target_too_unlikely_for_float32_has_a_finite_loss():
    users, items = torch.tensor([[1000.0], [1.0]]), torch.tensor([[0.0], [0.0], [1.0], [0.0]])
    expected = (1000.0 + math.log(1 + math.e)) / 2 - 0.0
    loss = full_softmax(users, items, torch.tensor([3, 3]))
    assert loss.item() == pytest.approx(expected, rel=1e-6)


def test_without_gradients_the_loss_is_the_same():
    users, items, targets, scale, _ = make_case()
    with torch.no_grad():
        quiet = full_softmax(users, items, targets, scale)
    assert not quiet.requires_grad
    assert quiet.item() == full_softmax(users, items, targets, scale).item()


def test_only_what_asks_for_a_gradient_gets_one():
    users, items, targets, _, _ = make_case()
    full_softmax(users.detach(), items, targets, 2.0).backward()
    assert users.grad is None
    assert items.grad.abs().sum() > 0


def test_under_autocast_products_are_bfloat16_and_the_result_stays_close():
    users, items, targets, scale, bias = make_case(64, 300, 32, torch.float32, 0.5)
    exact = full_softmax(users, items, targets, scale, bias=bias)
    expected = torch.autograd.grad(exact, (users, items))
    with torch.autocast("cpu", dtype=torch.bfloat16):
        loss = full_softmax(users, items, targets, scale, bias=bias, chunk=17)
    assert loss.dtype == torch.float32
    # bfloat16 keeps 8 bits: logits near 4 are off by up to 0.016.
    assert loss.item() == pytest.approx(exact.item(), abs=0.02)
    for found, wanted in zip(torch.autograd.grad(loss, (users, items)), expected, strict=True):
        assert found.dtype == torch.float32
        assert (found - wanted).norm() < 0.02 * wanted.norm()


@pytest.mark.bad_input
def test_bad_input_is_one_clear_line():
    users, items, targets, _, _ = make_case()
    with pytest.raises(InputError, match="targets must be ids from 2 to 12"):
        full_softmax(users, items, torch.ones_like(targets))
    with pytest.raises(InputError, match="expected users"):
        full_softmax(users, items[:, :2], targets)
    with pytest.raises(InputError, match="0 rows"):
        full_softmax(users[:0], items, targets[:0])
    with pytest.raises(InputError, match="chunk must be"):
        full_softmax(users, items, targets, chunk=0)
