"""Metrics of the service, as the text that Prometheus reads."""

from __future__ import annotations

import threading
from bisect import bisect_left
from collections import Counter

BOUNDS = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 10.0)
"""Upper ends of the buckets of a request's seconds."""


class Metrics:
    """Count requests by route and status, their seconds by route, and swaps by outcome. Threads may share it."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._requests: Counter[tuple[str, int]] = Counter()
        self._buckets: dict[str, list[int]] = {}
        self._seconds: Counter[str] = Counter()
        self._swaps: Counter[str] = Counter({"done": 0, "refused": 0})
        self.in_flight = 0

    def answered(self, route: str, status: int, seconds: float) -> None:
        """Count one request; ``route`` is one of the service's own, never a path that a client made up."""
        with self._lock:
            self._requests[route, status] += 1
            self._buckets.setdefault(route, [0] * (len(BOUNDS) + 1))[bisect_left(BOUNDS, seconds)] += 1
            self._seconds[route] += seconds  # type: ignore[assignment]  # a Counter adds fractions as well

    def swapped(self, outcome: str) -> None:
        """Count one swap: "done" or "refused"."""
        with self._lock:
            self._swaps[outcome] += 1

    def text(self, *, model: str, digest: str, ready: bool) -> str:
        """Return all figures in Prometheus' text format."""
        with self._lock:
            lines = ["# HELP twotower_requests_total Requests answered.", "# TYPE twotower_requests_total counter"]
            lines += [
                f'twotower_requests_total{{route="{route}",status="{status}"}} {count}'
                for (route, status), count in sorted(self._requests.items())
            ]
            name = "twotower_request_seconds"
            lines += [
                f"# HELP {name} Seconds from a request's head to the end of its answer.",
                f"# TYPE {name} histogram",
            ]
            for route, buckets in sorted(self._buckets.items()):
                total = 0
                for bound, count in zip((*map(str, BOUNDS), "+Inf"), buckets, strict=True):
                    total += count
                    lines.append(f'{name}_bucket{{route="{route}",le="{bound}"}} {total}')
                lines.append(f'{name}_sum{{route="{route}"}} {self._seconds[route]:.6f}')
                lines.append(f'{name}_count{{route="{route}"}} {total}')
            lines += ["# HELP twotower_swaps_total Swaps of the bundle.", "# TYPE twotower_swaps_total counter"]
            lines += [
                f'twotower_swaps_total{{outcome="{name}"}} {count}' for name, count in sorted(self._swaps.items())
            ]
            for gauge, meaning, value in (
                ("twotower_in_flight", "Requests that are answered or wait for a thread.", str(self.in_flight)),
                ("twotower_ready", "1 while requests are taken.", str(int(ready))),
            ):
                lines += [f"# HELP {gauge} {meaning}", f"# TYPE {gauge} gauge", f"{gauge} {value}"]
            lines += ["# HELP twotower_bundle_info The bundle that is served.", "# TYPE twotower_bundle_info gauge"]
            lines.append(f'twotower_bundle_info{{model="{_label(model)}",digest="{_label(digest)}"}} 1')
        return "\n".join(lines) + "\n"


def _label(text: str) -> str:
    return text.replace("\\", "\\\\").replace('"', '\\"').replace("\n", "\\n")
