"""The quantiser against loops in float64."""

from __future__ import annotations

import math

import pytest
import torch

from twotower.towers.codes.quantiser import Quantiser

ROWS, TOKENS, DIM, CODES = 40, 3, 8, 5


def test_loaded_codes_have_started_and_codes_of_before_have_not():
    before, after = Quantiser(DIM, tokens=TOKENS, codes=4), Quantiser(DIM, tokens=TOKENS, codes=4)
    fresh = {name: value.clone() for name, value in before.state_dict().items()}
    assert not after.begun
    before.start(torch.randn(ROWS, TOKENS, DIM))
    assert before.begun
    after.load_state_dict(before.state_dict())
    assert after.begun
    after.load_state_dict(fresh)
    assert not after.begun


def started(**settings) -> Quantiser:
    quantiser = Quantiser(DIM, **({"tokens": TOKENS, "codes": CODES, "revive": 0.0} | settings))
    quantiser.start(torch.randn(ROWS, TOKENS, DIM))
    return quantiser


def group_of(quantiser: Quantiser, token: int, book: int) -> int:
    return book if quantiser.shared else token * quantiser.books + book


@pytest.mark.parametrize("books", [1, 2, 4])
@pytest.mark.parametrize("shared", [False, True])
def test_each_part_takes_its_nearest_code(books, shared):
    quantiser, tokens = started(books=books, shared=shared).eval(), torch.randn(ROWS, TOKENS, DIM)
    found = quantiser(tokens)
    assert found.codes.shape == (ROWS, TOKENS, books)
    wide = DIM // books
    for row in range(ROWS):
        for token in range(TOKENS):
            for book in range(books):
                part = tokens[row, token, book * wide : (book + 1) * wide].double()
                centres = quantiser.centres[group_of(quantiser, token, book)].double()
                nearest = (centres - part).square().sum(1).argmin()
                assert found.codes[row, token, book] == nearest
                torch.testing.assert_close(
                    found.vectors[row, token, book * wide : (book + 1) * wide].double(),
                    centres[nearest],
                    atol=1e-6,
                    rtol=0,
                )


def test_codes_follow_the_moving_average_of_their_tokens():
    quantiser = started(decay=0.9).train()
    centres, counts, sums = (part.double().clone() for part in (quantiser.centres, quantiser.counts, quantiser.sums))
    for _ in range(3):
        tokens = torch.randn(ROWS, TOKENS, DIM)
        for token in range(TOKENS):
            taken = [(centres[token] - row).square().sum(1).argmin().item() for row in tokens[:, token].double()]
            for code in range(CODES):
                own = [tokens[row, token].double() for row in range(ROWS) if taken[row] == code]
                counts[token, code] = 0.9 * counts[token, code] + 0.1 * len(own) / ROWS
                sums[token, code] = 0.9 * sums[token, code] + 0.1 * sum(own, torch.zeros(DIM).double()) / ROWS
            centres[token] = sums[token] / counts[token][:, None]
        quantiser(tokens)
    torch.testing.assert_close(quantiser.centres.double(), centres, rtol=1e-4, atol=1e-6)
    quantiser.eval()(tokens)
    torch.testing.assert_close(quantiser.centres.double(), centres, rtol=1e-4, atol=1e-6)


def test_the_gradient_passes_straight_through_or_not_at_all():
    for gradient, expected in (("straight_through", 1.0), ("stop_gradient", None)):
        quantiser, tokens = started(gradient=gradient), torch.randn(ROWS, TOKENS, DIM, requires_grad=True)
        vectors = quantiser(tokens).vectors
        if expected is None:
            assert not vectors.requires_grad
        else:
            vectors.sum().backward()
            assert tokens.grad.eq(expected).all()


def test_commitment_is_a_mean_over_numbers_and_pulls_the_tokens_alone():
    quantiser, tokens = started(update="gradient"), torch.randn(ROWS, TOKENS, DIM, requires_grad=True)
    before = quantiser.centres.detach().clone()
    found = quantiser(tokens)
    chosen = found.vectors.detach()
    assert found.losses["commitment"].item() == pytest.approx((tokens - chosen).square().mean().item(), rel=1e-5)
    found.losses["commitment"].backward(retain_graph=True)
    torch.testing.assert_close(tokens.grad, 2 * (tokens - chosen).detach() / tokens.numel())
    assert quantiser.centres.grad is None
    found.losses["codebook"].backward()
    assert quantiser.centres.grad.any()
    assert quantiser.centres.equal(before)
    assert not quantiser.eval()(tokens).losses


def test_tokens_pass_as_they_are_until_codes_start_at_kmeans_centres():
    quantiser, tokens = Quantiser(DIM, tokens=TOKENS, codes=CODES), torch.randn(ROWS, TOKENS, DIM)
    found = quantiser(tokens)
    assert found.vectors is tokens
    assert found.codes.eq(-1).all()
    quantiser.start(tokens)
    after = (quantiser.eval()(tokens).vectors - tokens).square().sum(-1).mean()
    spread = (tokens - tokens.mean(0)).square().sum(-1).mean()
    assert after < 0.8 * spread


def test_a_dead_code_comes_back_at_a_token():
    quantiser = started(revive=0.2, decay=0.5)
    quantiser.centres[0, 0] = 99.0
    quantiser.sums[0, 0] = quantiser.counts[0, 0] * 99.0
    tokens = torch.randn(ROWS, TOKENS, DIM)
    for _ in range(8):
        quantiser(tokens)
    assert quantiser.centres[0, 0].abs().max() < 10
    never = started(decay=0.5)
    never.centres[0, 0] = 99.0
    never.sums[0, 0] = never.counts[0, 0] * 99.0
    for _ in range(8):
        never(tokens)
    assert never.centres[0, 0].min() > 90


def test_fewer_tokens_than_codes_still_start():
    quantiser = Quantiser(DIM, tokens=TOKENS, codes=64)
    quantiser.start(torch.randn(10, TOKENS, DIM))
    assert quantiser(torch.randn(10, TOKENS, DIM)).vectors.isfinite().all()


def test_use_counts_codes_and_their_perplexity():
    quantiser = Quantiser(2, codes=4, revive=0.0)
    quantiser.start(torch.tensor([[[0.0, 0.0]], [[9.0, 0.0]], [[0.0, 9.0]], [[9.0, 9.0]]]))
    quantiser(torch.tensor([[[0.1, 0.0]]] * 3 + [[[9.0, 0.1]]]))
    use = quantiser.use()
    entropy = -(0.75 * math.log(0.75) + 0.25 * math.log(0.25))
    assert use == pytest.approx((0.5, math.exp(entropy) / 4, 0.75), rel=1e-5)
    assert quantiser.use().used == 0.0


@pytest.mark.parametrize(
    "settings", [{"books": 3}, {"codes": 0}, {"gradient": "none"}, {"update": "adam"}, {"decay": 1.0}, {"revive": 1.0}]
)
def test_bad_settings_are_refused(settings):
    with pytest.raises(ValueError):
        Quantiser(DIM, **settings)
