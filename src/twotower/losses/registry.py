"""Registry of losses. Add one of ours by its file and one line here; one of your own by `LOSSES.register`."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from twotower.core.registry import Registry
from twotower.losses.base import Loss

LOSSES: Registry[Callable[..., Any]] = Registry(
    "loss",
    "twotower.LOSSES",
    {
        "full_softmax": "twotower.losses.full_softmax:full_softmax",
        "sampled_softmax": "twotower.losses.sampled_softmax:SampledSoftmax",
        "bce": "twotower.losses.pointwise:SampledBCE",
        "gbce": "twotower.losses.pointwise:GBCE",
        "bpr": "twotower.losses.pairwise:BPR",
        "triplet": "twotower.losses.pairwise:Triplet",
    },
    group="twotower.losses",
)
"""`full_softmax` is the one that draws no negatives; all others meet the protocol `twotower.losses.base.Loss`."""


def build_loss(name: str, num_items: int) -> Loss:
    """Build the loss of a name; a class with a classmethod ``for_catalogue(num_items)`` is built by it.

    Args:
        name: any but "full_softmax", which is no loss against samples.
        num_items: known items of the catalogue.

    Raises:
        InputError: if no loss has that name; names the closest.
    """
    found: Any = LOSSES.get(name)
    loss: Loss = found.for_catalogue(num_items) if hasattr(found, "for_catalogue") else found()
    return loss
