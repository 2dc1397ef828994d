"""Loss protocol: one positive a row against its negatives."""

from __future__ import annotations

from typing import Protocol, runtime_checkable

from torch import Tensor


@runtime_checkable
class Loss(Protocol):
    """Reduce the scores of positives and negatives, log q and a mask to a scalar.

    Scores come already divided by the temperature (score * scale); log q is subtracted here and nowhere else, so the
    order logit = score / temperature − log q cannot be got wrong.
    """

    def __call__(
        self,
        positive_scores: Tensor,
        negative_scores: Tensor,
        negative_log_q: Tensor,
        negative_mask: Tensor,
        positive_log_q: Tensor | None = None,
    ) -> Tensor:
        """Return the mean over rows.

        ``positive_scores`` is [rows], ``negative_scores`` and the boolean ``negative_mask`` (False: does not count)
        are [rows, candidates], ``negative_log_q`` is [candidates] or [rows, candidates].
        ``positive_log_q`` [rows] is given only with ``sampling.correct_positive``, which needs a loss whose class says
        ``reads_positive_log_q = True``; a loss that does not say so may leave the argument out.
        """
        ...
