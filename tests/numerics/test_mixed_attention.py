"""Mixed attention against its formulas, user by user and event by event in float64."""

from __future__ import annotations

import math

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from twotower.core.errors import InputError
from twotower.towers.sequence.mixed_attention import MixedAttention

USERS, LENGTH, DIM, SESSION = 3, 8, 4, 3
START = 1_000_000_000


def close(found: Tensor, expected: Tensor) -> None:
    torch.testing.assert_close(found, expected, rtol=1e-9, atol=1e-10)


def normal(*shape: int) -> Tensor:
    return torch.randn(*shape, dtype=torch.float64)


def made(**settings: int) -> MixedAttention:
    tower = MixedAttention(dim=DIM, **{"session": SESSION, "layers": 2, **settings}).double().eval()
    with torch.no_grad():
        for weight in tower.parameters():
            weight += 0.2 * torch.randn_like(weight)
    return tower


@pytest.fixture(params=[0, 60], ids=["by number", "by gap"])
def tower(request: pytest.FixtureRequest) -> MixedAttention:
    return made(gap=request.param)


@pytest.fixture
def times() -> Tensor:
    """Some gaps within a minute and some not; one clock goes back, by little and by much."""
    return START + torch.tensor(
        [
            [0, 10, 20, 500, 510, 520, 530, 540],
            [0, 60, 121, 121, 180, 2_000, 2_010, 9_000],
            [5_000, 4_990, 4_980, 100, 110, 111, 170, 231],
        ]
    )


@torch.no_grad()
def slow(tower: MixedAttention, events: Tensor, guess: Tensor, times: list[int] | None) -> Tensor:
    """The state of one user after the last of these events."""
    size = 1
    while size < min(len(events), tower.session):
        if tower.gap and abs(times[-size] - times[-size - 1]) > tower.gap:
            break
        size += 1
    session, older = events[len(events) - size :], events[: len(events) - size]
    x = torch.cat([session, guess[None]]) + tower.positions[-size - 1 :]
    for block in tower.blocks:
        rows = []
        query, key, value = block.project_in(block.attention_norm(x)).split(DIM, dim=1)
        wide = DIM // block.heads
        for place in range(size + 1):
            parts = []
            for head in range(block.heads):
                part = slice(head * wide, (head + 1) * wide)
                logits = [float(query[place, part] @ key[other, part]) / math.sqrt(wide) for other in range(size + 1)]
                total = sum(math.exp(logit) for logit in logits)
                parts.append(sum(math.exp(a) / total * value[o, part] for o, a in enumerate(logits)))
            rows.append(torch.cat(parts))
        x = x + block.project_out(torch.stack(rows))
        x = x + block.feed_forward(block.feed_forward_norm(x))
    present = tower.session_norm(x).mean(0)
    answers = []
    for place, event in enumerate(older):
        lag = [0.0, 0.0] if times is None else [math.log(1 + abs(times[-1] - times[place])) / 20, 1.0]
        read = torch.cat([event, event - present, event * present, present, torch.tensor(lag, dtype=torch.float64)])
        answers.append(math.exp(float(tower.unit.second(F.silu(tower.unit.first(read))))))
    fitting = torch.zeros(DIM, dtype=torch.float64)
    for answer, event in zip(answers, older, strict=True):
        fitting = fitting + answer / sum(answers) * event
    return tower.norm(tower.join(torch.cat([fitting, present])))


def test_it_is_what_the_formulas_give_at_every_place(tower, times):
    events, guesses = normal(USERS, LENGTH, DIM), normal(USERS, LENGTH, DIM)
    found = tower(events, guesses, torch.arange(LENGTH).expand(USERS, LENGTH), times)
    for user in range(USERS):
        for place in range(LENGTH):
            seen = slice(place + 1)
            expected = slow(tower, events[user, seen], guesses[user, place], times[user, seen].tolist())
            close(found[user, place], expected)


def test_a_log_without_a_clock_is_read_by_number():
    tower = made()
    events, guesses = normal(USERS, LENGTH, DIM), normal(USERS, LENGTH, DIM)
    found = tower(events, guesses, torch.arange(LENGTH).expand(USERS, LENGTH))
    for user in range(USERS):
        close(found[user, -1], slow(tower, events[user], guesses[user, -1], None))


def test_a_log_without_a_clock_has_no_sessions_by_time():
    with pytest.raises(InputError, match=r"need times, and this log has none: set model\.session_gap = 0") as refused:
        made(gap=60)(normal(1, 2, DIM), normal(1, 1, DIM), torch.tensor([[1]]))
    assert "\n" not in str(refused.value)


def test_the_last_place_alone_is_what_all_places_give(tower, times):
    events, guesses, ends = normal(USERS, LENGTH, DIM), normal(USERS, LENGTH, DIM), torch.tensor([[7], [0], [4]])
    whole = tower(events, guesses, torch.arange(LENGTH).expand(USERS, LENGTH), times)
    rows = torch.arange(USERS)[:, None]
    close(tower(events, guesses[rows, ends], ends, times), whole[rows, ends])


def test_what_stands_behind_a_place_has_no_effect(tower, times):
    events, guesses = normal(USERS, LENGTH, DIM), normal(USERS, 1, DIM)
    for place in range(LENGTH - 1):
        asked = torch.full((USERS, 1), place)
        other, later = events.clone(), times.clone()
        other[:, place + 1 :], later[:, place + 1 :] = normal(USERS, LENGTH - place - 1, DIM), 0
        close(tower(other, guesses, asked, later), tower(events, guesses, asked, times))


def test_guess_session_older_events_and_their_time_all_matter(times):
    tower = made()
    events, guesses, end = normal(USERS, LENGTH, DIM), normal(USERS, 1, DIM), torch.full((USERS, 1), LENGTH - 1)
    before = tower(events, guesses, end, times)
    assert not torch.isclose(tower(events, guesses + normal(1, 1, DIM), end, times), before).all(-1).any()
    for place in (LENGTH - 1, LENGTH - SESSION, LENGTH - SESSION - 1, 0):
        other = events.clone()
        other[:, place] += normal(DIM)
        assert not torch.isclose(tower(other, guesses, end, times), before).all(-1).any()
    later = times.clone()
    later[:, 0] -= 100_000
    assert not torch.isclose(tower(events, guesses, end, later), before).all(-1).any()


def test_the_gradient_reaches_all_weights_even_without_older_events(times):
    tower = made(gap=60).train()
    events = normal(USERS, LENGTH, DIM)
    states = tower(events, events, torch.arange(LENGTH).expand(USERS, LENGTH), times)
    (states * normal(*states.shape)).sum().backward()
    for name, weight in tower.named_parameters():
        assert weight.grad.isfinite().all(), name
        # A softmax is the same whatever is added to all its numbers.
        assert weight.grad.any() or name == "unit.second.bias", name


@pytest.mark.parametrize("wrong", [{"session": 0}, {"gap": -1}, {"heads": 3}, {"layers": 0}])
def test_settings_of_no_use_are_refused(wrong):
    with pytest.raises(ValueError, match="must be at least|must divide"):
        made(**wrong)
