"""Table of FIT's queries as printed: equation 5 without a scale, and item vectors that start at N(0, 1).

Source: Xiong et al., SIGIR 2025, equation 5 and section 5.1.4. Our FIT scales that attention
(`parameter_free_attention`) and starts item vectors at N(0, 1/16), after which most items come to share a few of the 64
queries. Nothing of item vectors is said in the paper; N(0, 1) is PyTorch's own start of an embedding.
``queries_in_use`` is the figure to read.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from twotower.experiment.run import Run
from twotower.reproduce.fit import COSINE, ONE_QUERY, RATES, fit_table, pair_run

COLUMNS = ("auc", "relaimpr", "log_loss", "gauc", "recall@100", "queries_in_use", "seconds_per_epoch")

STARTS: dict[str, dict[str, Any]] = {
    "fit": {},
    "equation_5": {"scaled_attention": False},
    "items_from_n01": {"item_std": 1.0},
    "equation_5_items_from_n01": {"scaled_attention": False, "item_std": 1.0},
    "two_tower_din": ONE_QUERY,
    "two_tower_din_items_from_n01": {**ONE_QUERY, "item_std": 1.0},
}
"""FIT and its history encoder in a two-tower, from either start."""


def query_starts(data: str) -> Mapping[str, Sequence[Run]]:
    """Return the rows, each with the same two rates."""
    return {
        name: [pair_run("fit", {"temperature": COSINE, **settings}, reading="all", rate=rate) for rate in RATES]
        for name, settings in STARTS.items()
    }


TABLES = (
    fit_table(
        "fit-query-start",
        "FIT with equation 5 as printed and item vectors from N(0, 1)",
        query_starts,
        reference="fit",
        columns=COLUMNS,
        seeds=3,
    ),
)
