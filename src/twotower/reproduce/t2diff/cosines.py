"""Cosines of the next items that T2Diff restores with the true ones, in training and when asked."""

from __future__ import annotations

import torch

from twotower.core.seeds import derive
from twotower.data.dataset import Dataset
from twotower.data.examples import SequenceRows
from twotower.data.log import Log
from twotower.data.split import Targets
from twotower.models.encode import inference, users_with_history
from twotower.models.t2diff import T2Diff
from twotower.towers.diffusion.restore import likeness

ROWS = 128
"""Windows and users at a time."""


def restored_cosines(model: T2Diff, dataset: Dataset, train: Log, asked: Targets, *, seed: int = 0) -> dict[str, float]:
    """Return the mean cosine of restored and true next vectors, "cosine_trained" and "cosine_asked".

    The first is over all places of the training windows, by the draws of training from ``seed``; the second at the
    latest place of every user that is asked for, against the item to be found, as serving restores it. Empty where
    the model restores nothing.
    """
    part = model.next_item
    if part is None:
        return {}
    rows = SequenceRows(dataset, train, history_length=model.history_length or 0, item_features=False)
    total, places = 0.0, 0
    with inference(model), torch.random.fork_rng([dataset.device] if dataset.device.type == "cuda" else []):
        torch.manual_seed(derive(seed, "restored cosines"))
        for some in torch.arange(len(rows)).split(ROWS):
            batch = rows.cut(some)
            following, mask = model.embedded(batch.items.ids), batch.items.ids > 0
            restored, _ = part.learn(model.embedded(batch.users.history), following, mask)
            count = int(mask.sum())
            total, places = total + count * likeness(restored, following, mask), places + count
        found, users = 0.0, asked.users()
        history, truth = asked.history.positives(), asked.truth
        for ids in users.split(ROWS):
            windows = users_with_history(dataset, history, ids, model.history_length).history
            lengths = (windows > 0).sum(dim=1)
            restored = part.at_end(model.embedded(windows), lengths)[:, None]
            following = model.embedded(truth.items[truth.offsets[ids]][:, None])
            found += likeness(restored, following, (lengths > 0)[:, None]) * int((lengths > 0).sum())
    return {"cosine_trained": total / places, "cosine_asked": found / len(users)}
