"""Asks a service as fast as it answers, or at a steady rate, and prints one JSON object; a process of its own.

``python serving_load.py PORT USERS SECONDS CONNECTIONS [RATE]``. At a rate, a request's time counts from the moment
when it was due, so that a slow answer is charged for those that had to wait behind it.
"""

from __future__ import annotations

import asyncio
import json
import os
import random
import resource
import sys
import time


class Client(asyncio.Protocol):
    """One connection: a request at a time, over raw HTTP/1.1."""

    def __init__(self, load: Load) -> None:
        self.load = load
        self.buffer = b""
        self.due = 0.0

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self.transport = transport
        self.load.idle(self)

    def ask(self, due: float) -> None:
        self.due = due
        self.transport.write(self.load.request())  # type: ignore[attr-defined]

    def data_received(self, data: bytes) -> None:
        self.buffer += data
        head = self.buffer.find(b"\r\n\r\n")
        if head < 0:
            return
        start = self.buffer.lower().find(b"content-length:") + 15
        length = int(self.buffer[start : self.buffer.find(b"\r\n", start)])
        if len(self.buffer) < head + 4 + length:
            return
        good = self.buffer[9:12] == b"200" and b'"items":[{' in self.buffer
        self.buffer = b""
        self.load.answered(time.perf_counter() - self.due, good)
        self.load.idle(self)

    def connection_lost(self, error: Exception | None) -> None:
        if not self.load.over():
            self.load.failed += 1


class Load:
    """Counts answers, and says who asks when."""

    def __init__(self, users: int, seconds: float, rate: float) -> None:
        self.users, self.rate = users, rate
        self.begin = time.perf_counter()
        self.end = self.begin + seconds
        self.sent = self.failed = 0
        self.times: list[float] = []
        self.waiting: list[Client] = []
        self.due: list[float] = []
        self.random = random.Random(0)

    def over(self) -> bool:
        return time.perf_counter() >= self.end

    def request(self) -> bytes:
        body = b'{"user":"%d","k":10}' % self.random.randrange(2, self.users)
        return (
            b"POST /v1/recommend HTTP/1.1\r\nHost: x\r\nContent-Type: application/json\r\nContent-Length: %d\r\n\r\n%s"
            % (len(body), body)
        )

    def idle(self, client: Client) -> None:
        if self.over():
            return
        if not self.rate:
            client.ask(time.perf_counter())
        elif self.due:
            client.ask(self.due.pop(0))
        else:
            self.waiting.append(client)

    def answered(self, seconds: float, good: bool) -> None:
        self.times.append(seconds)
        self.failed += not good

    async def tick(self) -> None:
        """Hand out requests as they fall due."""
        while not self.over():
            while self.begin + self.sent / self.rate <= time.perf_counter():
                due = self.begin + self.sent / self.rate
                self.sent += 1
                if self.waiting:
                    self.waiting.pop(0).ask(due)  # in turn: a server closes a connection that rests for seconds
                else:
                    self.due.append(due)
            await asyncio.sleep(0.001)


async def run(port: int, users: int, seconds: float, connections: int, rate: float) -> dict[str, float]:
    """Ask for so long; what is under way at the end is left out."""
    load = Load(users, seconds, rate)
    loop = asyncio.get_running_loop()
    for _ in range(connections):
        await loop.create_connection(lambda: Client(load), "127.0.0.1", port)
    await (load.tick() if rate else asyncio.sleep(seconds))
    wall = time.perf_counter() - load.begin
    times = sorted(load.times) or [float("inf")]
    usage = resource.getrusage(resource.RUSAGE_SELF)
    return {
        "requests": len(load.times),
        "per_second": len(load.times) / wall,
        "failed": load.failed,
        "p50_ms": 1000 * times[len(times) // 2],
        "p99_ms": 1000 * times[int(0.99 * (len(times) - 1))],
        "wall": wall,
        "cpu": usage.ru_utime + usage.ru_stime,
    }


if __name__ == "__main__":
    if hasattr(os, "sched_setaffinity"):
        os.sched_setaffinity(0, {max(os.sched_getaffinity(0))})  # pinned: its share of the CPU is of one core
    port, users, seconds, connections, *rate = sys.argv[1:]
    work = run(int(port), int(users), float(seconds), int(connections), float((rate or ["0"])[0]))
    try:
        from uvloop import run as in_loop  # half the cost of the generator
    except ModuleNotFoundError:
        in_loop = asyncio.run
    print(json.dumps(in_loop(work)))
