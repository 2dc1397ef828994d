"""A loss of your own: a hinge, by its class and as an object with settings.

Run it with ``python examples/own_loss.py``.
"""

from __future__ import annotations

from own_data_frame import listening_log
from torch import Tensor, nn

import twotower


@twotower.LOSSES.register("hinge")
class Hinge(nn.Module):
    """The mean of max(0, margin - positive + negative) over the negatives that count.

    Args:
        margin: in units of the logits.
    """

    def __init__(self, *, margin: float = 1.0) -> None:
        super().__init__()
        self.margin = margin

    def forward(
        self, positive_scores: Tensor, negative_scores: Tensor, negative_log_q: Tensor, negative_mask: Tensor
    ) -> Tensor:
        """Scores come divided by the temperature; the mask is False where a negative does not count."""
        gap = (self.margin - positive_scores[:, None] + negative_scores).clamp(min=0.0)
        return (gap * negative_mask).sum() / negative_mask.sum().clamp(min=1)


def main() -> None:
    """Train with both forms and compare them."""
    data = twotower.Dataset.from_frames(listening_log(), user="listener", item="song", time="time")
    common = {"epochs": 8, "batch_size": 64, "dim": 8, "sampler": "uniform", "number": 10}
    by_class = twotower.train("two_tower", data, loss=Hinge, **common)
    as_object = twotower.train("two_tower", data, loss=Hinge(margin=5.0), **common)
    print(twotower.compare({"margin 1": by_class, "margin 5": as_object}))


if __name__ == "__main__":
    main()
