"""Schedules, both processes, drift and the U-Net against the papers' formulas, number by number in float64."""

from __future__ import annotations

import itertools
import math

import pytest
import torch
from torch import Tensor

from twotower.towers.diffusion.drift import drifts, next_vectors, unit_variance
from twotower.towers.diffusion.forward import Diffusion
from twotower.towers.diffusion.schedules import SCHEDULES, betas
from twotower.towers.diffusion.unet import UNet

STEPS = (1, 2, 10, 50, 200)
ROWS, LENGTH, DIM = 3, 7, 4


def close(found: Tensor, expected: Tensor) -> None:
    torch.testing.assert_close(found, expected, rtol=1e-9, atol=1e-10)


def normal(*shape: int) -> Tensor:
    return torch.randn(*shape, dtype=torch.float64)


class TestSchedules:
    @pytest.mark.parametrize("name", SCHEDULES)
    @pytest.mark.parametrize("steps", STEPS)
    def test_every_beta_lies_between_the_ends_and_none_falls(self, name, steps):
        found = betas(name, steps=steps, first=1e-4, last=0.999)
        assert len(found) == steps
        assert found.dtype == torch.float64
        assert (found > 0).all()
        assert (found < 1).all()
        assert found[-1].item() == pytest.approx(0.999)
        assert steps == 1 or found[0].item() == pytest.approx(1e-4)
        assert (found.diff() > 0).all()

    def test_the_formulas_are_those_of_the_names(self):
        first, last, steps = 0.02, 0.5, 10
        b = math.log(last / first) / (steps - 1)
        a = first / math.exp(b)
        for r in range(1, steps + 1):
            expected = {
                "exponential": a * math.exp(b * r),
                "linear": first + (last - first) * (r - 1) / (steps - 1),
                "logarithmic": first + (last - first) * math.log(r) / math.log(steps),
            }
            for name in SCHEDULES:
                found = betas(name, steps=steps, first=first, last=last)[r - 1].item()
                assert found == pytest.approx(expected[name], rel=1e-12), name

    @pytest.mark.parametrize(
        ("wrong", "message"),
        [
            ({"steps": 0}, "noise_steps must be at least 1, got 0"),
            ({"first": 0.0}, "0 < first_beta <= last_beta < 1"),
            ({"last": 1.0}, "0 < first_beta <= last_beta < 1"),
            ({"first": 0.6}, "0 < first_beta <= last_beta < 1"),
            ({"last": math.nan}, "0 < first_beta <= last_beta < 1"),
            ({"schedule": "cosine"}, "schedule must be one of exponential, linear, logarithmic"),
        ],
    )
    def test_a_schedule_that_is_none_is_refused_in_one_line(self, wrong, message):
        given = {"schedule": "linear", "steps": 5, "first": 0.1, "last": 0.5} | wrong
        with pytest.raises(ValueError, match=message) as refused:
            betas(given.pop("schedule"), **given)
        assert "\n" not in str(refused.value)


@pytest.fixture(params=SCHEDULES)
def diffusion(request: pytest.FixtureRequest) -> Diffusion:
    return Diffusion(betas(request.param, steps=10, first=0.01, last=0.7))


def share_left(diffusion: Diffusion, schedule_betas: list[float], step: int) -> float:
    return math.prod(1 - beta for beta in schedule_betas[:step])


class TestProcesses:
    def betas_of(self, diffusion: Diffusion) -> list[float]:
        kept = diffusion.kept.tolist()
        return [1 - now / before for before, now in itertools.pairwise(kept)]

    def test_one_jump_into_noise_is_step_after_step(self, diffusion):
        """The mean and the variance of q(x_t | x_0), from those of q(x_t | x_(t-1))."""
        x_0 = normal(ROWS, LENGTH, DIM)
        mean, variance = x_0, 0.0
        for t, beta in enumerate(self.betas_of(diffusion), start=1):
            mean, variance = math.sqrt(1 - beta) * mean, (1 - beta) * variance + beta
            step = torch.full((ROWS,), t)
            close(diffusion.noised(x_0, step, torch.zeros_like(x_0)), mean)
            spread = diffusion.noised(x_0, step, torch.ones_like(x_0)) - mean
            close(spread.square(), torch.full_like(x_0, variance))

    def test_each_row_has_its_own_step(self, diffusion):
        x_0, noise = normal(ROWS, LENGTH, DIM), normal(ROWS, LENGTH, DIM)
        together = diffusion.noised(x_0, torch.tensor([1, 10, 4]), noise)
        for row, step in enumerate((1, 10, 4)):
            part = slice(row, row + 1)
            close(diffusion.noised(x_0[part], torch.tensor([step]), noise[part]), together[part])

    def test_the_posterior_is_that_of_bayes(self, diffusion):
        """q(x_(t-1) | x_t, x_0) is proportional to q(x_t | x_(t-1)) q(x_(t-1) | x_0): precisions add up."""
        x_0, x_t = normal(ROWS, LENGTH, DIM), normal(ROWS, LENGTH, DIM)
        steps = self.betas_of(diffusion)
        for t in range(2, 11):
            beta, left = steps[t - 1], share_left(diffusion, steps, t - 1)
            precision = (1 - beta) / beta + 1 / (1 - left)
            expected = (math.sqrt(1 - beta) / beta * x_t + math.sqrt(left) / (1 - left) * x_0) / precision
            mean, variance = diffusion.posterior(x_t, x_0, torch.full((ROWS,), t))
            close(mean, expected)
            close(variance, torch.full_like(variance, 1 / precision))

    def test_the_first_step_back_is_x_0_itself(self, diffusion):
        x_0, x_t = normal(ROWS, LENGTH, DIM), normal(ROWS, LENGTH, DIM)
        mean, variance = diffusion.posterior(x_t, x_0, torch.ones(ROWS, dtype=torch.int64))
        close(mean, x_0)
        close(variance, torch.zeros_like(variance))
        close(diffusion.jump(x_t, x_0, 1, 0), x_0)
        close(diffusion.jump(x_t, x_0, 10, 0, eta=1.0, noise=normal(ROWS, LENGTH, DIM)), x_0)

    def test_a_full_draw_of_one_step_takes_the_square_root_of_the_variance(self, diffusion):
        x_0, x_t, noise = (normal(ROWS, LENGTH, DIM) for _ in range(3))
        for t in range(2, 11):
            mean, variance = diffusion.posterior(x_t, x_0, torch.full((ROWS,), t))
            close(diffusion.jump(x_t, x_0, t, t - 1, eta=1.0, noise=noise), mean + variance.sqrt() * noise)

    @pytest.mark.parametrize("eta", [0.0, 0.5, 1.0])
    def test_a_jump_keeps_the_noise_that_belongs_to_its_step(self, diffusion, eta):
        """From x_t ~ q(x_t | x_0) every jump gives x_s ~ q(x_s | x_0): variances 1 - A_s, whatever eta."""
        x_0 = torch.zeros(1, dtype=torch.float64)
        for step, target in ((10, 4), (7, 6), (3, 1)):
            now, then = (diffusion.kept[place].item() for place in (step, target))
            one = torch.full_like(x_0, math.sqrt(1 - now))
            of_x_t = diffusion.jump(one, x_0, step, target, eta=eta).item()
            of_noise = diffusion.jump(torch.zeros_like(x_0), x_0, step, target, eta=eta, noise=torch.ones_like(x_0))
            assert of_x_t**2 + of_noise.item() ** 2 == pytest.approx(1 - then, rel=1e-9)

    def test_a_perfect_network_restores_everything_in_any_number_of_passes(self, diffusion):
        x_0 = normal(ROWS, LENGTH, DIM)
        asked: list[int] = []

        def knows(x_t: Tensor, step: Tensor) -> Tensor:
            asked.append(int(step[0]))
            assert step.shape == (ROWS,)
            return x_0

        for count in (1, 4, 10):
            asked.clear()
            close(diffusion.reverse(knows, normal(count, ROWS, LENGTH, DIM), count=count, eta=1.0), x_0)
            assert len(asked) == count
            assert asked[0] == 10
            assert asked == sorted(set(asked), reverse=True)

    def test_the_whole_reverse_process_is_draw_after_draw_of_the_posterior(self, diffusion):
        noise, weight = normal(10, ROWS, LENGTH, DIM), normal(DIM, DIM)

        def predict(x_t: Tensor, step: Tensor) -> Tensor:
            return torch.tanh(x_t @ weight + step[:, None, None] / 10)

        x = noise[0]
        for draw, t in enumerate(range(10, 0, -1), start=1):
            step = torch.full((ROWS,), t)
            mean, variance = diffusion.posterior(x, predict(x, step), step)
            x = mean if t == 1 else mean + variance.sqrt() * noise[draw]
        close(diffusion.reverse(predict, noise, count=10, eta=1.0), x)

    @pytest.mark.parametrize("count", [0, 11])
    def test_passes_that_no_path_has_are_refused(self, diffusion, count):
        with pytest.raises(ValueError, match="restore_steps must be from 1 to noise_steps = 10"):
            diffusion.visited(count)


class TestDrift:
    def test_drift_and_its_use_are_the_way_there_and_back(self):
        x, following = normal(ROWS, LENGTH, DIM), normal(ROWS, LENGTH, DIM)
        mask = torch.arange(LENGTH).expand(ROWS, LENGTH) < torch.tensor([[7], [2], [0]])
        found = drifts(x, following, mask)
        for row, length in enumerate((7, 2, 0)):
            for place in range(LENGTH):
                expected = following[row, place] - x[row, place] if place < length else torch.zeros_like(x[0, 0])
                close(found[row, place], expected)
        close(next_vectors(found, x)[mask], following[mask])

    def test_unit_variance_is_a_mean_square_of_one_in_the_same_direction(self):
        x = torch.cat([0.01 * normal(5, DIM), torch.zeros(1, DIM, dtype=torch.float64)])
        found = unit_variance(x)
        torch.testing.assert_close(found[:5].square().mean(1), torch.ones(5, dtype=torch.float64), rtol=1e-5, atol=0)
        torch.testing.assert_close((found * x).sum(1)[:5], found.norm(dim=1)[:5] * x.norm(dim=1)[:5])
        assert not found[5].any()


@pytest.fixture(params=[(causal, depth) for causal in (True, False) for depth in (0, 1, 2)], ids=str)
def unet(request: pytest.FixtureRequest) -> UNet:
    causal, depth = request.param
    network = UNet(dim=DIM, channels=5, depth=depth, kernel=3, causal=causal).double()
    with torch.no_grad():
        for weight in network.parameters():
            weight += 0.2 * torch.randn_like(weight)
    return network


@pytest.fixture
def given() -> tuple[Tensor, Tensor, Tensor]:
    return normal(ROWS, LENGTH, DIM), normal(ROWS, LENGTH, DIM), torch.tensor([1, 50, 7])


class Slow:
    """The U-Net of one row, place by place; a place that is not there is None."""

    def __init__(self, unet: UNet, step: int) -> None:
        self.unet = unet
        half = (unet.channels + 1) // 2
        assert unet.rates.tolist() == pytest.approx([10_000.0 ** (-k / half) for k in range(half)], rel=1e-6)
        angles = [step * rate for rate in unet.rates.tolist()]  # float32 as they are kept
        sines = [math.sin(a) for a in angles] + [math.cos(a) for a in angles]
        self.step = unet.step(torch.tensor(sines[: unet.channels], dtype=torch.float64))

    def convolve(self, layer: torch.nn.Conv1d, x: list[Tensor | None], places: list[int]) -> Tensor:
        found = layer.bias.clone()
        for tap, place in enumerate(places):
            if 0 <= place < len(x) and x[place] is not None:
                found = found + layer.weight[:, :, tap] @ x[place]
        return found

    def block(self, block: torch.nn.Module, x: list[Tensor | None]) -> list[Tensor | None]:
        offsets = (-2, -1, 0) if self.unet.causal else (-1, 0, 1)

        def layer(norm, convolution, values, add):
            ready = [None if v is None else torch.nn.functional.silu(norm(v)) for v in values]
            return [
                None if v is None else self.convolve(convolution.convolution, ready, [t + o for o in offsets]) + add
                for t, v in enumerate(values)
            ]

        inner = layer(block.first_norm, block.first, x, block.step(self.step))
        outer = layer(block.second_norm, block.second, inner, 0.0)
        return [None if v is None else block.passed(v) + o for v, o in zip(x, outer, strict=True)]

    def __call__(self, x_t: Tensor, history: Tensor) -> Tensor:
        unet = self.unet
        x = [unet.enter(torch.cat([a, b])) for a, b in zip(x_t, history, strict=True)]
        levels = []
        for block, halve in zip(unet.down, unet.halve, strict=True):
            x = self.block(block, x)
            levels.append(x)
            first = -1 if unet.causal else 0
            pairs = [[place, place + 1] for place in range(first, len(x), 2)]
            x = [self.convolve(halve, x, pair) for pair in pairs]
        x = self.block(unet.middle, x)
        for block, skipped in zip(unet.up, reversed(levels), strict=True):
            x = self.block(block, [torch.cat([x[t // 2], v]) for t, v in enumerate(skipped)])
        return torch.stack([unet.leave(unet.norm(v)) for v in x])


class TestUNet:
    @pytest.mark.parametrize("length", [1, 2, 3, 5, 7])
    def test_it_is_what_the_place_by_place_form_gives_whatever_stands_in_the_padding(self, unet, given, length):
        x_t, history, step = given
        mask = torch.arange(LENGTH).expand(ROWS, LENGTH) < length
        found = unet(x_t, history, mask, step)
        for row in range(ROWS):
            close(found[row, :length], Slow(unet, int(step[row]))(x_t[row, :length], history[row, :length]))

    def test_none_stands_for_zeros_and_one_step_for_that_of_every_row(self, unet, given):
        _, history, _ = given
        mask = torch.ones(ROWS, LENGTH, dtype=torch.bool)
        found = unet(None, history, mask, torch.tensor([4]))
        for row in range(ROWS):
            close(found[row], Slow(unet, 4)(torch.zeros_like(history[row]), history[row]))

    def test_lengths_of_one_batch_do_not_meet(self, unet, given):
        x_t, history, step = given
        lengths = torch.tensor([[7], [4], [1]])
        mask = torch.arange(LENGTH).expand(ROWS, LENGTH) < lengths
        found = unet(x_t, history, mask, step)
        for row, length in enumerate((7, 4, 1)):
            part = slice(row, row + 1)
            alone = unet(x_t[part, :length], history[part, :length], mask[part, :length], step[part])
            close(found[part, :length], alone)

    def test_a_later_place_changes_no_earlier_one_in_the_causal_form_alone(self, unet, given):
        x_t, history, step = given
        mask = torch.ones(ROWS, LENGTH, dtype=torch.bool)
        before = unet(x_t, history, mask, step)
        seen_ahead = False
        for place in range(1, LENGTH):
            other, later = x_t.clone(), history.clone()
            other[:, place:], later[:, place:] = normal(ROWS, LENGTH - place, DIM), normal(ROWS, LENGTH - place, DIM)
            after = unet(other, later, mask, step)
            assert not torch.isclose(after[:, place], before[:, place]).all()
            same = torch.isclose(after[:, :place], before[:, :place], rtol=1e-10, atol=1e-10).all()
            assert same or not unet.causal
            seen_ahead |= not same
        assert seen_ahead is not unet.causal

    def test_the_last_places_alone_are_those_of_the_whole(self, unet, given):
        if not unet.causal:
            pytest.skip("a place that looks ahead has no last places of its own")
        x_t, history, step = normal(ROWS, 41, DIM), normal(ROWS, 41, DIM), given[2]
        for length in (1, 2, 4, 7, 40, 41):
            mask = torch.arange(length).expand(ROWS, length) < torch.tensor([[length], [length - 1], [3]])
            whole = unet(x_t[:, :length], history[:, :length], mask, step)
            for last in (1, 2, 3, 5, 30):
                close(unet(x_t[:, :length], history[:, :length], mask, step, last), whole[:, -last:])

    def test_its_reach_is_the_farthest_place_that_changes_an_answer(self, unet):
        if not unet.causal:
            pytest.skip("it looks ahead")
        length = unet.reach + 2 * unet.grain
        x_t, step = normal(1, length, DIM), torch.tensor([5])
        mask = torch.ones(1, length, dtype=torch.bool)
        history = normal(1, length, DIM).requires_grad_()
        farthest = 0
        for place in range(length - unet.grain, length):
            (gradient,) = torch.autograd.grad(unet(x_t, history, mask, step)[0, place].sum(), history)
            farthest = max(farthest, place - int(gradient[0].any(1).nonzero()[0, 0]))
        assert unet.reach - unet.grain < farthest <= unet.reach

    def test_the_step_the_noise_and_the_history_all_matter(self, unet, given):
        x_t, history, step = given
        mask = torch.ones(ROWS, LENGTH, dtype=torch.bool)
        found = unet(x_t, history, mask, step)
        for other in ((x_t + 1, history, step), (x_t, history + 1, step), (x_t, history, step + 1)):
            assert not torch.isclose(unet(other[0], other[1], mask, other[2]), found).all(-1).any()

    def test_the_gradient_reaches_all_weights(self, unet, given):
        x_t, history, step = given
        (
            unet(x_t, history, torch.ones(ROWS, LENGTH, dtype=torch.bool), step) * normal(ROWS, LENGTH, DIM)
        ).sum().backward()
        for name, weight in unet.named_parameters():
            assert weight.grad is not None, name
            assert weight.grad.any(), name

    @pytest.mark.parametrize("wrong", [{"channels": 0}, {"depth": -1}, {"kernel": 0}, {"dim": 0}])
    def test_sizes_of_no_use_are_refused(self, wrong):
        with pytest.raises(ValueError, match="must be at least 1 and depth at least 0"):
            UNet(**{"dim": 4, **wrong})
