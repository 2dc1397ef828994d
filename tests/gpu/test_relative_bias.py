# mypy: allow-untyped-defs, allow-incomplete-defs
"""On a GPU: the numbers of lags, and their gradients, are those of the CPU."""

from __future__ import annotations

import pytest
import torch

from twotower.towers.sequence.relative_bias import RelativeBias

pytestmark = pytest.mark.gpu


@pytest.mark.parametrize("at_end", [False, True])
def test_numbers_of_lags_and_their_gradients_are_those_of_the_cpu(at_end):
    generator = torch.Generator().manual_seed(0)
    times = torch.randint(10**9, generator=generator, size=(5, 40))
    weights = torch.randn(5, 1, 1 if at_end else 40, 40, generator=generator)
    numbers = torch.randn(64, generator=generator)
    found = []
    for device in ("cpu", "cuda"):
        bias = RelativeBias(length=40).to(device)
        bias.load_state_dict({"by_distance": torch.zeros(40), "by_lag": numbers})
        end = torch.full((5,), 39, device=device)
        given = bias.at_end(end, 40, times.to(device)) if at_end else bias(40, times.to(device))
        gradients = torch.autograd.grad((given * weights.to(device)).sum(), list(bias.parameters()))
        found.append([part.detach().cpu() for part in (given, *gradients)])
    assert found[0][2].count_nonzero() > 10
    torch.testing.assert_close(found[1], found[0], rtol=1e-4, atol=1e-4)
