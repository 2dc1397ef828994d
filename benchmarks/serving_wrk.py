"""The same requests by wrk (https://github.com/wg/wrk), a generator that others wrote: what it counts beside ours.

One thread of wrk, pinned to the core that ours is pinned to, with as many connections, asks for users drawn by chance
as fast as it is answered. It counts an answer whose status is not 2xx or 3xx as failed, and does not read the list.
"""

from __future__ import annotations

import json
import os
import re
import resource
import shutil
import subprocess
from pathlib import Path
from typing import Any

SCRIPT = """
math.randomseed(0)
wrk.method = "POST"
wrk.headers["Content-Type"] = "application/json"
request = function()
  return wrk.format(nil, "/v1/recommend", nil, string.format('{"user":"%d","k":10}', math.random(2, USERS - 1)))
end
done = function(summary, latency)
  local errors = summary.errors
  local failed = errors.status + errors.read + errors.write + errors.timeout + errors.connect
  io.write(string.format('\\nJSON {"requests": %d, "seconds": %f, "failed": %d, "p50_ms": %f, "p99_ms": %f}\\n',
    summary.requests, summary.duration / 1e6, failed, latency:percentile(50) / 1000, latency:percentile(99) / 1000))
end
"""


def version(program: str) -> str | None:
    """What a wrk says it is; None: there is none of that name."""
    found = shutil.which(program)
    if found is None:
        return None
    said = subprocess.run([found, "-v"], capture_output=True, text=True, check=False)
    match = re.search(r"^wrk \S+", said.stdout + said.stderr, re.MULTILINE)
    return None if match is None else match[0]


def load(program: str, place: Path, port: int, users: int, seconds: float, connections: int) -> dict[str, Any]:
    """Ask for so long, as fast as there are answers."""
    script = place / "wrk.lua"
    script.write_text(SCRIPT.replace("USERS", str(users)), encoding="utf-8")
    command = [program, "-t1", f"-c{connections}", f"-d{max(1, round(seconds))}s", "-s", str(script)]
    if shutil.which("taskset"):
        command = ["taskset", "-c", str(max(os.sched_getaffinity(0))), *command]
    before = resource.getrusage(resource.RUSAGE_CHILDREN)
    said = subprocess.run([*command, f"http://127.0.0.1:{port}"], capture_output=True, text=True, check=True)
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    found: dict[str, Any] = json.loads(said.stdout.rpartition("JSON ")[2])
    found["per_second"] = found["requests"] / found.pop("seconds")
    found["cpu"] = after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime
    return found
