"""Every sequence encoder against its paper's formula, place by place and number by number, in float64."""

from __future__ import annotations

import cmath
import itertools
import math

import pytest
import torch
from torch import Tensor

from twotower.towers.sequence.base import SequenceEncoder
from twotower.towers.sequence.bert4rec import BERT4Rec
from twotower.towers.sequence.caser import Caser
from twotower.towers.sequence.causal import CausalTransformer
from twotower.towers.sequence.contrast_vae import ContrastVAE, contrast, divergence
from twotower.towers.sequence.diffurec import DiffuRec
from twotower.towers.sequence.gru4rec import GRU4Rec
from twotower.towers.sequence.hstu import HSTU
from twotower.towers.sequence.ligr import LiGR
from twotower.towers.sequence.lrurec import LRURec
from twotower.towers.sequence.mamba4rec import Mamba4Rec
from twotower.towers.sequence.stosa import STOSA

LENGTH, DIM = 6, 4
Vector = list[float]


class Weights:
    """An encoder's weights as nested lists, by name."""

    def __init__(self, encoder: SequenceEncoder) -> None:
        self.all = {name: weight.tolist() for name, weight in encoder.named_parameters()}

    def __getitem__(self, name: str) -> list:
        return self.all[name]

    def linear(self, name: str, x: Vector) -> Vector:
        """W x + b, b only where there is one."""
        rows = self.all[f"{name}.weight"]
        bias = self.all.get(f"{name}.bias", [0.0] * len(rows))
        return [sum(w * n for w, n in zip(row, x, strict=True)) + b for row, b in zip(rows, bias, strict=True)]

    def norm(self, name: str, x: Vector, eps: float = 1e-5) -> Vector:
        """A layer norm."""
        mean = sum(x) / len(x)
        deviation = math.sqrt(sum((n - mean) ** 2 for n in x) / len(x) + eps)
        scale, shift = self.all[f"{name}.weight"], self.all[f"{name}.bias"]
        return [(n - mean) / deviation * a + b for n, a, b in zip(x, scale, shift, strict=True)]


def sigmoid(n: float) -> float:
    return 1 / (1 + math.exp(-n))


def silu(n: float) -> float:
    return n * sigmoid(n)


def gelu(n: float) -> float:
    return n * (1 + math.erf(n / math.sqrt(2))) / 2


def add(*vectors: Vector) -> Vector:
    return [sum(parts) for parts in zip(*vectors, strict=True)]


def times_each(a: Vector, b: Vector) -> Vector:
    return [m * n for m, n in zip(a, b, strict=True)]


def dot(a: Vector, b: Vector) -> float:
    return sum(times_each(a, b))


def ready(encoder: SequenceEncoder) -> tuple[SequenceEncoder, Weights]:
    encoder = encoder.double().eval()
    with torch.no_grad():
        for weight in encoder.parameters():
            weight += 0.3 * torch.randn_like(weight)
    return encoder, Weights(encoder)


def agree(encoder: SequenceEncoder, events: Tensor, expected: list[Vector], times: Tensor | None = None) -> None:
    found = encoder(events[None], torch.ones(1, LENGTH, dtype=torch.bool), None if times is None else times[None])
    torch.testing.assert_close(found[0], torch.tensor(expected, dtype=torch.float64), rtol=1e-9, atol=1e-10)


@pytest.fixture
def events() -> Tensor:
    return torch.randn(LENGTH, DIM, dtype=torch.float64)


@pytest.fixture
def times() -> Tensor:
    """Same second, seconds, minutes, a day, twenty years; the last one goes back."""
    return 1_000_000_000 + torch.tensor([0, 0, 3, 200, 86_400, 630_000_000])[torch.tensor([0, 1, 2, 3, 5, 4])]


def attention(queries: list[Vector], keys: list[Vector], values: list[Vector], heads: int, bias) -> list[Vector]:
    """Softmax attention of each place over itself and earlier ones; bias(i, j) is added before the softmax."""
    width = DIM // heads
    out = []
    for i in range(LENGTH):
        row: Vector = []
        for head in range(heads):
            part = slice(head * width, (head + 1) * width)
            logits = [dot(queries[i][part], keys[j][part]) / math.sqrt(width) + bias(i, j) for j in range(i + 1)]
            total = sum(math.exp(n) for n in logits)
            for d in range(part.start, part.stop):
                row.append(sum(math.exp(n) / total * values[j][d] for j, n in enumerate(logits)))
        out.append(row)
    return out


def thirds(rows: list[Vector]) -> list[list[Vector]]:
    return [[row[k * DIM : (k + 1) * DIM] for row in rows] for k in range(3)]


def sasrec(w: Weights, events: list[Vector], prefix: str = "") -> list[Vector]:
    """Two blocks of two heads, feed-forward with one hidden layer."""
    x = [add(event, w[f"{prefix}positions"][place]) for place, event in enumerate(events)]
    for block in (f"{prefix}blocks.0", f"{prefix}blocks.1"):
        q, k, v = thirds([w.linear(f"{block}.project_in", w.norm(f"{block}.attention_norm", row)) for row in x])
        mixed = attention(q, k, v, 2, lambda i, j: 0.0)
        x = [add(row, w.linear(f"{block}.project_out", new)) for row, new in zip(x, mixed, strict=True)]
        for place, row in enumerate(x):
            hidden = w.linear(f"{block}.feed_forward.0", w.norm(f"{block}.feed_forward_norm", row))
            x[place] = add(row, w.linear(f"{block}.feed_forward.2", [gelu(n) for n in hidden]))
    return [w.norm(f"{prefix}norm", row) for row in x]


def test_sasrec(events):
    encoder, w = ready(CausalTransformer(dim=DIM, layers=2, heads=2, length=LENGTH + 2, dropout=0.1, feed_forward=3))
    agree(encoder, events, sasrec(w, events.tolist()))


VAE = {"decoder_layers": 2, "feed_forward": 3, "kl_weight": 0.4, "anneal_steps": 10, "contrast_weight": 0.7}


@pytest.mark.parametrize("view", ["variational", "model"])
def test_contrast_vae(events, monkeypatch, view):
    encoder, w = ready(ContrastVAE(dim=DIM, length=LENGTH + 2, view=view, dropout=0.1, **VAE))
    users = [events.tolist(), events.flip(1).tolist()]
    noise = torch.randn(2, 2, LENGTH, DIM, dtype=torch.float64)
    drawn = list(noise)
    monkeypatch.setattr(torch, "randn_like", lambda _: drawn.pop(0))
    monkeypatch.setattr(torch, "rand", lambda *_, **__: torch.tensor([0.1, 0.9]))  # the first view, then the second
    encoder.steps.fill_(5)
    mask = torch.arange(LENGTH) < torch.tensor([[LENGTH], [3]])
    states, losses = encoder.learn(torch.tensor(users, dtype=torch.float64), torch.zeros(2, LENGTH, DIM), mask)
    nats, ends = [], []
    for user, length in enumerate((LENGTH, 3)):
        hidden = sasrec(w, users[user], "encoder.")
        means = [w.linear("mean", row) for row in hidden]
        agree(encoder, torch.tensor(users[user], dtype=torch.float64), sasrec(w, means, "decoder."))
        spreads = [[math.exp(n / 2) for n in w.linear("log_variance", row)] for row in hidden]
        views = [spreads, spreads]
        if view == "variational":
            factors = [[math.log1p(math.exp(n)) for n in w.linear("factor", row)] for row in hidden]
            views[1] = [times_each(*pair) for pair in zip(spreads, factors, strict=True)]
        latent = [
            [add(m, times_each(s, e)) for m, s, e in zip(means, spread, noise[part, user].tolist(), strict=True)]
            for part, spread in enumerate(views)
        ]
        expected = torch.tensor(sasrec(w, latent[user], "decoder."), dtype=torch.float64)
        torch.testing.assert_close(states[user], expected, rtol=1e-9, atol=1e-10)
        ends.append([part[length - 1] for part in latent])
        for part in views:
            for place in range(length):
                terms = zip(means[place], part[place], strict=True)
                nats.append(sum((m * m + s * s - 1) / 2 - math.log(s) for m, s in terms))
    assert losses["divergence"].item() == pytest.approx(0.4 * 5 / 10 * sum(nats) / len(nats))

    def cosine(a: Vector, b: Vector) -> float:
        return dot(a, b) / math.sqrt(dot(a, a) * dot(b, b))

    table = [[math.exp(cosine(one[0], other[1]) / 0.5) for other in ends] for one in ends]
    rows = [-math.log(table[i][i] / sum(table[i])) for i in range(2)]
    columns = [-math.log(table[i][i] / (table[0][i] + table[1][i])) for i in range(2)]
    assert losses["contrast"].item() == pytest.approx(0.7 * sum(rows + columns) / 4)


def test_the_divergence_is_that_of_two_normal_distributions():
    mean, deviation = torch.randn(3, 5, dtype=torch.float64), torch.rand(3, 5, dtype=torch.float64) + 0.1
    normal = torch.distributions.Normal
    expected = torch.distributions.kl_divergence(normal(mean, deviation), normal(torch.zeros(5), torch.ones(5)))
    torch.testing.assert_close(divergence(mean, deviation), expected.sum(1))


def test_the_contrast_of_one_row_is_nothing():
    one, other = torch.randn(2, 1, 5)
    assert contrast(one, other, temperature=0.5).item() == 0.0


class Diffused:
    """DiffuRec by its formulas, with linear noise from 0.1 to 0.7 in four steps, and λ = 0.3 throughout."""

    def __init__(self, w: Weights) -> None:
        self.w = w
        kept = 1.0
        self.kept = [kept]
        for beta in (0.1, 0.3, 0.5, 0.7):
            kept *= 1 - beta
            self.kept.append(kept)

    def read(self, events: list[Vector], x_t: list[Vector], step: int) -> list[Vector]:
        angles = [step, step / 100.0]
        sines = [math.cos(a) for a in angles] + [math.sin(a) for a in angles]
        vector = self.w.linear("step_vector.layers.2", [silu(n) for n in self.w.linear("step_vector.layers.0", sines)])
        laid = [
            [e + 0.3 * (x + d) for e, x, d in zip(event, noised, vector, strict=True)]
            for event, noised in zip(events, x_t, strict=True)
        ]
        return sasrec(self.w, laid, "approximator.")

    def asked(self, events: list[Vector], noises: list[list[Vector]], path: list[int]) -> list[Vector]:
        """Without fresh noise, averaged over noises."""
        answers = []
        for x in noises:
            for now, then in itertools.pairwise(path):
                x_0 = self.read(events, x, now)
                a, b = self.kept[now], self.kept[then]
                x = [
                    [math.sqrt(b) * p + math.sqrt(1 - b) * (n - math.sqrt(a) * p) / math.sqrt(1 - a) for n, p in pair]
                    for pair in (list(zip(*rows, strict=True)) for rows in zip(x, x_0, strict=True))
                ]
            answers.append(x)
        return [[sum(parts) / len(noises) for parts in zip(*rows, strict=True)] for rows in zip(*answers, strict=True)]


DIFFUSION = {"noise_steps": 4, "first_beta": 0.1, "last_beta": 0.7, "noise_share": 0.3, "feed_forward": 3}


@pytest.mark.parametrize(("passes", "path"), [(1, [4, 0]), (2, [4, 2, 0]), (4, [4, 3, 2, 1, 0])])
def test_diffurec_when_asked(events, passes, path):
    encoder, w = ready(DiffuRec(dim=DIM, length=LENGTH + 2, draws=2, restore_steps=passes, dropout=0.1, **DIFFUSION))
    noises = encoder.noise[0, :, :LENGTH].tolist()
    found = encoder(events[None], torch.ones(1, LENGTH, dtype=torch.bool))[0]
    expected = torch.tensor(Diffused(w).asked(events.tolist(), noises, path), dtype=torch.float64)
    torch.testing.assert_close(found, expected, rtol=1e-6, atol=1e-8)  # rates of sines are kept in float32


def test_diffurec_in_training(events, monkeypatch):
    encoder, w = ready(DiffuRec(dim=DIM, length=LENGTH + 2, reconstruction_weight=0.5, **DIFFUSION))
    following, noise = torch.randn(2, LENGTH, DIM, dtype=torch.float64)
    monkeypatch.setattr(torch, "randint", lambda *_, **__: torch.tensor([3]))
    drawn = [noise[None], torch.zeros(1, LENGTH, DIM, dtype=torch.float64)]
    monkeypatch.setattr(torch, "randn_like", lambda _: drawn.pop(0))
    mask = torch.arange(LENGTH)[None] < LENGTH - 1
    states, losses = encoder.learn(events[None], following[None], mask)
    model, x_0 = Diffused(w), []
    for place, row in enumerate(following.tolist()):
        size = math.sqrt(dot(row, row) / DIM)
        x_0.append([n / size if place < LENGTH - 1 else 0.0 for n in row])
    kept = model.kept[3]
    x_t = [
        [math.sqrt(kept) * n + math.sqrt(1 - kept) * e for n, e in zip(*rows, strict=True)]
        for rows in zip(x_0, noise.tolist(), strict=True)
    ]
    expected = model.read(events.tolist(), x_t, 3)
    torch.testing.assert_close(states[0], torch.tensor(expected, dtype=torch.float64), rtol=1e-6, atol=1e-8)
    errors = [(a - b) ** 2 for p, q in zip(expected[:-1], x_0[:-1], strict=True) for a, b in zip(p, q, strict=True)]
    assert losses["reconstruction"].item() == pytest.approx(0.5 * sum(errors) / len(errors), rel=1e-6)


def both_ways(queries: list[Vector], keys: list[Vector], values: list[Vector], heads: int) -> list[Vector]:
    """Softmax attention of each place over all places."""
    width = DIM // heads
    out = []
    for query in queries:
        row: Vector = []
        for head in range(heads):
            part = slice(head * width, (head + 1) * width)
            shares = [math.exp(dot(query[part], key[part]) / math.sqrt(width)) for key in keys]
            for d in range(part.start, part.stop):
                row.append(sum(share / sum(shares) * value[d] for share, value in zip(shares, values, strict=True)))
        out.append(row)
    return out


def bert4rec(w: Weights, events: list[Vector]) -> list[Vector]:
    x = [w.norm("norm", add(event, w["positions"][place])) for place, event in enumerate(events[::-1])][::-1]
    for block in ("blocks.0", "blocks.1"):
        q, k, v = thirds([w.linear(f"{block}.project_in", row) for row in x])
        mixed = both_ways(q, k, v, 2)
        for place, row in enumerate(x):
            row = w.norm(f"{block}.attention_norm", add(row, w.linear(f"{block}.project_out", mixed[place])))
            hidden = [gelu(n) for n in w.linear(f"{block}.wide", row)]
            x[place] = w.norm(f"{block}.feed_forward_norm", add(row, w.linear(f"{block}.narrow", hidden)))
    return [w.norm("project_norm", [gelu(n) for n in w.linear("project", row)]) for row in x]


def test_bert4rec(events):
    encoder, w = ready(BERT4Rec(dim=DIM, length=LENGTH + 2, layers=2, heads=2, feed_forward=3, dropout=0.1))
    agree(encoder, events, bert4rec(w, events.tolist()))
    asked = bert4rec(w, [*events.tolist()[:3], w["blank"]])[-1]
    found = encoder.at_end(events[None], torch.tensor([3]))[0]
    torch.testing.assert_close(found, torch.tensor(asked, dtype=torch.float64), rtol=1e-9, atol=1e-10)
    filled = bert4rec(w, [*events.tolist()[:2], w["blank"], *events.tolist()[3:]])[2]
    found = encoder.fill_in(events[None], torch.arange(LENGTH)[None] == 2, torch.ones(1, LENGTH, dtype=torch.bool))
    torch.testing.assert_close(found, torch.tensor([filled], dtype=torch.float64), rtol=1e-9, atol=1e-10)


def elu(n: float) -> float:
    return n if n > 0 else math.exp(n) - 1


def wasserstein(means: tuple[Vector, Vector], variances: tuple[Vector, Vector]) -> float:
    """W₂² of two Gaussians by the trace of Σ₁ + Σ₂ − 2 (Σ₁ Σ₂)^½, for diagonal covariances."""
    apart = sum((m - n) ** 2 for m, n in zip(*means, strict=True))
    return apart + sum(a + b - 2 * math.sqrt(a * b) for a, b in zip(*variances, strict=True))


def test_stosa(events):
    encoder, w = ready(STOSA(dim=DIM * 2, length=LENGTH + 2, layers=2, heads=2, feed_forward=3, dropout=0.1))
    events = torch.cat([events, events.flip(0) * 0.7 + 0.1], dim=1)
    placed = [add(event, w["positions"][place]) for place, event in enumerate(events.tolist())]
    means = [w.norm("mean_norm", row[:DIM]) for row in placed]
    variances = [[elu(n) + 1 for n in w.norm("variance_norm", row[DIM:])] for row in placed]
    for block in ("blocks.0", "blocks.1"):
        q, k, v = thirds([w.linear(f"{block}.project_mean", row) for row in means])
        projected = [[elu(n) + 1 for n in w.linear(f"{block}.project_variance", row)] for row in variances]
        q_spread, k_spread, v_spread = thirds(projected)
        for i in reversed(range(LENGTH)):
            mean: Vector = []
            variance: Vector = []
            for head in (slice(0, 2), slice(2, 4)):
                distances = [
                    wasserstein((q[i][head], k[j][head]), (q_spread[i][head], k_spread[j][head])) for j in range(i + 1)
                ]
                shares = [math.exp(-distance / math.sqrt(2)) for distance in distances]
                weights = [share / sum(shares) for share in shares]
                for d in range(head.start, head.stop):
                    mean.append(sum(n * v[j][d] for j, n in enumerate(weights)))
                    variance.append(sum(n**2 * v_spread[j][d] for j, n in enumerate(weights)))
            mean = w.norm(f"{block}.mean_norm", add(means[i], w.linear(f"{block}.out_mean", mean)))
            mixed = add(variances[i], w.linear(f"{block}.out_variance", variance))
            variance = [elu(n) + 1 for n in w.norm(f"{block}.variance_norm", mixed)]
            fed = w.linear(f"{block}.feed_mean.2", [elu(n) for n in w.linear(f"{block}.feed_mean.0", mean)])
            means[i] = w.norm(f"{block}.fed_mean_norm", add(mean, fed))
            wide = [elu(n) for n in w.linear(f"{block}.feed_variance.0", variance)]
            fed = add(variance, w.linear(f"{block}.feed_variance.2", wide))
            variances[i] = [elu(n) + 1 for n in w.norm(f"{block}.fed_variance_norm", fed)]
    agree(encoder, events, [mean + variance for mean, variance in zip(means, variances, strict=True)])


def test_the_score_of_stosa_is_minus_the_squared_wasserstein_distance():
    encoder = STOSA(dim=2 * DIM, length=3).double()
    users = torch.cat([torch.randn(3, DIM), torch.rand(3, DIM) + 0.1], dim=1).double()
    items = torch.randn(5, 2 * DIM).double()
    scores = encoder.as_user(users) @ encoder.as_item(items).T
    for user, row in zip(users.tolist(), scores.tolist(), strict=True):
        for item, score in zip((items * math.sqrt(2 * DIM)).tolist(), row, strict=True):
            spread = [elu(n) + 1 for n in item[DIM:]]
            assert score == pytest.approx(-wasserstein((user[:DIM], item[:DIM]), (user[DIM:], spread)), rel=1e-9)


def test_the_second_term_of_stosa_keeps_negatives_farther_from_the_positive_than_the_user_is(monkeypatch):
    encoder, _ = ready(STOSA(dim=2 * DIM, length=3, heads=2, apart_weight=0.7))
    events, following = torch.randn(2, 4, 3, 2 * DIM, dtype=torch.float64)
    following[3] *= 12.0  # farther from all others than any user is
    following[2, 0] = following[0, 0]
    lengths = [3, 1, 2, 3]
    mask = torch.arange(3) < torch.tensor(lengths)[:, None]
    monkeypatch.setattr(torch, "randint", lambda *_: torch.tensor(2))
    states, losses = encoder.learn(events, following, mask)

    def gaussian(item: Vector) -> tuple[Vector, Vector]:
        return item[:DIM], [elu(n) + 1 for n in item[DIM:]]

    terms = []
    for user, length in enumerate(lengths):
        other = (user - 2) % 4
        for place in range(min(length, lengths[other])):
            if (user, place) in ((0, 0), (2, 0)):  # both are followed by the same item
                continue
            state = states[user, place].tolist()
            mean, variance = gaussian(following[user, place].tolist())
            far_mean, far_variance = gaussian(following[other, place].tolist())
            of_user = wasserstein((state[:DIM], mean), (state[DIM:], variance))
            of_negative = wasserstein((far_mean, mean), (far_variance, variance))
            terms.append(max(0.0, of_user - of_negative))
    assert len(terms) == 4
    assert min(terms) == 0.0 < max(terms)
    assert losses["apart"].item() == pytest.approx(0.7 * sum(terms) / len(terms), rel=1e-9)


def test_gru4rec(events):
    encoder, w = ready(GRU4Rec(dim=DIM, layers=2, hidden=5, dropout=0.1))
    states = [[0.0] * 5, [0.0] * 5]
    expected = []
    for event in events.tolist():
        x = event
        for layer in range(2):
            name = f"layers.{layer}"
            gates = []
            for source, given in (("ih", x), ("hh", states[layer])):
                rows, bias = w[f"{name}.weight_{source}_l0"], w[f"{name}.bias_{source}_l0"]
                gates.append([dot(row, given) + b for row, b in zip(rows, bias, strict=True)])
            after = []
            for d in range(5):
                reset = sigmoid(gates[0][d] + gates[1][d])
                update = sigmoid(gates[0][5 + d] + gates[1][5 + d])
                new = math.tanh(gates[0][10 + d] + reset * gates[1][10 + d])
                after.append((1 - update) * new + update * states[layer][d])
            x = states[layer] = after
        expected.append(w.linear("project", x))
    agree(encoder, events, expected)


def post_norm_rest(w: Weights, block: str, first: str, x: Vector, mixed: Vector) -> Vector:
    """Residual and norm around the mixer, then around a feed-forward network."""
    x = w.norm(f"{block}.{first}_norm", add(x, mixed))
    hidden = [gelu(n) for n in w.linear(f"{block}.wide", x)]
    return w.norm(f"{block}.feed_forward_norm", add(x, w.linear(f"{block}.narrow", hidden)))


def test_lrurec(events):
    encoder, w = ready(LRURec(dim=DIM, layers=2, states=3, feed_forward=2, dropout=0.1))
    x = [w.norm("norm", event) for event in events.tolist()]
    for block in ("blocks.0", "blocks.1"):
        unit = f"{block}.unit"
        eigenvalues = [
            cmath.exp(complex(-math.exp(nu), math.exp(theta)))
            for nu, theta in zip(w[f"{unit}.nu"], w[f"{unit}.theta"], strict=True)
        ]
        assert all(abs(value) < 1 for value in eigenvalues)
        state = [0j] * 3
        for place, row in enumerate(x):
            given = w.linear(f"{unit}.project_in", row)
            for n in range(3):
                driven = math.exp(w[f"{unit}.log_gamma"][n]) * complex(given[n], given[3 + n])
                state[n] = eigenvalues[n] * state[n] + driven
            read = []
            for weights, bias in zip(w[f"{unit}.project_out.weight"], w[f"{unit}.project_out.bias"], strict=True):
                read.append(sum((complex(weights[n], weights[3 + n]) * state[n]).real for n in range(3)) + bias)
            x[place] = post_norm_rest(w, block, "unit", row, read)
    agree(encoder, events, x)


def relative(w: Weights, name: str, times: list[int] | None):
    """A number by distance, and one by the bucket of the lag: floor(log(lag) / 0.301)."""

    def bias(i: int, j: int) -> float:
        number = w[f"{name}.by_distance"][i - j]
        if times is not None and f"{name}.by_lag" in w.all:
            table = w[f"{name}.by_lag"]
            bucket = math.floor(math.log(max(1, abs(times[i] - times[j]))) / 0.301)
            number += table[min(bucket, len(table) - 1)]
        return number

    return bias


@pytest.mark.parametrize(("clock", "buckets"), [(True, 64), (True, 5), (True, 0), (False, 64)])
def test_hstu(events, times, clock, buckets):
    encoder, w = ready(HSTU(dim=DIM, length=LENGTH + 2, layers=2, heads=2, time_buckets=buckets, dropout=0.1))
    seconds = times.tolist() if clock else None
    x = [add(event, w["positions"][place]) for place, event in enumerate(events.tolist())]
    for block in ("blocks.0", "blocks.1"):
        bias = relative(w, f"{block}.bias", seconds)
        projected = [
            [silu(n) for n in w.linear(f"{block}.project_in", w.norm(f"{block}.norm", row, 1e-6))] for row in x
        ]
        u, v, q, k = [[row[part * DIM : (part + 1) * DIM] for row in projected] for part in range(4)]
        for i in range(LENGTH):
            mixed: Vector = []
            for head in (slice(0, 2), slice(2, 4)):
                weights = [silu(dot(q[i][head], k[j][head]) + bias(i, j)) / (LENGTH + 2) for j in range(i + 1)]
                mixed += [sum(n * v[j][d] for j, n in enumerate(weights)) for d in range(head.start, head.stop)]
            gated = times_each(u[i], w.norm(f"{block}.mixed_norm", mixed, 1e-6))
            x[i] = add(x[i], w.linear(f"{block}.project_out", gated))
    agree(encoder, events, [w.norm("norm", row) for row in x], times if clock else None)


@pytest.mark.parametrize(("clock", "with_bias"), [(True, True), (False, True), (True, False)])
def test_ligr(events, times, clock, with_bias):
    encoder, w = ready(
        LiGR(dim=DIM, length=LENGTH + 2, layers=2, heads=2, feed_forward=3, relative=with_bias, dropout=0.1)
    )
    seconds = times.tolist() if clock else None
    x = [add(event, w["positions"][place]) for place, event in enumerate(events.tolist())]
    for block in ("blocks.0", "blocks.1"):
        bias = relative(w, f"{block}.relative", seconds) if with_bias else lambda i, j: 0.0
        q, k, v = thirds([w.linear(f"{block}.project_in", w.norm(f"{block}.attention_norm", row)) for row in x])
        mixed = attention(q, k, v, 2, bias)
        for place, row in enumerate(x):
            gate = [sigmoid(n) for n in w.linear(f"{block}.attention_gate", row)]
            row = add(row, times_each(gate, w.linear(f"{block}.project_out", mixed[place])))
            wide = w.linear(f"{block}.wide", w.norm(f"{block}.feed_forward_norm", row))
            hidden = [silu(wide[n]) * wide[3 * DIM + n] for n in range(3 * DIM)]
            gate = [sigmoid(n) for n in w.linear(f"{block}.feed_forward_gate", row)]
            x[place] = add(row, times_each(gate, w.linear(f"{block}.narrow", hidden)))
    agree(encoder, events, [w.norm("norm", row) for row in x], times if clock else None)


def test_caser(events):
    window, filters, sums = 3, 2, 2
    encoder, w = ready(Caser(dim=DIM, window=window, horizontal=filters, vertical=sums, dropout=0.1))
    padded = [[0.0] * DIM] * (window - 1) + events.tolist()
    expected = []
    for place in range(LENGTH):
        picture = padded[place : place + window]
        found = []
        for height in range(1, window + 1):
            kernel, bias = w[f"horizontal.{height - 1}.weight"], w[f"horizontal.{height - 1}.bias"]
            for f in range(filters):
                answers = []
                for top in range(window - height + 1):
                    answer = bias[f]
                    for row in range(height):
                        answer += sum(kernel[f][d][row] * picture[top + row][d] for d in range(DIM))
                    answers.append(max(0.0, answer))
                found.append(max(answers))
        for d in range(DIM):
            for f in range(sums):
                found.append(sum(w["vertical.weight"][f][0][row] * picture[row][d] for row in range(window)))
        expected.append([max(0.0, n) for n in w.linear("project", found)])
    agree(encoder, events, expected)


def test_mamba4rec(events):
    states, kernel, inner = 3, 3, 2 * DIM
    encoder, w = ready(Mamba4Rec(dim=DIM, layers=2, states=states, convolution=kernel, feed_forward=2, dropout=0.1))
    x = [w.norm("norm", event) for event in events.tolist()]
    for block in ("blocks.0", "blocks.1"):
        name = f"{block}.space"
        projected = [w.linear(f"{name}.project_in", row) for row in x]
        state = [[0.0] * states for _ in range(inner)]
        for place, row in enumerate(x):
            given = []
            for channel in range(inner):
                number = w[f"{name}.convolution.bias"][channel]
                for back in range(min(kernel, place + 1)):
                    weight = w[f"{name}.convolution.weight"][channel][0][kernel - 1 - back]
                    number += weight * projected[place - back][channel]
                given.append(silu(number))
            selected = w.linear(f"{name}.select", given)
            sizes = [math.log1p(math.exp(n)) for n in w.linear(f"{name}.step_size", selected[:1])]
            write, read = selected[1 : 1 + states], selected[1 + states :]
            out = []
            for channel in range(inner):
                for n in range(states):
                    decay = math.exp(-sizes[channel] * math.exp(w[f"{name}.log_decay"][channel][n]))
                    added = sizes[channel] * write[n] * given[channel]
                    state[channel][n] = decay * state[channel][n] + added
                y = dot(read, state[channel]) + w[f"{name}.skip"][channel] * given[channel]
                out.append(y * silu(projected[place][inner + channel]))
            x[place] = post_norm_rest(w, block, "space", row, w.linear(f"{name}.project_out", out))
    agree(encoder, events, x)


def test_a_long_history_of_large_events_stays_finite():
    for made in (LRURec(dim=DIM), Mamba4Rec(dim=DIM)):
        events = 100 * torch.randn(2, 2000, DIM, requires_grad=True)
        states = made(events, torch.ones(2, 2000, dtype=torch.bool))
        states.square().sum().backward()
        assert states.isfinite().all()
        assert all(weight.grad.isfinite().all() for weight in made.parameters())


def test_the_eigenvalues_of_lrurec_start_in_their_ring_with_states_of_unit_size():
    unit = LRURec(dim=64, layers=1).get_submodule("blocks.0.unit")
    sizes = unit.eigenvalues.abs()
    assert sizes.min() > 0.79
    assert sizes.max() < 0.991
    torch.testing.assert_close(unit.log_gamma.exp() ** 2 + sizes**2, torch.ones_like(sizes))


def test_the_step_sizes_of_mamba4rec_start_between_their_bounds():
    sizes = torch.nn.functional.softplus(Mamba4Rec(dim=64).get_submodule("blocks.0.space.step_size").bias)
    assert sizes.min() > 0.00099
    assert sizes.max() < 0.101
    assert sizes.log().std() > 1


@pytest.mark.parametrize("layers", [1, 2])
def test_many_users_asked_about_place_by_place_get_the_states_of_the_scan(layers):
    encoder = Mamba4Rec(dim=DIM, layers=layers, states=3).double().eval()
    lengths = torch.arange(40) % LENGTH + 1
    events = torch.randn(40, LENGTH, DIM, dtype=torch.float64, generator=torch.Generator().manual_seed(1))
    whole = SequenceEncoder.at_end(encoder, events, lengths)
    torch.testing.assert_close(encoder.at_end(events, lengths), whole, rtol=1e-12, atol=1e-12)
    later = events.masked_fill((torch.arange(LENGTH) >= lengths[:, None])[:, :, None], 7.0)
    torch.testing.assert_close(encoder.at_end(later, lengths), whole, rtol=1e-12, atol=1e-12)
    few = torch.cat([encoder.at_end(events[row : row + 1], lengths[row : row + 1]) for row in range(40)])
    torch.testing.assert_close(few, whole, rtol=1e-12, atol=1e-12)
