"""What every loss of positives against negatives keeps to; a loss named in `LOSSES` is a member by its line there."""

from __future__ import annotations

import inspect
from collections.abc import Callable
from typing import Any, NamedTuple

import pytest
import torch
from torch import Tensor

from twotower.core.errors import InputError
from twotower.losses.base import Loss
from twotower.losses.pairwise import Triplet
from twotower.losses.pointwise import SampledBCE
from twotower.losses.registry import LOSSES, build_loss

ROWS, CANDIDATES, ITEMS = 5, 7, 40

MEMBERS: dict[str, Callable[[], Any]] = {
    **{name: lambda name=name: build_loss(name, ITEMS) for name in LOSSES if name != "full_softmax"},
    "bce_calibrated": lambda: SampledBCE(num_items=ITEMS, calibration=0.5),
    "triplet_wide": lambda: Triplet(margin=2.0, weight_temperature=None),
}
"""The full softmax stands apart: it draws no negatives and takes vectors. Other settings of a loss: a line here."""
CONSTANT_WEIGHTS = {"triplet"}
"""Members that weigh candidates by numbers that take no gradient, as their docstrings say."""


class Input(NamedTuple):
    """What a loss is called with."""

    positive: Tensor
    negative: Tensor
    log_q: Tensor
    mask: Tensor


@pytest.fixture(params=MEMBERS)
def loss(request: pytest.FixtureRequest) -> Loss:
    return MEMBERS[request.param]()


def drawn(seed: int = 0, rows: int = ROWS) -> Input:
    source = torch.Generator().manual_seed(seed)
    mask = torch.rand(rows, CANDIDATES, generator=source) < 0.7
    mask[:, 0] = True
    return Input(
        torch.randn(rows, generator=source, dtype=torch.float64),
        torch.randn(rows, CANDIDATES, generator=source, dtype=torch.float64),
        torch.randn(CANDIDATES, generator=source, dtype=torch.float64) - 2.0,
        mask,
    )


class TestLoss:
    """One class for all."""

    def test_is_a_loss(self, loss):
        assert isinstance(loss, Loss)
        names = list(inspect.signature(type(loss).forward).parameters)[1:]
        assert names[:4] == ["positive_scores", "negative_scores", "negative_log_q", "negative_mask"]

    def test_is_one_finite_number(self, loss):
        value = loss(*drawn())
        assert value.shape == ()
        assert value.dtype == torch.float64
        assert value.isfinite()

    def test_is_the_mean_of_what_each_row_gives_alone(self, loss):
        positive, negative, log_q, mask = drawn()
        alone = [
            loss(positive[row : row + 1], negative[row : row + 1], log_q, mask[row : row + 1]) for row in range(ROWS)
        ]
        torch.testing.assert_close(loss(positive, negative, log_q, mask), torch.stack(alone).mean())

    def test_the_order_of_candidates_does_not_matter(self, loss):
        given = drawn()
        order = torch.tensor([3, 0, 6, 1, 5, 2, 4])
        other = loss(given.positive, given.negative[:, order], given.log_q[order], given.mask[:, order])
        torch.testing.assert_close(other, loss(*given))

    def test_log_q_of_each_row_is_that_of_all_repeated(self, loss):
        given = drawn()
        repeated = given._replace(log_q=given.log_q.expand(ROWS, -1).clone())
        torch.testing.assert_close(loss(*repeated), loss(*given))

    def test_what_the_mask_leaves_out_changes_nothing_and_takes_no_gradient(self, loss):
        given = drawn()
        wild = torch.where(given.mask, given.negative, 50.0 * given.negative + 3.0).requires_grad_()
        value = loss(given.positive, wild, given.log_q, given.mask)
        torch.testing.assert_close(value, loss(*given))
        (gradient,) = torch.autograd.grad(value, wild)
        assert gradient[~given.mask].eq(0.0).all()
        assert not gradient[given.mask].eq(0.0).all()

    def test_better_positives_and_worse_negatives_never_cost_more(self, loss):
        given = drawn()
        value = loss(*given)
        assert loss(*given._replace(positive=given.positive + 0.5)) <= value + 1e-12
        assert loss(*given._replace(negative=given.negative - 0.5)) <= value + 1e-12
        assert loss(*given._replace(positive=given.positive + 0.5)) < loss(
            *given._replace(positive=given.positive - 3.0)
        )

    def test_gradients_pull_the_positive_and_push_negatives(self, loss):
        given = drawn()
        positive, negative = given.positive.requires_grad_(), given.negative.requires_grad_()
        pull, push = torch.autograd.grad(loss(*given), [positive, negative])
        assert (pull <= 0.0).all()
        assert (push >= 0.0).all()
        assert pull.lt(0.0).any()
        assert push.gt(0.0).any()

    def test_gradients_are_those_of_differences(self, loss, request):
        if request.node.callspec.params["loss"] in CONSTANT_WEIGHTS:
            pytest.skip("its weights take no gradient, as documented")
        given = drawn(seed=3)
        scores = (given.positive.requires_grad_(), given.negative.requires_grad_())
        assert torch.autograd.gradcheck(lambda one, other: loss(one, other, given.log_q, given.mask), scores)

    @pytest.mark.parametrize("size", [1e4, -1e4])
    def test_extreme_scores_stay_finite(self, loss, size):
        positive = torch.full((2,), -size).requires_grad_()
        negative = torch.full((2, 3), size).requires_grad_()
        value = loss(positive, negative, torch.zeros(3), torch.ones(2, 3, dtype=torch.bool))
        assert value.isfinite()
        assert all(part.isfinite().all() for part in torch.autograd.grad(value, [positive, negative]))

    def test_half_precision_is_added_up_in_float32(self, loss):
        positive, negative, log_q, mask = drawn()
        value = loss(positive.bfloat16(), negative.bfloat16(), log_q.float(), mask)
        assert value.dtype == torch.float32
        torch.testing.assert_close(value.double(), loss(positive, negative, log_q, mask), rtol=0.05, atol=0.05)

    def test_it_keeps_no_state_from_call_to_call(self, loss):
        first = loss(*drawn())
        loss(*drawn(seed=5))
        assert loss(*drawn()).equal(first)

    def test_reads_the_log_q_of_the_positive_where_it_says_so(self, loss):
        given = drawn()
        own = torch.linspace(-4.0, -1.0, ROWS, dtype=torch.float64)
        if getattr(loss, "reads_positive_log_q", False):
            assert loss(*given, own) != loss(*given)
            torch.testing.assert_close(loss(*given, torch.zeros(ROWS, dtype=torch.float64)), loss(*given))
        else:
            torch.testing.assert_close(loss(*given, own), loss(*given))

    @pytest.mark.bad_input
    @pytest.mark.parametrize(
        "wrong",
        [
            {"positive": torch.zeros(ROWS, 1)},
            {"positive": torch.zeros(ROWS - 1)},
            {"log_q": torch.zeros(CANDIDATES + 1)},
            {"mask": torch.ones(ROWS, 1, dtype=torch.bool)},
        ],
        ids=["positive of two axes", "a row short", "log q too long", "mask too narrow"],
    )
    def test_shapes_that_do_not_belong_together_are_refused(self, loss, wrong):
        with pytest.raises(InputError, match="expected positive scores"):
            loss(*drawn()._replace(**wrong))

    def test_no_rows_have_no_mean(self, loss):
        with pytest.raises(InputError, match="no rows"):
            loss(*drawn(rows=0))


def test_the_contract_refuses_a_loss_that_adds_up_instead_of_averaging():
    """A fault planted in a loss of the test's own is seen."""

    class Summed(SampledBCE):
        def forward(self, *given: Any) -> Tensor:
            return super().forward(*given) * len(given[0])

    with pytest.raises(AssertionError):
        TestLoss().test_is_the_mean_of_what_each_row_gives_alone(Summed())
