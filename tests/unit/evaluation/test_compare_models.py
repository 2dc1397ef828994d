"""Several models side by side, and the tables that people read."""

from __future__ import annotations

import io
import json
from dataclasses import replace

import pytest
import torch
from rich.console import Console

from twotower.core.errors import InputError
from twotower.evaluation.compare import compare
from twotower.evaluation.report import comparison_table, result_table, slice_table
from twotower.evaluation.result import Result
from twotower.evaluation.slices import Slice


def make_result(values: torch.Tensor, users: torch.Tensor | None = None) -> Result:
    return Result(
        split="test",
        users=torch.arange(2, 2 + len(values)) if users is None else users,
        num_items=50,
        per_user={"ndcg@10": values.double(), "recall@10": values.double()},
        metrics={name: values.double().mean().item() for name in ("ndcg@10", "recall@10", "mrr@10")}
        | {"coverage@10": 0.5},
        truths=len(values),
        seen_truths=3,
        unreachable_truths=0,
        slices={"cold_items": Slice(0, 0, {}), "warm_items": Slice(40, 41, {"ndcg@10": 0.25})},
    )


@pytest.fixture
def results() -> dict[str, Result]:
    base = torch.rand(40)
    return {"base": make_result(base), "same": make_result(base), "better": make_result(base + 0.1)}


def text(table) -> str:
    console = Console(width=140, record=True, file=io.StringIO())
    console.print(table)
    return console.export_text()


def test_compare_holds_means_intervals_and_tests(results):
    found = compare(results, ["ndcg@10"], permutations=999)
    base, same, better = found.rows
    assert found.reference == "base"
    assert (base.difference, base.p_value) == (0.0, None)
    assert (same.difference, same.p_value) == (0.0, 1.0)
    assert better.difference == pytest.approx(0.1, rel=1e-5)
    assert better.p_value == 0.001
    assert all(row.low < row.mean < row.high for row in found.rows)
    json.dumps(found.to_json(), allow_nan=False)


def test_another_reference(results):
    rows = compare(results, ["ndcg@10"], reference="better", permutations=99).rows
    assert [row.p_value is None for row in rows] == [False, False, True]
    assert rows[0].difference == pytest.approx(-0.1, rel=1e-5)


def test_what_cannot_be_compared_is_refused(results):
    with pytest.raises(InputError, match="no results"):
        compare({}, ["ndcg@10"])
    with pytest.raises(InputError, match="did you mean 'better'"):
        compare(results, ["ndcg@10"], reference="beter")
    with pytest.raises(InputError, match="unknown metric of 'base' 'ndgc@10'; did you mean 'ndcg@10'"):
        compare(results, ["ndgc@10"])
    with pytest.raises(InputError, match="different users"):
        compare({**results, "other": make_result(torch.rand(40), torch.arange(40))}, ["ndcg@10"])


def test_models_judged_with_and_without_what_was_seen_are_said_to_do_two_tasks(results, caplog):
    apart = {name: replace(result, mask_seen=name != "better") for name, result in results.items()}
    compare(apart, ["ndcg@10"])
    assert "'base' leaves out what a user has seen, 'better' does not" in caplog.text
    caplog.clear()
    compare({name: replace(result, mask_seen=True) for name, result in results.items()}, ["ndcg@10"])
    compare(results, ["ndcg@10"])
    assert not caplog.text


def test_tables_say_it_all(results):
    shown = text(comparison_table(compare(results, ["ndcg@10"], permutations=999), title="three models"))
    for word in ("three models", "better", "0.0020", "Holm", "40 users", "95% interval", "against base"):
        assert word in shown
    shown = text(result_table(results["base"]))
    for word in ("top 10", "coverage", "0.5000", "50 items ranked", "3 of them seen before"):
        assert word in shown
    low, high = results["base"].intervals()["ndcg@10"]
    assert f"[{low:.3f}, {high:.3f}]" in shown
    shown = text(slice_table(results["base"], ["ndcg@10"]))
    assert "cold items" in shown
    assert "0.2500" in shown
