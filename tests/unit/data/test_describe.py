import math

import pytest
import torch

from twotower.core.schema import Feature, Schema
from twotower.data.dataset import Dataset
from twotower.data.describe import describe, describe_feature, gini
from twotower.data.log import Log


def test_figures_of_a_log_counted_by_hand():
    # Users 2, 3, 4 with 3, 1, 2 events; items 2 to 6, of which 6 has none.
    log = Log(
        torch.tensor([0, 0, 0, 3, 4, 6]),
        torch.tensor([2, 3, 2, 2, 4, 5]),
        torch.tensor([0, 86_400, 86_400, 10, 20, 43_200]),
        torch.tensor([1.0, 0.0, 1.0, 1.0, 1.0, 1.0]),
    )
    data = Dataset(Schema(5, 7), log, {}, {}, {"name": "tiny", "split": {"kind": "last-n"}})
    found = describe(data)
    assert (found["users"], found["items"], found["events"], found["positives"]) == (3, 5, 6, 5)
    assert found["sparsity"] == pytest.approx(1 - 6 / 15)
    assert found["repeats"]["events"] == 1, "user 2 comes back to item 2"
    assert found["repeats"]["share"] == pytest.approx(1 / 3), "of the three events that are not their user's first"
    assert "mask_seen" in found["repeats"]["advice"]
    assert (found["cold_items"], found["single_event_users"]) == (1, 1)
    assert found["events_per_user"] | {"min": 1, "median": 2, "max": 3, "mean": 2.0} == found["events_per_user"]
    assert found["time"]["first"] == "1970-01-01T00:00:00+00:00"
    assert found["time"]["days"] == 1.0
    assert found["popularity"]["share_of_top"] == {"1%": 0.5, "5%": 0.5, "10%": 0.5, "20%": 0.5}
    assert found["features"] == []


def test_gini_is_the_mean_difference_of_all_pairs():
    counts = [7, 0, 1, 1, 12, 3]
    slow = sum(abs(a - b) for a in counts for b in counts) / (2 * len(counts) * sum(counts))
    assert gini(torch.tensor(counts)) == pytest.approx(slow, rel=1e-12)


@pytest.mark.parametrize(
    ("feature", "rows", "expected"),
    [
        (Feature("f", "categorical", 5), [2, 2, 2, 0], {"coverage": 0.75, "unknown": 0.0, "finding": "constant"}),
        (Feature("f", "categorical", 5), [2, 1, 1, 3], {"coverage": 1.0, "unknown": 0.5, "finding": ""}),
        (Feature("f", "categorical", 5), [0, 0], {"coverage": 0.0, "most_frequent": 0.0, "finding": "no value"}),
        (Feature("f", "categorical", 5), [3] * 19 + [2], {"most_frequent": 0.95, "finding": "near-constant"}),
        (Feature("f", "numeric", 1), [1.5, math.nan, 1.5], {"min": 1.5, "max": 1.5, "finding": "constant"}),
        (Feature("f", "numeric", 1), [1.5, math.nan, 2.5], {"coverage": 2 / 3, "max": 2.5, "finding": ""}),
        (Feature("f", "text", 9, width=2), [[2, 0], [2, 0], [0, 0]], {"coverage": 2 / 3, "finding": "constant"}),
        (Feature("f", "text", 9, width=2), [[2, 1], [3, 0]], {"unknown": 1 / 3, "finding": ""}),
        (Feature("f", "vector", 2), [[0.0, 0.0], [1.0, 2.0]], {"coverage": 0.5, "width": 2, "finding": "constant"}),
    ],
)
def test_a_feature_is_found_out(feature, rows, expected):
    values = torch.tensor(rows)
    column = torch.cat([torch.zeros(2, *values.shape[1:], dtype=values.dtype), values])
    entry = describe_feature("item", feature, column)
    assert {key: entry[key] for key in expected} == pytest.approx(expected)
