"""Changes that could make SparCode better than its twin, as in the paper, one by one.

On ML-1M: features of users beside those of items, every item as a negative, a larger InnerPDNN, and items that are
their features alone with several tokens, each beside a twin that got the same. On KuaiRand's new users
(``benchmarks/kuairand_cold.py``), where both sides have features: the same, twice the width and layers, and two-towers
against every item too, one of which may take SparCode's dot product.

ML-1M: one learning rate, of the networks a lower one; trainings as in `quick`. KuaiRand: rates and trainings of the
table ``sparcode-cold``, every row chooses.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

from twotower.experiment.run import Run
from twotower.reproduce.sparcode import cold
from twotower.reproduce.sparcode.measure import measure_dense
from twotower.reproduce.sparcode.quick import (
    COUNTED,
    NETWORK,
    OF_NETWORK,
    ONE_SEED,
    RATES,
    against_all,
    form,
    sampled_twin,
)

NEW_USERS = ("kuairand-cold", "deezer-cold-start")
FEATURES: dict[str, Any] = {"user_features": True}
NO_IDS: dict[str, Any] = {"item_id": False}
PDNN: dict[str, Any] = {"scorer": "inner_pdnn", "item_tokens": 2, "hidden": [256, 256, 256]}
"""The paper's widths, and two tokens an item."""
SEVERAL: dict[str, Any] = {"scorer": "max_sim", "item_tokens": 4}
WIDE: dict[str, Any] = {"dim": 64, "layers": 2}
DSSM: dict[str, Any] = {**cold.TOWER, "score": "cosine", "temperature": 0.2}
SCORES: tuple[dict[str, Any], ...] = ({"score": "dot", "temperature": 1.0}, {"temperature": 0.1})
"""What the twin of new users chooses from where every item is a negative, beside the cosine over 0.2."""


def of_sequences() -> dict[str, Sequence[Run]]:
    """Return the rows where users have histories."""

    def network(settings: dict[str, Any]) -> Run:
        return form({**PDNN, **settings}, NETWORK, OF_NETWORK, rate=RATES[1])

    return {
        "twin": [sampled_twin({})],
        "twin_features": [sampled_twin(FEATURES)],
        "twin_all_negatives": [against_all(sampled_twin({}))],
        "twin_no_ids": [sampled_twin(NO_IDS)],
        "sparcode": [form({})],
        "sparcode_features": [form(FEATURES)],
        "sparcode_all_negatives": [against_all(form({}))],
        "sparcode_no_ids": [form({**NO_IDS, **SEVERAL})],
        "sparcode_pdnn": [network({})],
        "sparcode_pdnn_features": [network(FEATURES)],
        **COUNTED,
    }


def of_new_users() -> dict[str, Sequence[Run]]:
    """Return the rows where users are known by features alone."""
    code = {**cold.ENCODER, "warm_up": 3.0}

    def all_items(runs: list[Run]) -> list[Run]:
        return [against_all(run) for run in runs]

    def twins(settings: dict[str, Any]) -> list[Run]:
        return cold.trained("sparcode_twin", {**cold.ENCODER, "temperature": 0.2, **settings})

    def codes(settings: dict[str, Any]) -> list[Run]:
        return cold.trained("sparcode", {**code, **settings})

    return {
        "twin": twins({}),
        "twin_wide": twins(WIDE),
        "twin_all_negatives": all_items(twins({})),
        "twin_scores_all_negatives": all_items([run for score in SCORES for run in twins(score)]),
        "dssm_all_negatives": all_items(cold.trained("two_tower", DSSM)),
        "twin_no_ids": twins(NO_IDS),
        "sparcode": codes({}),
        "sparcode_wide": codes(WIDE),
        "sparcode_all_negatives": all_items(codes({})),
        "sparcode_no_ids": codes({**NO_IDS, **SEVERAL}),
        "sparcode_pdnn": codes(PDNN),
        "sparcode_pdnn_no_ids": codes({**PDNN, **NO_IDS, "item_tokens": 4}),
        "all_to_all_pdnn": codes({**PDNN, "codes": "none"}),
    }


def variants(data: str) -> dict[str, Sequence[Run]]:
    """Return every row."""
    return of_new_users() if data in NEW_USERS else of_sequences()


TABLE = replace(
    cold.TABLE,
    name="sparcode-tries",
    title="What could make SparCode better than its twin",
    data=("ml-1m", *NEW_USERS),
    variants=variants,
    measure=measure_dense,
    reference="twin",
    fewer=ONE_SEED,
    notes={
        "twin": "the two-tower with SparCode's encoder (self-attention) and loss.",
        "twin_all_negatives": "the cosine over 0.2 (ML-1M: 0.06), as in every other row of the twin.",
        "twin_scores_all_negatives": "chooses between the dot product, as SparCode has it, and the cosine over 0.1.",
        "dssm_all_negatives": "the DSSM of `sparcode-cold`, cosine over 0.2.",
        "twin_no_ids": "items are their features alone.",
        "sparcode_no_ids": "likewise, with four tokens an item and max-sim.",
        "sparcode_pdnn": "InnerPDNN of three layers of 256, two tokens an item; on ML-1M against 128 items.",
        "sparcode_pdnn_no_ids": "InnerPDNN, four tokens an item, features alone.",
    },
)
TABLES = (TABLE,)
