"""Published figures that the board is read against, as one text for the notes of its table."""

from __future__ import annotations

from typing import NamedTuple


class Anchor(NamedTuple):
    """Describe one published figure."""

    data: str
    model: str
    hit_rate: float
    ndcg: float
    source: str


PUBLISHED = (
    Anchor("ml-1m-3706", "FuXi-alpha", 0.3164, 0.1813, "blondered/transformer_benchmark"),
    Anchor("ml-1m-3706", "eSASRec", 0.3133, 0.1772, "blondered/transformer_benchmark"),
    Anchor("ml-1m-3416", "LRURec", 0.3264, 0.1930, "yueqirex/LRURec"),
    Anchor("ml-1m-3416", "SASRec with 3,000 negatives", 0.3159, 0.1857, "antklen/sasrec-bert4rec-recsys23"),
    Anchor("amazon-beauty-5core", "SASRec with a sampled softmax", 0.0921, 0.0531, "blondered/transformer_benchmark"),
    Anchor("amazon-beauty-5core", "eSASRec", 0.0928, 0.0523, "blondered/transformer_benchmark"),
)
"""None comes with an interval. The first and the last two mask what was seen, LRURec the window's items."""


def as_text(anchors: tuple[Anchor, ...]) -> str:
    """Return the figures in one line, data set by data set.

    Examples:
        >>> as_text(PUBLISHED[2:3])
        'ml-1m-3416: LRURec 0.3264/0.1930 (yueqirex/LRURec)'
    """
    sets = dict.fromkeys(anchor.data for anchor in anchors)
    return "; ".join(
        f"{name}: "
        + ", ".join(
            f"{one.model} {one.hit_rate:.4f}/{one.ndcg:.4f} ({one.source})" for one in anchors if one.data == name
        )
        for name in sets
    )


ANCHORS = as_text(PUBLISHED) + "."
