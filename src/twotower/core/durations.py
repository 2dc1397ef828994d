"""Times as people write them: a budget becomes seconds, and seconds become words."""

from __future__ import annotations

import re

from twotower.core.errors import InputError, shown

_UNITS = {"h": 3600.0, "m": 60.0, "s": 1.0}


def seconds_of(text: str | int | float) -> float:
    """Return the seconds of a budget such as 90s, 10m, 1h30m; a number is seconds.

    Raises:
        InputError: if it is none, or not above 0.

    Examples:
        >>> seconds_of("10m"), seconds_of("1h30m"), seconds_of("90s"), seconds_of(5)
        (600.0, 5400.0, 90.0, 5.0)
    """
    parts = re.findall(r"(\d+(?:\.\d+)?)\s*([hms])", str(text))
    whole = re.fullmatch(r"\s*(\d+(\.\d+)?\s*[hms]\s*)+", str(text))
    if isinstance(text, int | float) and not isinstance(text, bool):
        found = float(text)
    elif whole is not None:
        found = sum(float(number) * _UNITS[unit] for number, unit in parts)
    else:
        raise InputError(f"budget {shown(str(text))} is no time; write it as 90s, 10m or 1h30m")
    if not 0.0 < found < float("inf"):
        raise InputError(f"budget {shown(str(text))} must be above 0; write it as 90s, 10m or 1h30m")
    return found


def clock(seconds: int | float) -> str:
    """Return a time for people.

    Examples:
        >>> clock(7.4), clock(71), clock(3700)
        ('7 s', '1:11 min', '1:01:40 h')
    """
    whole = max(0, round(seconds))
    if whole < 60:
        return f"{whole} s"
    hours, minutes = divmod(whole // 60, 60)
    return f"{hours}:{minutes:02d}:{whole % 60:02d} h" if hours else f"{minutes}:{whole % 60:02d} min"
