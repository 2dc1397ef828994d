"""Early stopping: how many evaluations without a better metric a training bears, by its settings."""

from __future__ import annotations

from collections.abc import Sequence

from twotower.training.callbacks import EpochRecord
from twotower.training.config import Training


def is_out_of_patience(records: Sequence[EpochRecord], best_epoch: int, config: Training) -> bool:
    """Return whether training stops after the last of ``records``, whose best epoch by ``config.metric`` is given.

    Evaluations count that are worse than the best and lie at least `Training.patience_steps` apart; a loss that still
    falls outweighs them.

    Args:
        records: one an epoch; those with the metric are evaluations.
        best_epoch: 0 where there is nothing yet that the model would serve with: see `twotower.models.base.Phased`.
        config: of the training.
    """
    if not best_epoch or not config.patience:
        return False
    judged = [record for record in records if config.metric in record.metrics]
    worse = 0
    last = next(record.step for record in judged if record.epoch == best_epoch)
    for record in judged:
        if record.epoch > best_epoch and record.step - last >= config.patience_steps:
            worse, last = worse + 1, record.step
    return config.patience <= worse and not _still_falls(judged, config.patience_loss)


def _still_falls(judged: Sequence[EpochRecord], share: float) -> bool:
    """Whether the training loss fell by more than ``share`` since the evaluation before; with 0 it is not asked."""
    if not share or len(judged) < 2:
        return False
    before, now = judged[-2].loss, judged[-1].loss
    return before - now > share * abs(before)
