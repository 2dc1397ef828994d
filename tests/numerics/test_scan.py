"""The scan in chunks against the recurrence step by step."""

import pytest
import torch

from twotower.ops.scan import linear_scan


def slow(decay: torch.Tensor, inputs: torch.Tensor) -> torch.Tensor:
    states, state = [], torch.zeros_like(inputs[:, 0])
    for place in range(inputs.shape[1]):
        state = decay[:, place] * state + inputs[:, place]
        states.append(state)
    return torch.stack(states, dim=1)


def drawn(length: int, dtype: torch.dtype) -> tuple[torch.Tensor, torch.Tensor]:
    decay = torch.randn(2, length, 3, dtype=dtype)
    return decay / decay.abs() * torch.rand(2, length, 3), torch.randn(2, length, 3, dtype=dtype)


@pytest.mark.parametrize("dtype", [torch.float64, torch.complex128])
@pytest.mark.parametrize("length", [1, 2, 3, 4, 7, 16, 17, 50, 200])
def test_matches_the_recurrence(length, dtype):
    decay, inputs = drawn(length, dtype)
    torch.testing.assert_close(linear_scan(decay, inputs), slow(decay, inputs), rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize("dtype", [torch.float64, torch.complex128])
@pytest.mark.parametrize("length", [1, 2, 5, 11])
def test_gradients_are_those_of_the_recurrence(length, dtype):
    decay, inputs = (part.requires_grad_() for part in drawn(length, dtype))
    assert torch.autograd.gradcheck(linear_scan, (decay, inputs))


def test_a_decay_alike_at_all_places_gets_one_gradient():
    _, inputs = drawn(10, torch.complex128)
    decay = torch.tensor([0.9 + 0.1j, 0.5j, -0.7], dtype=torch.complex128, requires_grad=True)
    (found,) = torch.autograd.grad(linear_scan(decay.expand_as(inputs), inputs).abs().sum(), decay)
    (expected,) = torch.autograd.grad(slow(decay.expand_as(inputs), inputs).abs().sum(), decay)
    torch.testing.assert_close(found, expected)


def test_vanishing_and_lasting_decays_stay_finite():
    inputs = torch.ones(1, 400, 3, requires_grad=True)
    decay = torch.tensor([0.0, 1e-30, 1.0]).expand_as(inputs).clone().requires_grad_()
    states = linear_scan(decay, inputs)
    torch.testing.assert_close(states[0, -1], torch.tensor([1.0, 1.0, 400.0]))
    states.sum().backward()
    assert decay.grad.isfinite().all()
    assert inputs.grad.isfinite().all()


def test_halves_are_summed_in_float32():
    inputs = torch.ones(1, 1000, 1, dtype=torch.bfloat16)
    states = linear_scan(torch.ones_like(inputs), inputs)
    assert states.dtype == torch.float32
    assert states[0, -1, 0] == 1000


def test_inputs_are_left_alone():
    decay, inputs = drawn(12, torch.float64)
    copies = decay.clone(), inputs.clone()
    linear_scan(decay, inputs)
    assert decay.equal(copies[0])
    assert inputs.equal(copies[1])
