"""The longest list under one bias for all codes, beside a slow count."""

from __future__ import annotations

import torch

from twotower.core.errors import InputError
from twotower.core.schema import Schema
from twotower.data.dataset import Dataset
from twotower.data.log import Log
from twotower.models.baselines.popularity import Popularity
from twotower.training.callbacks import EpochRecord
from twotower.training.list_lengths import MOST_CODES, ListLengths, longest_list


def test_the_longest_list_is_that_of_a_slow_count():
    scores = torch.randn(7, 50, generator=torch.Generator().manual_seed(0))
    scores[3] += 2.0
    pairs = sorted(((scores[n, i].item(), n) for n in range(7) for i in range(50)), reverse=True)[: round(0.1 * 350)]
    lengths = [sum(one == n for _, one in pairs) for n in range(7)]
    assert longest_list(scores, 0.1) == max(lengths) / (sum(lengths) / 7)
    assert longest_list(torch.ones(4, 10)) == 1.0


SCHEMA = Schema(4, 102, has_times=False)


class _Lists(Popularity):
    """A model of lists whose code 1 scores every item above all others."""

    def __init__(self, number: int = 4) -> None:
        super().__init__(SCHEMA)
        self.number = number
        self.counts.copy_(torch.arange(102.0))

    @property
    def num_lists(self) -> int:
        if self.number < 0:
            raise InputError("too many")
        return self.number

    def list_scores(self, codes: torch.Tensor, items: torch.Tensor) -> torch.Tensor:
        return items[:, 0][None] + 1_000.0 * (codes == 1)[:, None]


def told(model: _Lists, codes: dict[str, float]) -> dict[str, float]:
    record = EpochRecord(1, 1, 0.5, 0.1, 1.0, codes=dict(codes))
    nothing = Log(torch.zeros(5, dtype=torch.int64), torch.zeros(0, dtype=torch.int64), None)
    ListLengths(Dataset(SCHEMA, nothing, {}, {}, {"name": "none"})).epoch_done(record, model)
    return record.codes


def test_it_is_told_once_codes_have_started_and_where_lists_can_be_numbered():
    assert told(_Lists(), {"used": 1.0}) == {"used": 1.0, "longest": 4.0}
    assert told(_Lists(), {}) == {}
    assert told(_Lists(MOST_CODES + 1), {"used": 1.0}) == {"used": 1.0}
    assert told(_Lists(-1), {"used": 1.0}) == {"used": 1.0}
