"""The streaming estimator against a loop in Python, against true frequencies, and under drift."""

import math

import pytest
import torch

from twotower.core.errors import InputError
from twotower.ops.frequency import PRIME, expected_gap, hash_cells, update_gaps
from twotower.sampling.frequency import StreamingFrequency


def slow_stream(batches, num_hashes, width, cell, rate, first_gap):
    """Section 3.2 in Python, with each cell updated once a step."""
    last = [[0] * width for _ in range(num_hashes)]
    gap = [[first_gap] * width for _ in range(num_hashes)]
    for step, batch in enumerate(batches, start=1):
        for i in range(num_hashes):
            for h in {cell(i, item) for item in batch}:
                gap[i][h] = (1 - rate) * gap[i][h] + rate * (step - last[i][h])
                last[i][h] = step
    return lambda item: max(gap[i][cell(i, item)] for i in range(num_hashes))


@pytest.mark.parametrize("width", [5, 97])
def test_matches_the_loop(width):
    generator = torch.Generator().manual_seed(width)
    batches = torch.randint(2, 40, (25, 6), generator=generator)
    stream = StreamingFrequency(width, num_hashes=3, rate=0.2, first_gap=7.0)
    for batch in batches:
        stream.observe(batch)
    multipliers, offsets = stream.multipliers.tolist(), stream.offsets.tolist()
    expected = slow_stream(
        batches.tolist(), 3, width, lambda i, item: (multipliers[i] * item + offsets[i]) % PRIME % width, 0.2, 7.0
    )
    ids = torch.arange(2, 40)
    found = stream.log_q(ids)
    wanted = torch.tensor([-math.log(expected(item)) - math.log(6) for item in ids.tolist()])
    torch.testing.assert_close(found, wanted, rtol=1e-5, atol=1e-5)


def draw(probabilities, steps, rows, generator):
    return torch.multinomial(probabilities, steps * rows, replacement=True, generator=generator).view(steps, rows)


def rates(stream, ids):
    return stream.log_q(ids).exp() * stream.rows


@pytest.mark.slow
def test_finds_true_frequencies_and_follows_a_drift():
    generator = torch.Generator().manual_seed(0)
    probabilities = torch.zeros(102)
    probabilities[2:] = torch.arange(1, 101).float().pow(-0.7)
    probabilities /= probabilities.sum()
    turned = probabilities.clone()
    turned[2:] = probabilities[2:].flip(0)
    stream = StreamingFrequency(4096, rate=0.05)
    ids = torch.arange(2, 102)
    for true in (probabilities, turned):
        total, looks = torch.zeros(100), 0
        for step, batch in enumerate(draw(true, 6000, 8, generator)):
            stream.observe(batch)
            if step >= 3000 and step % 10 == 0:
                total += 1.0 / rates(stream, ids)
                looks += 1
        gap = total / looks
        expected = 1.0 / (1.0 - (1.0 - true[2:]) ** 8)  # mean steps between batches that hold the item
        assert ((gap / expected).log().abs() < 0.15).float().mean() > 0.95
        assert (gap / expected).log().mean().abs() < 0.05


@pytest.mark.slow
def test_several_hashes_beat_one_where_cells_are_shared():
    generator = torch.Generator().manual_seed(1)
    probabilities = torch.zeros(202)
    probabilities[2:] = 1.0 / 200
    errors = {}
    for num_hashes in (1, 5):
        stream = StreamingFrequency(300, num_hashes=num_hashes, rate=0.1)
        gap = torch.zeros(200)
        for step, batch in enumerate(draw(probabilities, 3000, 4, generator)):
            stream.observe(batch)
            gap += 1.0 / rates(stream, torch.arange(2, 202)) if step >= 2000 else 0.0
        errors[num_hashes] = (gap / 1000 * 0.02).log().abs().mean().item()
    assert errors[5] < 0.5 * errors[1]


def test_a_repeated_item_and_two_items_of_one_cell_make_one_update():
    last, gap = torch.zeros(1, 1, dtype=torch.int64), torch.full((1, 1), 100.0)
    cells = torch.zeros(1, 3, dtype=torch.int64)
    update_gaps(last, gap, cells, 5, 0.5)
    assert expected_gap(gap, cells).tolist() == [52.5] * 3


def test_cells_lie_inside_and_differ_between_hashes():
    multipliers, offsets = torch.tensor([12345, PRIME - 1]), torch.tensor([0, 99])
    cells = hash_cells(torch.tensor([0, 7, PRIME - 1]), multipliers, offsets, 11)
    expected = [[(a * i + b) % PRIME % 11 for i in (0, 7, PRIME - 1)] for a, b in ((12345, 0), (PRIME - 1, 99))]
    assert cells.tolist() == expected


def test_resumes_exactly():
    batches = torch.randint(2, 30, (12, 5), generator=torch.Generator().manual_seed(3))
    whole, half = StreamingFrequency(50), StreamingFrequency(50)
    for batch in batches[:6]:
        whole.observe(batch)
        half.observe(batch)
    resumed = StreamingFrequency(50)
    resumed.load_state_dict({name: part.clone() for name, part in half.state_dict().items()})
    for batch in batches[6:]:
        whole.observe(batch)
        resumed.observe(batch)
    assert torch.equal(whole.log_q(torch.arange(30)), resumed.log_q(torch.arange(30)))


def test_bad_settings_are_one_clear_line():
    for settings in (
        {"width": 0},
        {"width": 9, "num_hashes": 0},
        {"width": 9, "rate": 0.0},
        {"width": 9, "first_gap": 0.5},
    ):
        with pytest.raises(InputError, match="streaming frequency"):
            StreamingFrequency(**settings)
    with pytest.raises(InputError, match="this run has"):
        StreamingFrequency(9).load_state_dict(StreamingFrequency(8).state_dict())
