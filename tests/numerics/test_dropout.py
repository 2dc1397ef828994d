"""Dropout drops the share that it says, keeps the mean, and lets gradients through exactly where it lets numbers."""

import pytest
import torch

from twotower.ops.dropout import dropout


@pytest.mark.parametrize("share", [0.1, 0.2, 0.5, 0.9])
@pytest.mark.parametrize("shape", [(7,), (3, 5), (1001, 301)])
def test_kept_numbers_are_scaled_and_gradients_follow_the_mask(share, shape):
    torch.manual_seed(0)
    x = torch.rand(shape, dtype=torch.float64).add_(1).requires_grad_()
    y = dropout(x, share)
    y.sum().backward()
    kept = y != 0
    scale = x.grad.max() if kept.any() else torch.tensor(1 / (1 - share), dtype=torch.float64)
    assert scale.item() == pytest.approx(1 / (1 - share), rel=2e-4)
    torch.testing.assert_close(y, torch.where(kept, x * scale, 0.0))
    torch.testing.assert_close(x.grad, torch.where(kept, scale, 0.0))


def test_share_is_met_and_places_are_unrelated():
    torch.manual_seed(1)
    dropped = (dropout(torch.ones(1_000_000), 0.2) == 0).double()
    # Five standard errors of a proportion over a million draws.
    assert dropped.mean().item() == pytest.approx(0.2, abs=5 * (0.2 * 0.8 / 1e6) ** 0.5)
    for shift in (1, 2, 3, 4, 8):
        both = (dropped[shift:] * dropped[:-shift]).mean().item()
        assert both == pytest.approx(0.04, abs=5 * (0.04 * 0.96 / 1e6) ** 0.5)


def test_outside_training_nothing_changes():
    x = torch.randn(4, 3)
    assert dropout(x, 0.5, training=False) is x
    assert dropout(x, 0.0) is x


@pytest.mark.parametrize("share", [-0.1, 1.0, float("nan")])
def test_share_out_of_range_is_refused(share):
    with pytest.raises(ValueError, match=r"dropout must be in \[0, 1\)"):
        dropout(torch.ones(2), share)
