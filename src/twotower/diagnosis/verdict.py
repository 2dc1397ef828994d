"""Verdict from figures: each rule looks at one thing that can be wrong and gives its reason."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, Literal, NamedTuple, TypeAlias

from twotower.diagnosis.statistics import Statistics
from twotower.diagnosis.thresholds import Thresholds

Verdict: TypeAlias = Literal["healthy", "suspect", "collapsed"]


CARRIED = 0.6
"""A coordinate with this share of a space's squared length, or of what differs, is named in the reasons."""


class Reason(NamedTuple):
    """Hold why a space is not healthy: the figure, the threshold it crossed, and a sentence for people."""

    name: str
    level: Verdict
    value: float
    threshold: float
    sentence: str


Rule: TypeAlias = Callable[[Statistics, Thresholds], Reason | None]


def judge(
    found: Statistics, thresholds: Thresholds, rules: Sequence[Rule] | None = None
) -> tuple[Verdict, list[Reason]]:
    """Return the verdict by ``rules`` (None: all) and its reasons, the most serious first.

    The most serious is the verdict. None: healthy.
    """
    rules = RULES if rules is None else rules
    reasons = [reason for rule in rules if (reason := rule(found, thresholds)) is not None]
    reasons.sort(key=lambda reason: reason.level != "collapsed")
    return (reasons[0].level if reasons else "healthy"), reasons


def structure(baselines: dict[str, Any]) -> float | None:
    """Return how much more the nearest neighbours differ from the rest than in the shuffled space.

    1 is noise, None when too small to tell.
    """
    own = baselines.get("sample", {}).get("neighbour_gain")
    shuffled = baselines.get("permuted", {}).get("neighbour_gain")
    return own / shuffled if own is not None and shuffled else None


def _alone(figures: dict[str, Any]) -> str:
    """Words for the coordinate that carries most of the space alone; empty where none does."""
    share, place = figures.get("largest_dimension_share"), figures.get("largest_dimension")
    if share is None or share < CARRIED:
        return ""
    name = figures.get("largest_dimension_name")
    called = f"'{name}' (dimension {place}, from 0)" if name else f"dimension {place} (from 0)"
    return f"; {called} alone carries {share:.0%} of it"


def _cone(found: Statistics, thresholds: Thresholds) -> Reason | None:
    """A high mean cosine is a cone; what remains about the mean decides how bad that is."""
    limits, value = thresholds["cone"], found.statistics["mean_cosine"]
    if value is None or value <= limits["suspect"]:
        return None
    relief = structure(found.baselines)
    stands_out = relief is not None and relief >= limits["relief"]
    is_noise = relief is None or relief < limits["structure"]
    if value > limits["collapsed"]:
        return Reason(
            "shared_direction",
            "collapsed",
            value,
            limits["collapsed"],
            f"the average pair of vectors has cosine {value:.4f}: all point the same way{_alone(found.statistics)}",
        )
    if value > limits["collapsed_without"] and is_noise:
        return Reason(
            "shared_direction",
            "collapsed",
            value,
            limits["collapsed_without"],
            f"the average pair has cosine {value:.3f}, and what differs looks like noise{_alone(found.statistics)}",
        )
    if stands_out and value <= limits["always"]:
        return None
    return Reason(
        "cone",
        "suspect",
        value,
        limits["suspect"],
        f"the average pair has cosine {value:.3f}: the vectors share one direction (subtracting the mean removes it)"
        f"{_alone(found.statistics)}",
    )


def _rank(found: Statistics, thresholds: Thresholds) -> Reason | None:
    """Too few directions about the mean; a cone on top of that makes it worse."""
    limits, value = thresholds["rank"], found.centred["direction_participation"]
    if value is None:
        return Reason("identical", "collapsed", 0.0, limits["collapsed"], "all vectors are the same")
    if found.statistics["vectors"] < limits["least_vectors"]:
        return None
    reach = found.baselines["random"]["direction_participation"] or value
    in_cone = (found.statistics["mean_cosine"] or 0.0) > thresholds["cone"]["suspect"]
    levels: list[tuple[Verdict, float]] = [
        ("collapsed", limits["collapsed_in_cone" if in_cone else "collapsed"]),
        ("suspect", limits["suspect"]),
    ]
    for level, most in levels:
        limit = min(most, limits["of_random"] * reach)
        if value < limit:
            sentence = (
                f"about their mean the vectors fill about {value:.1f} of {found.statistics['dimensions']} directions; "
                f"random vectors of this number and size reach {reach:.0f}{_alone(found.centred)}"
            )
            return Reason("rank", level, value, limit, sentence)
    return None


def _dominant_direction(found: Statistics, thresholds: Thresholds) -> Reason | None:
    share, statistics = found.centred["direction_top_share"], found.statistics
    if share is None or statistics["vectors"] < thresholds["rank"]["least_vectors"]:
        return None
    equal = 1.0 / min(statistics["dimensions"], statistics["vectors"] - 1)
    return _above(
        "dominant_direction",
        (share - equal) / (1.0 - equal),
        thresholds,
        f"one axis holds {share:.0%} of what differs between the directions{_alone(found.centred)}",
    )


def _duplicates(found: Statistics, thresholds: Thresholds) -> Reason | None:
    statistics = found.statistics
    # zero vectors repeat each other too, and have a reason of their own
    repeats = statistics["duplicates"] - max(0, statistics["zero_vectors"] - 1)
    exact = repeats / statistics["vectors"]
    near = statistics["near_duplicates"] or 0.0
    sentence = f"{exact:.1%} of the vectors repeat an earlier one; {near:.1%} have one as good as equal beside them"
    return _above("duplicates", max(exact, near), thresholds, sentence)


def _dead_dimensions(found: Statistics, thresholds: Thresholds) -> Reason | None:
    statistics = found.statistics
    if found.centred["direction_participation"] is None:
        return None
    dead, dimensions = statistics["dead_dimensions"], statistics["dimensions"]
    return _above("dead_dimensions", dead / dimensions, thresholds, f"{dead} of {dimensions} dimensions never change")


def _zero_vectors(found: Statistics, thresholds: Thresholds) -> Reason | None:
    statistics = found.statistics
    zero, count = statistics["zero_vectors"], statistics["vectors"]
    return _above("zero_vectors", zero / count, thresholds, f"{zero} of {count} vectors are all zero")


def _norms(found: Statistics, thresholds: Thresholds) -> Reason | None:
    value = found.statistics["norm_max_over_median"]
    if value is None:
        return None
    sentence = f"the longest vector is {value:.0f} times the median: it wins every inner product"
    return _above("norms", value, thresholds, sentence)


def _popularity(found: Statistics, thresholds: Thresholds) -> Reason | None:
    share = found.statistics["popularity_variance_share"]
    if share is None:
        return None
    return _above("popularity", share, thresholds, f"popularity alone explains {share:.0%} of the variance")


def _hubs(found: Statistics, thresholds: Thresholds) -> Reason | None:
    share = found.statistics["anti_hubs"]
    if share is None:
        return None
    return _above("hubs", share, thresholds, f"{share:.0%} of the vectors are nobody's neighbour: a few hubs take all")


def _above(name: str, value: float, thresholds: Thresholds, sentence: str) -> Reason | None:
    limits = thresholds[name]
    if value > limits["collapsed"]:
        return Reason(name, "collapsed", value, limits["collapsed"], sentence)
    if value > limits["suspect"]:
        return Reason(name, "suspect", value, limits["suspect"], sentence)
    return None


RULES: list[Rule] = [
    _rank,
    _cone,
    _dominant_direction,
    _duplicates,
    _popularity,
    _norms,
    _dead_dimensions,
    _zero_vectors,
    _hubs,
]
LIGHT_RULES: list[Rule] = [_rank, _cone]
"""Those that ask for neither neighbours nor clusters: see `twotower.diagnosis.quick`."""
