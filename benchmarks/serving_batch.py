"""``twotower recommend --all``: users a second and memory, against a loop that asks for one user after the other.

The loop asks a retriever in Python, as a script would, for some of the users: its rate does not depend on how many.
"""

from __future__ import annotations

import os
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import twotower

LOOP = 500
"""Users of the plain loop."""


def measured(bundle: Path, to: Path, users: int) -> dict[str, Any]:
    """Seconds, CPU seconds and memory of the whole command, and the rates of both."""
    command = [sys.executable, "-m", "twotower", "recommend", str(bundle), "--all", "--to", str(to)]
    begin = time.perf_counter()
    with (to.parent / "batch.log").open("w") as log:
        process = subprocess.Popen(command, stdout=log, stderr=log)
        _, status, usage = os.wait4(process.pid, 0)
    wall = time.perf_counter() - begin
    process.returncode = os.waitstatus_to_exitcode(status)
    if process.returncode:
        raise RuntimeError((to.parent / "batch.log").read_text())
    cpu = usage.ru_utime + usage.ru_stime
    retriever = twotower.load(bundle)
    asked = [str(row) for row in range(2, min(users, LOOP) + 2)]
    retriever.recommend(asked[0])
    before, before_cpu = time.perf_counter(), time.process_time()
    for user in asked:
        retriever.recommend(user)
    loop_wall, loop_cpu = time.perf_counter() - before, time.process_time() - before_cpu
    return {
        "users": users,
        "seconds": wall,
        "cpu_seconds": cpu,
        "peak_mib": usage.ru_maxrss / 1024,
        "file_mib": to.stat().st_size / 2**20,
        "users_per_second": users / wall,
        "cpu_us_a_user": 1e6 * cpu / users,
        "loop_users_per_second": len(asked) / loop_wall,
        "loop_cpu_us_a_user": 1e6 * loop_cpu / len(asked),
        "loop_cpu_over_batch": (loop_cpu / len(asked)) / (cpu / users),
    }
