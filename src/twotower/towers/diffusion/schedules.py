"""Noise schedules of a diffusion: beta_1 … beta_T, all between 0 and 1."""

from __future__ import annotations

import math
from collections.abc import Callable

import torch
from jaxtyping import Float
from torch import Tensor

Schedule = Callable[[int, float, float], Float[Tensor, " steps"]]
"""Number of steps T, beta_1 and beta_T to all betas, in float64."""


def exponential(steps: int, first: float, last: float) -> Float[Tensor, " steps"]:
    """Return beta_r = a · e^(b r), with a and b such that beta_1 = ``first`` and beta_T = ``last``.

    Source: Wang et al., "Unleashing the potential of two-tower models" (T2Diff), WWW 2025, equation 13. Difference:
    a and b are not given, since a · e^(b T) may pass 1; between two ends inside (0, 1) it cannot.

    Examples:
        >>> [round(beta, 6) for beta in exponential(3, 0.01, 0.81).tolist()]
        [0.01, 0.09, 0.81]
    """
    return torch.exp(_between(steps, math.log(first), math.log(last), torch.linspace(0, 1, steps, dtype=torch.float64)))


def linear(steps: int, first: float, last: float) -> Float[Tensor, " steps"]:
    """Return betas at equal distances.

    Examples:
        >>> linear(3, 0.25, 0.75).tolist()
        [0.25, 0.5, 0.75]
    """
    return _between(steps, first, last, torch.linspace(0, 1, steps, dtype=torch.float64))


def logarithmic(steps: int, first: float, last: float) -> Float[Tensor, " steps"]:
    """Return beta_r = ``first`` + (``last`` − ``first``) · ln r / ln T: strong noise from early on.

    The paper names a logarithmic schedule and gives no formula: this one is ours.
    """
    places = torch.arange(1, steps + 1, dtype=torch.float64).log() / math.log(max(2, steps))
    return _between(steps, first, last, places)


def _between(steps: int, first: float, last: float, places: Tensor) -> Tensor:
    """``first`` at place 0 and ``last`` at place 1; one step alone takes the last."""
    if steps == 1:
        return torch.tensor([last], dtype=torch.float64)
    return first + (last - first) * places


SCHEDULES: dict[str, Schedule] = {"exponential": exponential, "linear": linear, "logarithmic": logarithmic}


def betas(schedule: str, *, steps: int, first: float, last: float) -> Float[Tensor, " steps"]:
    """Return the betas of a schedule by its name.

    Args:
        schedule: one of `SCHEDULES`.
        steps: T, at least 1.
        first: beta_1.
        last: beta_T, at least ``first``: all others lie between the two.

    Raises:
        ValueError: if a schedule has no such name, has no step, or leaves (0, 1).

    Examples:
        >>> betas("exponential", steps=2, first=0.1, last=1.2)
        Traceback (most recent call last):
        ...
        ValueError: noise must keep 0 < first_beta <= last_beta < 1 at every step, got 0.1 and 1.2
    """
    if schedule not in SCHEDULES:
        raise ValueError(f"schedule must be one of {', '.join(SCHEDULES)}, got {schedule!r}")
    if steps < 1:
        raise ValueError(f"noise_steps must be at least 1, got {steps}: without a step there is no diffusion")
    if not 0.0 < first <= last < 1.0:
        raise ValueError(f"noise must keep 0 < first_beta <= last_beta < 1 at every step, got {first} and {last}")
    return SCHEDULES[schedule](steps, first, last)
