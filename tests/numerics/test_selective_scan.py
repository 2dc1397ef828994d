"""The selective scan, plain and by a stand-in for mamba-ssm's kernel: what is handed to it, and when it is not used."""

from __future__ import annotations

import sys
from types import ModuleType

import pytest
import torch
from torch import Tensor

from twotower.ops import selective_scan as scans
from twotower.ops.selective_scan import MODULE, fused_kernel, selective_scan
from twotower.towers.sequence.mamba4rec import Mamba4Rec

ROWS, LENGTH, INNER, STATES = 2, 7, 3, 4


def one_by_one(u: Tensor, delta: Tensor, A: Tensor, B: Tensor, C: Tensor) -> Tensor:
    """What the kernel documents, place by place: u and delta [rows, inner, length], B and C [rows, states, length]."""
    assert u.shape == delta.shape
    assert all(part.is_contiguous() and part.dtype == torch.float32 for part in (u, delta, A, B, C))
    state, found = u.new_zeros(u.shape[0], *A.shape), []
    for t in range(u.shape[2]):
        state = torch.exp(delta[:, :, t, None] * A) * state + (delta * u)[:, :, t, None] * B[:, None, :, t]
        found.append((state * C[:, None, :, t]).sum(2))
    return torch.stack(found, dim=2)


@pytest.fixture
def calls(monkeypatch) -> list[int]:
    """A mamba-ssm that runs on a CPU, and how often it was asked."""
    asked: list[int] = []

    def kernel(*given: Tensor) -> Tensor:
        asked.append(len(given))
        return one_by_one(*given)

    module = ModuleType(MODULE)
    module.selective_scan_fn = kernel  # type: ignore[attr-defined]
    monkeypatch.setitem(sys.modules, "mamba_ssm", ModuleType("mamba_ssm"))
    monkeypatch.setitem(sys.modules, "mamba_ssm.ops", ModuleType("mamba_ssm.ops"))
    monkeypatch.setitem(sys.modules, MODULE, module)
    monkeypatch.setattr(scans, "FUSED_ON", ("cpu",))
    fused_kernel.cache_clear()
    yield asked
    fused_kernel.cache_clear()


@pytest.fixture
def given() -> tuple[Tensor, ...]:
    x, size = torch.randn(ROWS, LENGTH, INNER), torch.rand(ROWS, LENGTH, INNER)
    write, read = torch.randn(2, ROWS, LENGTH, STATES)
    return x, size, -torch.rand(INNER, STATES), write, read


def test_the_kernel_gets_what_it_documents_and_gives_what_the_plain_form_gives(given, calls, monkeypatch):
    leaves = [part.clone().requires_grad_() for part in given]
    fused = selective_scan(*leaves)
    weight = torch.randn_like(fused)
    gradients = torch.autograd.grad((fused * weight).sum(), leaves)
    assert calls == [5]
    monkeypatch.setattr(scans, "FUSED_ON", ())
    plain = selective_scan(*leaves)
    torch.testing.assert_close(fused, plain)
    for one, other in zip(gradients, torch.autograd.grad((plain * weight).sum(), leaves), strict=True):
        torch.testing.assert_close(one, other)
    assert calls == [5]


def test_mamba4rec_trains_and_answers_alike_by_the_kernel(calls, monkeypatch):
    encoder = Mamba4Rec(dim=8, layers=2, states=3).eval()
    events, mask = torch.randn(3, 9, 8), torch.ones(3, 9, dtype=torch.bool)
    fused = encoder(events, mask)
    assert len(calls) == 2
    monkeypatch.setattr(scans, "FUSED_ON", ("cuda",))
    torch.testing.assert_close(encoder(events, mask), fused)
    assert len(calls) == 2


def test_float64_and_more_states_than_it_takes_are_scanned_plainly(given, calls, monkeypatch):
    assert selective_scan(*(part.double() for part in given)).dtype == torch.float64
    monkeypatch.setattr(scans, "LARGEST", STATES - 1)
    selective_scan(*given)
    assert not calls


def test_a_kernel_that_is_not_there_or_is_built_for_another_torch_is_not_used(given, calls, monkeypatch, caplog):
    x, size, rate, write, read = given
    expected = one_by_one(*(part.contiguous() for part in (x.mT, size.mT, rate, write.mT, read.mT)))
    monkeypatch.setattr(scans, "MODULE", "mamba_ssm.nowhere")
    torch.testing.assert_close(selective_scan(*given), expected.mT)
    assert not caplog.records
    fused_kernel.cache_clear()

    def broken(name: str) -> ModuleType:
        raise ImportError("undefined symbol: _ZN3c10")

    monkeypatch.setattr(scans.importlib, "import_module", broken)
    torch.testing.assert_close(selective_scan(*given), expected.mT)
    assert "cannot be used (undefined symbol" in caplog.text
    assert not calls
