"""Reading padded histories: attention and mean pooling, forward and backward, against the padded form of each.

The padded form makes a vector for every place and masks it; attention (DIN) then weighs the items that are there. Ours
gathers those alone (attention) or makes no vector for a place (mean). The two take turns; the figure is CPU seconds of
the padded form over ours.
"""

from __future__ import annotations

import statistics
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

import common
from twotower.towers.interaction.din import DIN
from twotower.towers.table import mean_of_rows

ITEMS, LENGTH = 7_000, 50
WIDTHS = (48, 160)
MEAN_LENGTHS = (5, 25, 43)


def histories(rows: int, mean_length: int) -> Tensor:
    """Padded ids, of lengths evenly around the mean."""
    generator = torch.Generator().manual_seed(mean_length)
    spread = min(mean_length, LENGTH - mean_length)
    lengths = torch.randint(mean_length - spread, mean_length + spread + 1, (rows, 1), generator=generator)
    ids = torch.randint(2, ITEMS, (rows, LENGTH), generator=generator)
    return ids.masked_fill(torch.arange(LENGTH) >= lengths, 0)


def padded(table: Tensor, ids: Tensor) -> Tensor:
    """A vector for every place."""
    return torch.nn.functional.embedding(ids, table, padding_idx=0) * (ids != 0)[:, :, None]


def attention_padded(unit: DIN, table: Tensor, ids: Tensor, queries: Tensor) -> Tensor:
    keys, place = padded(table, ids), ids.flatten().nonzero()[:, 0]
    found = unit.row_logits(keys.flatten(0, 1).index_select(0, place), queries.index_select(0, place // LENGTH))
    logits = found.new_zeros(ids.numel()).index_copy(0, place, found)
    return unit.pool(logits.view(*ids.shape, 1), keys)[:, 0]


def attention_packed(unit: DIN, table: Tensor, ids: Tensor, queries: Tensor) -> Tensor:
    place = ids.flatten().nonzero()[:, 0]
    keys = torch.nn.functional.embedding(ids.flatten().index_select(0, place), table)
    return unit.packed(queries, keys, place, LENGTH)


def mean_padded(unit: DIN, table: Tensor, ids: Tensor, queries: Tensor) -> Tensor:
    return padded(table, ids).sum(1) / (ids != 0).sum(1, keepdim=True).clamp(min=1)


def mean_ours(unit: DIN, table: Tensor, ids: Tensor, queries: Tensor) -> Tensor:
    return mean_of_rows(table, ids)


FORMS: dict[str, tuple[Callable[..., Tensor], Callable[..., Tensor]]] = {
    "attention": (attention_padded, attention_packed),
    "mean": (mean_padded, mean_ours),
}


def one_case(kind: str, width: int, mean_length: int, rows: int, repeats: int) -> dict[str, Any]:
    """CPU seconds of both forms, in turns, and the largest difference of their answers."""
    torch.manual_seed(width)
    table = torch.randn(ITEMS, width, requires_grad=True)
    unit, ids, queries = DIN(width), histories(rows, mean_length), torch.randn(rows, width)
    seconds: dict[str, list[float]] = {"padded": [], "ours": []}
    answers = []
    for _ in range(repeats + 1):
        for name, form in zip(seconds, FORMS[kind], strict=True):
            table.grad = None
            with common.Clock() as clock:
                out = form(unit, table, ids, queries)
                out.sum().backward()
            seconds[name].append(clock.cpu)
            answers.append(out.detach())
    medians = {name: statistics.median(values[1:]) for name, values in seconds.items()}  # the first warms up
    return {
        "kind": kind,
        "width": width,
        "mean_length": mean_length,
        "padded_over_ours": round(medians["padded"] / medians["ours"], 2),
        "cpu_seconds": medians,
        "cpu_seconds_all": seconds,
        "largest_difference": float((answers[0] - answers[1]).abs().max()),
    }


def main() -> None:
    """Measure, print, keep."""
    options = common.parse(common.parser(__doc__))
    rows, repeats = (1_024, 3) if options.quick else (8_192, 7)
    cases = [one_case(kind, width, mean, rows, repeats) for kind in FORMS for width in WIDTHS for mean in MEAN_LENGTHS]
    common.finish(
        "histories",
        options,
        settings={"rows": rows, "length": LENGTH, "items": ITEMS, "repeats": repeats},
        figures={"cases": cases},
    )


if __name__ == "__main__":
    main()
