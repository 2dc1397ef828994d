"""The full softmax over tiles of items: the plain form in float64, and nothing held that grows with rows × items."""

import pytest
import torch
from torch.nn import functional
from torch.utils._python_dispatch import TorchDispatchMode

from twotower.core.errors import InputError
from twotower.losses.full_softmax import full_softmax


def make_case(num_rows=7, num_items=13, dim=5, dtype=torch.float64, spread=1.0):
    generator = torch.Generator().manual_seed(num_rows * 100 + num_items)
    users = (torch.randn(num_rows, dim, generator=generator, dtype=dtype) * spread).requires_grad_()
    items = (torch.randn(num_items, dim, generator=generator, dtype=dtype) * spread).requires_grad_()
    bias = torch.randn(num_items, generator=generator, dtype=dtype).requires_grad_()
    targets = torch.randint(2, num_items, (num_rows,), generator=generator)
    return users, items, targets, torch.tensor(1.7, dtype=dtype, requires_grad=True), bias


@pytest.mark.parametrize("tile", [1, 4, 11, 100])
@pytest.mark.parametrize("biased", [False, True])
def test_loss_and_gradients_are_those_of_the_plain_form(tile, biased):
    users, items, targets, scale, bias = make_case(11, 13, 3)
    inputs = (users, items, scale, *([bias] if biased else []))
    logits = scale * users @ items.T + (bias if biased else 0.0)
    plain = functional.cross_entropy(logits[:, 2:], targets - 2)
    expected = torch.autograd.grad(3.0 * plain, inputs)
    loss = full_softmax(users, items, targets, scale, bias=bias if biased else None, tile=tile)
    assert loss.item() == pytest.approx(plain.item(), rel=1e-12)
    found = torch.autograd.grad(3.0 * loss, inputs)
    torch.testing.assert_close(found, expected, rtol=1e-12, atol=1e-14)


@pytest.mark.skipif(not hasattr(functional, "linear_cross_entropy"), reason="this PyTorch has no such form")
def test_the_chunked_form_of_pytorch_agrees():
    users, items, targets, _, _ = make_case(11, 13, 3, torch.float32)
    options = torch.nn.LinearCrossEntropyOptions(batch_chunk_size=4)
    theirs = functional.linear_cross_entropy(users, items[2:], targets - 2, options=options)
    expected = (theirs, *torch.autograd.grad(theirs, (users, items)))
    for way in ({"tile": 4}, {"chunk": 4}):
        loss = full_softmax(users, items, targets, **way)
        torch.testing.assert_close((loss, *torch.autograd.grad(loss, (users, items))), expected, rtol=1e-5, atol=1e-6)


def test_gradcheck():
    users, items, targets, scale, bias = make_case(4, 7, 3)
    assert torch.autograd.gradcheck(
        lambda u, i, s, b: full_softmax(u, i, targets, s, bias=b, tile=2), (users, items, scale, bias)
    )


def test_tiles_and_chunks_agree_in_float32():
    users, items, targets, scale, _ = make_case(64, 300, 32, torch.float32, 0.5)
    found = []
    for way in ({"chunk": 7}, {"tile": 41}):
        loss = full_softmax(users, items, targets, scale, **way)
        found.append((loss, *torch.autograd.grad(loss, (users, items, scale))))
    torch.testing.assert_close(found[1], found[0], rtol=1e-5, atol=1e-7)


def test_under_autocast_products_are_bfloat16_and_the_result_stays_close():
    users, items, targets, scale, _ = make_case(64, 300, 32, torch.float32, 0.5)
    exact = full_softmax(users, items, targets, scale)
    expected = torch.autograd.grad(exact, (users, items))
    with torch.autocast("cpu", dtype=torch.bfloat16):
        loss = full_softmax(users, items, targets, scale, tile=50)
    assert loss.dtype == torch.float32
    assert loss.item() == pytest.approx(exact.item(), abs=0.02)
    for found, wanted in zip(torch.autograd.grad(loss, (users, items)), expected, strict=True):
        assert found.dtype == torch.float32
        assert (found - wanted).norm() < 0.02 * wanted.norm()


def test_an_item_that_is_the_target_of_many_rows_has_their_whole_gradient_in_bfloat16():
    users, items, _, _, _ = make_case(2048, 40, 8, torch.float32, 0.3)
    users, targets = users.detach() + 0.5, torch.full((2048,), 5)

    def gradient(dtype, **way):
        given = [part.detach().to(dtype).requires_grad_() for part in (users, items)]
        return torch.autograd.grad(full_softmax(*given, targets, **way), given[1])[0].float()

    exact = gradient(torch.float32)
    assert (gradient(torch.bfloat16, tile=16) - exact).norm() < 0.01 * exact.norm()


def test_logits_far_apart_give_a_finite_loss():
    users, items = torch.tensor([[1000.0], [1.0]]), torch.tensor([[0.0], [0.0], [1.0], [0.0]])
    loss = full_softmax(users, items, torch.tensor([3, 3]), tile=1)
    assert loss.item() == pytest.approx((1000.0 + 1.3132617) / 2, rel=1e-6)


def test_padding_and_unknown_get_no_gradient():
    users, items, targets, _, _ = make_case()
    full_softmax(users, items, targets, tile=3).backward()
    assert not items.grad[:2].any()


class Largest(TorchDispatchMode):
    """Notes the most numbers that a new tensor holds."""

    def __init__(self):
        super().__init__()
        self.most = 0

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        result = func(*args, **(kwargs or {}))
        if isinstance(result, torch.Tensor):
            self.most = max(self.most, result.numel())
        return result


@pytest.mark.parametrize("num_items", [1_000, 10_000])
def test_nothing_is_larger_than_the_items_or_a_tile(num_items):
    users, items, targets, scale, _ = make_case(64, num_items, 2, torch.float32)
    with Largest() as seen:
        full_softmax(users, items, targets, scale, tile=100).backward()
    assert seen.most == max(items.numel(), 64 * 100)


def test_a_large_catalogue_is_taken_in_tiles_by_itself():
    users, items, targets, _, _ = make_case(64, 13_000, 2, torch.float32)
    with Largest() as seen:
        full_softmax(users, items, targets).backward()
    assert seen.most <= 64 * 6_144  # a chunk of 32 rows would be 416,000


@pytest.mark.bad_input
def test_a_tile_of_nothing_is_refused():
    users, items, targets, _, _ = make_case()
    with pytest.raises(InputError, match="tile must be at least 1, got 0"):
        full_softmax(users, items, targets, tile=0)
