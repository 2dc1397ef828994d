"""What every tower of `TOWERS` keeps to: networks from the fields of one side to its vector."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import pytest
import torch
from safetensors.torch import load_model, save_model
from torch import Tensor, nn

from twotower.core.errors import InputError
from twotower.models.registry import build_model
from twotower.towers.registry import TOWERS, build_tower

ROWS, WIDTH, DIM = 5, 7, 3
RECTIFIED = {"relu_mlp"}
"""Towers that end in a ReLU, since a paper prints them so; no default."""


def of_ones_own(width: int, dim: int, *, hidden: Sequence[int], dropout: float, batch_norm: bool) -> nn.Module:
    """As somebody outside writes one."""
    return nn.Linear(width, dim)


@dataclass(frozen=True)
class Case:
    """A tower and the settings that it is built with."""

    name: str
    hidden: tuple[int, ...]
    batch_norm: bool = False

    def build(self, *, dropout: float = 0.0) -> nn.Module:
        torch.manual_seed(3)
        settings = {"hidden": self.hidden, "dropout": dropout, "batch_norm": self.batch_norm}
        if self.name == "own":
            return of_ones_own(WIDTH, DIM, **settings)
        return build_tower(self.name, WIDTH, DIM, **settings)


MEMBERS = [Case(name, hidden, norm) for name in TOWERS for hidden in ((), (6,), (6, 4)) for norm in (False, True)]
MEMBERS.append(Case("own", ()))


@pytest.fixture(params=MEMBERS, ids=lambda case: f"{case.name}-{len(case.hidden)}{'-norm' * case.batch_norm}")
def case(request: pytest.FixtureRequest) -> Case:
    return request.param


@pytest.fixture
def rows() -> Tensor:
    return torch.randn(ROWS, WIDTH, generator=torch.Generator().manual_seed(1))


class TestTower:
    """One class for all."""

    def test_gives_one_vector_a_row(self, case, rows):
        tower = case.build().eval()
        assert tower(rows).shape == (ROWS, DIM)
        assert tower(rows[:0]).shape == (0, DIM)
        assert tower(rows).isfinite().all()

    def test_a_row_is_encoded_alike_whatever_stands_beside_it(self, case, rows):
        tower = case.build().eval()
        alone = torch.cat([tower(row[None]) for row in rows])
        torch.testing.assert_close(alone, tower(rows))

    def test_a_vector_may_be_negative_unless_the_tower_says_otherwise(self, case):
        """Between two vectors without negative numbers no cosine is negative."""
        many = torch.randn(200, WIDTH, generator=torch.Generator().manual_seed(2))
        assert bool((case.build().eval()(many) < 0).any()) == (case.name not in RECTIFIED)

    def test_all_weights_are_trained(self, case, rows):
        tower = case.build().train()
        (tower(rows) * torch.arange(1.0, DIM + 1) * torch.arange(1.0, ROWS + 1)[:, None] ** 2).sum().backward()
        assert [name for name, weight in tower.named_parameters() if weight.grad is None] == []

    def test_dropout_is_for_training_alone(self, case, rows):
        tower = case.build(dropout=0.5).eval()
        assert torch.equal(tower(rows), tower(rows))
        plain = case.build().eval()
        torch.testing.assert_close(tower(rows), plain(rows))

    def test_saved_and_loaded_it_gives_the_same(self, case, rows, tmp_path):
        tower = case.build().train()
        tower(rows)
        save_model(tower, str(tmp_path / "w.safetensors"))
        torch.manual_seed(99)
        other = case.build()
        for weight in other.parameters():
            nn.init.normal_(weight)
        load_model(other, tmp_path / "w.safetensors")
        assert torch.equal(other.eval()(rows), tower.eval()(rows))


@pytest.mark.parametrize("name", TOWERS)
def test_the_two_tower_model_is_built_with_it(name, tiny_dataset):
    model = build_model("two_tower", tiny_dataset.schema, {"tower": name, "dim": DIM})
    assert model.encode_items(tiny_dataset.all_items()).shape[-1] == DIM


@pytest.mark.bad_input
@pytest.mark.parametrize("name", TOWERS)
def test_a_setting_out_of_range_is_one_line(name, tiny_dataset):
    for setting in ({"hidden": [0]}, {"dropout": 1.0}):
        with pytest.raises(InputError) as caught:
            build_model("two_tower", tiny_dataset.schema, {"tower": name, **setting})
        assert "\n" not in str(caught.value)
