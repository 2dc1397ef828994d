"""Index loss: answers of an approximate index beside those of exact search, for the users of a split."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from twotower.core.records import TopK
from twotower.core.seeds import torch_generator
from twotower.data.dataset import Dataset
from twotower.data.split import Targets
from twotower.index.base import AnyIndex
from twotower.index.registry import exact_index
from twotower.models.encode import inference, users_with_history
from twotower.serving.bundle import Bundle

MOST_USERS = 2_000
"""Users asked about; of more, a sample is drawn."""
TILE = 256


@dataclass(frozen=True)
class IndexLoss:
    """Hold the loss of an index, apart from the loss of its model. Keys are list lengths."""

    kind: str
    settings: dict[str, Any]
    users: int
    """Users that were asked about."""
    against_exact: dict[int, float]
    """Share of exact search's answers that the index finds."""
    truth_exact: dict[int, float]
    """Recall of the held-out items by exact search: what the model finds."""
    truth_index: dict[int, float]
    """Recall of the held-out items by the index: what is served."""

    def to_json(self) -> dict[str, Any]:
        """Return plain values, by names such as "recall@10"."""
        return {
            "kind": self.kind,
            "settings": self.settings,
            "users": self.users,
            "against_exact": {f"recall@{k}": value for k, value in self.against_exact.items()},
            "against_truth": {
                f"recall@{k}": {"exact": value, "index": self.truth_index[k]} for k, value in self.truth_exact.items()
            },
        }


def index_loss(
    bundle: Bundle, dataset: Dataset, targets: Targets, ks: Sequence[int], *, mask_seen: bool = True
) -> IndexLoss | None:
    """Return what the bundle's index loses on a split; None where it has no index, or an exact one.

    Each list length is a search of its own, as a caller's is: a longer list is searched for harder.

    Args:
        bundle: its stored item states are searched.
        dataset: features of users.
        targets: the histories that users are encoded from, and the items to be found.
        ks: list lengths.
        mask_seen: whether what a user has seen is left out.
    """
    index = bundle.index
    if index is None or index.is_exact:
        return None
    exact = exact_index(bundle.model)
    exact.build(bundle.item_states, bundle.item_ids)
    truth, history = targets.truth.to(dataset.device).positives(), targets.history.to(dataset.device)
    users = truth.lengths.nonzero()[:, 0]
    order = torch.randperm(len(users), generator=torch_generator(0, "index loss"))[:MOST_USERS].sort()[0]
    users = users[order.to(users.device)]
    kept: dict[int, Tensor] = {k: torch.zeros(0, dtype=torch.float64) for k in ks}
    by_exact, by_index = dict(kept), dict(kept)
    read = history.positives()
    with inference(bundle.model):
        for some in users.split(TILE):
            states = bundle.model.encode_users(users_with_history(dataset, read, some, bundle.model.history_length))
            seen = history.seen(some) if mask_seen else None
            wanted = truth.seen(some)
            for k in ks:
                true, found = (_asked(one, states, k, seen) for one in (exact, index))
                kept[k] = torch.cat([kept[k], shared(true, found)])
                by_exact[k] = torch.cat([by_exact[k], shared(wanted, true)])
                by_index[k] = torch.cat([by_index[k], shared(wanted, found)])
    means = [{k: values.mean().item() for k, values in part.items()} for part in (kept, by_exact, by_index)]
    return IndexLoss(bundle.manifest["index"], index.settings, len(users), *means)


def shared(wanted: Tensor, found: Tensor) -> Tensor:
    """Return the share of each row's distinct wanted ids that were found: float64 [rows]; 1 where nothing is wanted.

    Args:
        wanted: ids [rows, any], -1 fills up.
        found: ids [rows, k], -1 fills up.

    Examples:
        >>> shared(torch.tensor([[3, 4, 4, -1]]), torch.tensor([[4, 9, -1]])).tolist()
        [0.5]
    """
    wanted = wanted.sort(dim=1)[0]
    counted = wanted >= 0
    counted[:, 1:] &= wanted[:, 1:] != wanted[:, :-1]
    number = counted.sum(dim=1)
    hits = ((wanted[:, :, None] == found[:, None, :]).any(dim=2) & counted).sum(dim=1)
    return torch.where(number > 0, hits / number.clamp(min=1).double(), 1.0).cpu()


def _asked(index: AnyIndex, states: Any, k: int, seen: Tensor | None) -> Tensor:
    found: TopK = index.search(states, k, seen)
    return found.ids
