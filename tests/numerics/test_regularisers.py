"""Regularisers of vectors against loops over Python floats, their gradients, and the term they add to an objective."""

import itertools
import math

import pytest
import torch

from twotower.core.errors import InputError
from twotower.core.records import Encoded
from twotower.losses.decorrelate import centring, decorrelation, uniformity
from twotower.training.regularise import Regulariser


def unit(row: list[float]) -> list[float]:
    length = math.sqrt(sum(x * x for x in row))
    return [x / length for x in row]


def slow_uniformity(rows: list[list[float]], scale: float) -> float:
    terms = []
    for a, b in itertools.permutations([unit(row) for row in rows], 2):
        terms.append(math.exp(-scale * sum((x - y) ** 2 for x, y in zip(a, b, strict=True))))
    return math.log(sum(terms) / len(terms))


def slow_correlation(first: list[float], second: list[float]) -> float:
    mean_a, mean_b = sum(first) / len(first), sum(second) / len(second)
    both = sum((a - mean_a) * (b - mean_b) for a, b in zip(first, second, strict=True))
    spread = sum((a - mean_a) ** 2 for a in first) * sum((b - mean_b) ** 2 for b in second)
    return both / math.sqrt(spread) if spread else 0.0


def slow_decorrelation(rows: list[list[float]]) -> float:
    columns = [list(column) for column in zip(*rows, strict=True)]
    return sum(slow_correlation(a, b) ** 2 for a, b in itertools.permutations(columns, 2)) / len(columns)


def slow_centring(rows: list[list[float]]) -> float:
    units = [unit(row) for row in rows]
    return sum((sum(column) / len(units)) ** 2 for column in zip(*units, strict=True))


CASES = [
    (lambda x: uniformity(x, scale=1.5), lambda rows: slow_uniformity(rows, 1.5)),
    (uniformity, lambda rows: slow_uniformity(rows, 2.0)),
    (decorrelation, slow_decorrelation),
    (centring, slow_centring),
]


def draw(rows: int, dim: int) -> torch.Tensor:
    return torch.randn(rows, dim, dtype=torch.float64) * torch.linspace(0.5, 3.0, dim, dtype=torch.float64) + 0.7


@pytest.mark.parametrize(("fast", "slow"), CASES)
@pytest.mark.parametrize(("rows", "dim"), [(2, 3), (7, 4), (5, 9)])
def test_matches_slow_loop(fast, slow, rows, dim):
    x = draw(rows, dim)
    assert fast(x).item() == pytest.approx(slow(x.tolist()), rel=1e-10, abs=1e-12)


@pytest.mark.parametrize("fast", [uniformity, decorrelation, centring])
def test_gradients(fast):
    assert torch.autograd.gradcheck(fast, draw(6, 4).requires_grad_())


def test_ends_of_the_scales():
    same = torch.ones(5, 4, dtype=torch.float64) * torch.tensor([[1.0], [2.0], [0.5], [3.0], [1.0]])
    assert uniformity(same).item() == pytest.approx(0.0, abs=1e-12)
    assert centring(same).item() == pytest.approx(1.0)
    line = torch.tensor([[1.0], [2.0], [-4.0]], dtype=torch.float64) * torch.tensor([[1.0, 2.0, -3.0, 0.5]])
    assert decorrelation(line).item() == pytest.approx(3.0)
    cross = torch.tensor([[1.0, 0], [-1, 0], [0, 1], [0, -1]])
    assert centring(cross).item() == pytest.approx(0.0, abs=1e-12)
    assert decorrelation(cross).item() == pytest.approx(0.0, abs=1e-12)


@pytest.mark.parametrize("fast", [uniformity, decorrelation, centring])
def test_length_of_all_rows_has_no_effect_and_sums_are_wide(fast):
    x = draw(9, 5)
    torch.testing.assert_close(fast(1000.0 * x), fast(x))
    assert fast(x.bfloat16()).dtype == torch.float32


def test_constant_dimension_and_zero_rows_keep_finite_gradients():
    x = draw(6, 4)
    x[:, 2] = 0.1
    x.requires_grad_()
    expected = slow_decorrelation(x.tolist())
    assert decorrelation(x).item() == pytest.approx(expected, rel=1e-9)
    decorrelation(x).backward()
    assert x.grad.isfinite().all()

    y = draw(5, 3)
    y[1] = 0.0
    y.requires_grad_()
    assert uniformity(y).item() == pytest.approx(slow_uniformity(y[[0, 2, 3, 4]].tolist(), 2.0))
    (uniformity(y) + centring(y)).backward()
    assert y.grad.isfinite().all()
    assert not y.grad[1].any()


@pytest.mark.parametrize("fast", [uniformity, decorrelation, centring])
def test_too_few_vectors(fast):
    with pytest.raises(InputError, match="at least two vectors"):
        fast(torch.ones(1, 3))


def test_a_step_against_each_term_lowers_it():
    x = draw(40, 6).requires_grad_()
    for term in (uniformity, decorrelation, centring):
        (grad,) = torch.autograd.grad(term(x), x)
        assert term(x - 0.1 * grad) < term(x)


class TestRegulariser:
    """The sum over sides: each known item once, users as they come."""

    users, states = draw(4, 3), draw(4, 3)
    ids = torch.tensor([5, 3, 5, 1])

    def encoded(self, items):
        return Encoded(self.users, items, self.ids, {})

    def test_counts_each_known_item_once(self):
        found = Regulariser({"centring": 2.0, "uniformity": 0.5})(self.encoded(self.states))
        items = self.states[[1, 0]]
        expected = sum(2.0 * centring(x) + 0.5 * uniformity(x) for x in (self.users, items)) / 2
        torch.testing.assert_close(found, expected)

    def test_takes_items_from_the_table_of_all(self):
        table = draw(8, 3)
        found = Regulariser({"decorrelation": 1.0})(self.encoded(None), table)
        torch.testing.assert_close(found, (decorrelation(self.users) + decorrelation(table[[3, 5]])) / 2)

    def test_adds_nothing_by_default_and_passes_by_a_side_with_one_row(self):
        assert Regulariser({})(self.encoded(None)) == 0.0
        alone = Encoded(self.users[:1], self.states[:1], self.ids[:1], {})
        assert Regulariser({"centring": 1.0})(alone) == 0.0

    def test_a_large_batch_is_thinned_evenly(self):
        users = draw(3000, 2)
        found = Regulariser({"centring": 1.0})(Encoded(users, users[:1], torch.tensor([2]), {}))
        torch.testing.assert_close(found, centring(users[::3]) / 2)
