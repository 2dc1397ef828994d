"""Encoders that somebody else wrote: taken as they are where they keep the contract, refused in one line where not."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn

from twotower.core.errors import InputError
from twotower.core.schema import Schema
from twotower.models.registry import MODELS, build_model, model_parameters
from twotower.towers.sequence.base import SequenceEncoder
from twotower.towers.sequence.caser import Caser
from twotower.towers.sequence.contrast_vae import ContrastVAE
from twotower.towers.sequence.hstu import HSTU
from twotower.towers.sequence.probe import check_encoder


class Mean(SequenceEncoder):
    """The mean of the events so far, with noise that it draws."""

    def __init__(self, *, dim: int, share: float = 0.1) -> None:
        super().__init__()
        self.project, self.share = nn.Linear(dim, dim), share

    def forward(self, events: Tensor, mask: Tensor, times: Tensor | None = None) -> Tensor:
        count = torch.arange(1, events.shape[1] + 1, device=events.device)
        noised = events + self.share * torch.randn(events.shape[-1])
        return self.project(noised.cumsum(1) / count[:, None])


class Future(Mean):
    """Sums of later events."""

    def forward(self, events: Tensor, mask: Tensor, times: Tensor | None = None) -> Tensor:
        return self.project((events * mask[:, :, None]).flip(1).cumsum(1).flip(1))


class Padded(Mean):
    """A state that reads what stands at padded places."""

    causal = True

    def forward(self, events: Tensor, mask: Tensor, times: Tensor | None = None) -> Tensor:
        return self.project(events) + events[1:, -1:].detach()


class Short(Mean):
    """One state a user."""

    def forward(self, events: Tensor, mask: Tensor, times: Tensor | None = None) -> Tensor:
        return self.project(events.mean(1))


class Nothing(SequenceEncoder):
    """No forward."""

    def __init__(self, *, dim: int) -> None:
        super().__init__()
        self.project = nn.Linear(dim, dim)


class Unready(Mean):
    """No super().__init__()."""

    def __init__(self, *, dim: int) -> None:
        self.project = nn.Linear(dim, dim)


class Positional(Mean):
    """Settings that are no keywords."""

    def __init__(self, dim: int, rate: float = 0.5) -> None:
        super().__init__(dim=dim)


class Bare(Mean):
    """A setting without a default."""

    def __init__(self, *, dim: int, rate: float) -> None:
        super().__init__(dim=dim)


@pytest.fixture
def named(request):
    """Build a model of an encoder under a name of its own, which is taken out again."""
    names: list[str] = []

    def build(encoder: type[SequenceEncoder], **settings: object):
        name = f"outside_{encoder.__name__.lower()}"
        names.append(name)
        MODELS.register(name)(encoder)
        return build_model(name, Schema(14, 11), settings)

    yield build
    for name in names:
        MODELS.parts.pop(name, None)


def test_an_encoder_that_keeps_the_contract_is_a_model_and_draws_nothing_of_the_callers(named):
    torch.manual_seed(3)
    expected = Mean(dim=8), torch.rand(1)
    torch.manual_seed(3)
    mean = Mean(dim=8)
    check_encoder(mean, 8, 50)
    assert mean.training
    torch.testing.assert_close(torch.rand(1), expected[1])
    model = named(Mean, dim=8, history_length=1)
    assert model.tower.training
    assert model_parameters("outside_mean")["share"] == 0.1


@pytest.mark.parametrize(
    ("encoder", "said"),
    [
        (Future, "encoder Future reads later events: its first states change with the last event"),
        (Padded, "encoder Padded reads what stands at padded places: use its mask"),
        (Short, r"encoder Short gives \[2, 64\] for events \[2, 6, 64\]: one state a place is wanted"),
        (Nothing, r"encoder Nothing fails on events \[2, 6, 64\]: Nothing does not read a sequence"),
        (Unready, "encoder Unready cannot be built: cannot assign module before"),
        (Positional, r"encoder Positional: dim, rate must be keywords alone: def __init__\(self, \*, dim, …\)"),
        (Bare, "encoder Bare: rate must have a default, as all settings have"),
    ],
)
def test_one_that_does_not_is_refused_in_one_line(named, encoder, said):
    with pytest.raises(InputError, match=said) as caught:
        named(encoder)
    assert "\n" not in str(caught.value)


def test_our_own_encoders_pass_the_check(named):
    for name in ("sasrec", "gru4rec", "lrurec", "caser", "mamba4rec", "hstu", "ligr"):
        model = build_model(name, Schema(14, 11), {"dim": 8})
        check_encoder(model.tower, 8, 50)


@pytest.mark.parametrize(
    ("build", "said"),
    [
        (lambda: Caser(dim=8, window=101), "window must be at most 100, got 101"),
        (lambda: HSTU(dim=8, length=4, time_buckets=141), "time_buckets must be at most 140, got 141"),
        (lambda: ContrastVAE(dim=8, length=4, contrast_temperature=1e-9), "contrast_temperature must be finite and at"),
    ],
)
def test_sizes_that_no_log_needs_are_refused(build, said):
    with pytest.raises(ValueError, match=said):
        build()


def test_as_many_buckets_of_time_as_fit_into_64_bits():
    assert HSTU(dim=8, length=4, time_buckets=140) is not None
