"""Full softmax: the positive of each row against every item, for models whose score is an inner product."""

from __future__ import annotations

from torch import Tensor

from twotower.core.records import FIRST_KNOWN, Batch
from twotower.data.dataset import Dataset
from twotower.losses.full_softmax import full_softmax
from twotower.models.base import Model
from twotower.training.distributed import World
from twotower.training.objective import Plain, own_losses, with_terms
from twotower.training.regularise import Regulariser


class AgainstAll(Plain):
    """Compute the full softmax: every item is a negative of every row. All candidates are encoded once a step.

    An item without training events would be a negative in every step and a positive in none, so that training would
    teach that nobody wants it. ``seen`` leaves such items out.

    Args:
        dataset: whose items are encoded.
        regulariser: terms of the states alone; None: none.
        seen: whether each item has training events, bool [items]; None: all items are candidates.
        world: the processes that train as one; each takes its rows over the whole table.
    """

    def __init__(
        self,
        dataset: Dataset,
        regulariser: Regulariser | None = None,
        seen: Tensor | None = None,
        *,
        world: World | None = None,
    ) -> None:
        self.items, self.slots = dataset.all_items(), None
        if seen is not None and not seen[FIRST_KNOWN:].all():
            candidates = seen.clone()
            candidates[:FIRST_KNOWN] = True
            self.items = dataset.items(candidates.nonzero()[:, 0])
            self.slots = candidates.long().cumsum(0) - 1
        self.regulariser, self.world = regulariser or Regulariser({}), world or World()

    def __call__(self, model: Model, batch: Batch) -> Tensor:
        """Return the mean over rows."""
        encoded = model(batch)
        table = model.encode_items(self.items)
        targets = encoded.item_ids if self.slots is None else self.slots[encoded.item_ids]
        loss = full_softmax(encoded.users, table, targets, model.logit_scale())
        if not self.regulariser.weights:
            return with_terms(loss, own_losses(encoded))
        together = self.world.gather(encoded._replace(item_ids=targets, items=None))
        return with_terms(loss, own_losses(encoded), self.regulariser(together, table))
