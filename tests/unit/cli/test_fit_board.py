"""The table at the end of ``twotower fit``: every model on a line of its own, within 80 columns."""

from __future__ import annotations

import io
from dataclasses import dataclass, replace
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
from rich.console import Console

from twotower.cli.fit import NAME_WIDTH, board, short_name
from twotower.evaluation.result import Result
from twotower.experiment.ladder.climb import LADDER, VARIANTS
from twotower.experiment.ladder.pick import pick
from twotower.experiment.ladder.rungs import METRIC, Rung


def judged(seed: int) -> Result:
    values = torch.rand(200, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)
    return Result("test", torch.arange(200), 50, {METRIC: values}, {METRIC: float(values.mean())}, 1, 0, 0)


@dataclass
class Done:
    """What the table reads of a fit."""

    dataset: SimpleNamespace
    choice: object
    rungs: list[Rung]


def rungs(folder: Path) -> list[Rung]:
    found = [
        Rung(" ".join([model, *(one.partition(".")[2] for one in changes)]), model, folder, 3_700.0)
        for model in LADDER
        for changes in ((), *VARIANTS.get(model, ()))
    ]
    found = [replace(rung, validation=judged(place), test=judged(90 + place)) for place, rung in enumerate(found)]
    long = next(rung for rung in found if "init=" in rung.name)
    name = f"mixture of {long.name} and sasrec dropout=0.3"
    return [
        *found,
        replace(found[0], name=name, model="mixture", parts=(long, found[-1])),
        Rung("hstu", "hstu", folder),
    ]


def test_the_table_has_a_line_a_model_in_80_columns_and_names_the_parts_of_the_mixture(tmp_path):
    every = rungs(tmp_path)
    choice = pick({rung.name: rung.validation for rung in every if rung.validation}, METRIC)
    out = io.StringIO()
    Console(file=out, width=80).print(board(Done(SimpleNamespace(name="mine"), choice, every)))
    lines = out.getvalue().splitlines()
    assert max(map(len, lines)) <= 80
    head = next(place for place, text in enumerate(lines) if "─" in text)
    body = lines[head + 1 : head + 1 + len(every)]
    assert [text[1 : 1 + NAME_WIDTH].rstrip() for text in body] == [short_name(rung) for rung in every]
    assert all("1:01:40 h" in text for text in body[:-1])
    assert all(text.count("]") == 2 for text in body[:-1]), "no figure is cut"
    assert lines[-1].rstrip() == "on validation; the test chooses nothing"
    assert "mixture of two_tower init=auto learning_rate=0.003 and sasrec dropout=0.3" in " ".join(lines[head:])


@pytest.mark.parametrize(
    ("name", "model", "shown"),
    [
        ("ease", "ease", "ease"),
        ("two_tower temperature=0.08", "two_tower", " temperature=0.08"),
        ("item_lists decay=0.95 history_length=50", "item_lists", " decay=0.95 …"),
        ("sasrec attention_dropout=0.25", "sasrec", " attention_dropo…"),
    ],
)
def test_a_variant_is_named_by_what_it_changes(tmp_path, name, model, shown):
    assert short_name(Rung(name, model, tmp_path)) == shown
