"""``twotower serve`` on loopback: requests a second and their times with exact search and HNSW, and swaps under load.

Users ask ``/v1/recommend`` by id for 10 of the items (planted vectors of 64 numbers; nothing is trained, so figures are
of cost alone). The load comes from `serving_load`, a process of its own on the same cores: its share of the CPU is
stated, and so is the machine's load before the start, for other work on the cores takes from both. It is pinned to one
core; the service is not. All users have asked before the clock starts, as in a service that has run for a while.
``--wrk wrk`` puts the same questions by wrk, too, in turns with ours: see `serving_wrk`.

``--kinds`` names the indexes (exact and hnsw are always measured); one that this version lacks, or that cannot serve a
two-tower, is listed under "skipped". ``--batch`` times `recommend --all` for so many users too: see `serving_batch`.
"""

from __future__ import annotations

import http.client
import json
import os
import re
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import torch

import common
import serving_batch
import serving_wrk
import twotower
from twotower.core.errors import InputError
from twotower.core.schema import Schema
from twotower.data.dataset import Dataset
from twotower.data.log import Log
from twotower.experiment.index_tuning import rebuild_index
from twotower.models.encode import encode_known_items
from twotower.models.registry import build_model
from twotower.serving.contents import Contents, write_bundle

USERS, EVENTS, DIM, CONNECTIONS = 2_000, 20, 64, 16
TARGET = 0.95
"""Recall that the search of the graph is tuned for."""


def write_planted(folder: Path, items: int, users: int = USERS) -> None:
    """A two-tower whose items lie in clusters, and users with histories in a few of them."""
    generator = torch.Generator().manual_seed(0)
    groups = torch.randint(items // 100, (items,), generator=generator)
    chosen = torch.randint(2, items + 2, (users * EVENTS,), generator=generator)
    counts = torch.tensor([0, 0, *[EVENTS] * users])
    log = Log(torch.cat([torch.zeros(1, dtype=torch.int64), counts.cumsum(0)]), chosen, torch.arange(len(chosen)))
    schema = Schema(users + 2, items + 2)
    dataset = Dataset(schema, log, {}, {}, {"name": "planted"})
    parameters = {"dim": DIM, "field_dim": DIM, "hidden": []}
    torch.manual_seed(0)
    model = build_model("two_tower", schema, parameters)
    with torch.no_grad():
        centres = torch.randn(items // 100, DIM, generator=generator)
        model.item_table.weight[2:] = centres[groups] + 0.7 * torch.randn(items, DIM, generator=generator)
    contents = Contents(
        model=model,
        model_name="two_tower",
        model_parameters=parameters,
        dataset=dataset,
        items=encode_known_items(model, dataset),
        histories=log,
    )
    write_bundle(folder, contents)


class Service:
    """``twotower serve`` in a process of its own."""

    def __init__(self, bundle: Path, log: Path, threads: int) -> None:
        self.log = log
        begin = time.perf_counter()
        with log.open("w") as errors:
            command = [sys.executable, "-m", "twotower", "serve", str(bundle), "--port", "0", "--threads", str(threads)]
            self.process = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=errors)
        while not (found := re.search(r"running on http://\S+:(\d+)", self.log.read_text())):
            if self.process.poll() is not None:
                raise RuntimeError(self.log.read_text())
            time.sleep(0.02)
        self.ready = time.perf_counter() - begin
        self.port = int(found[1])

    @property
    def cpu(self) -> float:
        """CPU seconds so far."""
        fields = Path(f"/proc/{self.process.pid}/stat").read_text().rsplit(")", 1)[1].split()
        return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")

    @property
    def mib(self) -> float:
        """Memory held now."""
        status = Path(f"/proc/{self.process.pid}/status").read_text()
        return float(re.search(r"VmRSS:\s+(\d+)", status)[1]) / 1024  # type: ignore[index]

    def load(self, seconds: float, connections: int = CONNECTIONS, rate: float = 0.0) -> dict[str, Any]:
        """Ask it for so long from a process of its own."""
        return self.finish(self.start(seconds, connections, rate))

    def warm(self) -> None:
        """Ask for every user once."""
        address = http.client.HTTPConnection("127.0.0.1", self.port, timeout=60)
        for row in range(2, USERS + 2):
            body = json.dumps({"user": str(row), "k": 10})
            address.request("POST", "/v1/recommend", body, {"Content-Type": "application/json"})
            answer = address.getresponse()
            answer.read()
            if answer.status != 200:
                raise RuntimeError(f"user {row}: status {answer.status}")
        address.close()

    def start(self, seconds: float, connections: int, rate: float) -> tuple[subprocess.Popen[str], float]:
        """Begin to ask."""
        script = Path(__file__).with_name("serving_load.py")
        words = [str(self.port), str(USERS + 2), str(seconds), str(connections), str(rate)]
        return subprocess.Popen([sys.executable, str(script), *words], stdout=subprocess.PIPE, text=True), self.cpu

    def finish(self, started: tuple[subprocess.Popen[str], float]) -> dict[str, Any]:
        """What came of it."""
        process, before = started
        found: dict[str, Any] = json.loads(process.communicate()[0])
        spent = self.cpu - before
        found["cpu_us_a_request"] = 1e6 * spent / max(1, found["requests"])
        found["generator_share_of_cpu"] = found["cpu"] / max(1e-9, found["cpu"] + spent)
        return found

    def stop(self) -> int:
        """Status after SIGTERM."""
        self.process.send_signal(signal.SIGTERM)
        return self.process.wait(timeout=60)


def measured(bundle: Path, place: Path, seconds: float, threads: int) -> dict[str, Any]:
    """Throughput, times at half of it, and times of one who asks alone."""
    service = Service(bundle, place / "log", threads)
    try:
        service.warm()
        full = service.load(seconds)
        half = service.load(seconds, rate=full["per_second"] / 2)
        alone = service.load(seconds / 2, connections=1)
        return {"seconds_to_ready": service.ready, "mib": service.mib, "full": full, "half": half, "alone": alone}
    finally:
        service.stop()


def beside_wrk(program: str, bundle: Path, place: Path, seconds: float, threads: int) -> dict[str, Any]:
    """Throughput as our generator and as wrk count it, in turns on one service."""
    service, turns = Service(bundle, place / "log", threads), []
    try:
        service.warm()
        for _ in range(3):
            ours, before = service.load(seconds), service.cpu
            found = serving_wrk.load(program, place, service.port, USERS + 2, seconds, CONNECTIONS)
            found["cpu_us_a_request"] = 1e6 * (service.cpu - before) / max(1, found["requests"])
            turns.append({"ours": ours, "wrk": found})
    finally:
        service.stop()
    ratios = sorted(turn["wrk"]["per_second"] / turn["ours"]["per_second"] for turn in turns)
    return {"generator": serving_wrk.version(program), "wrk_over_ours": ratios[1], "turns": turns}


def steady(bundle: Path, place: Path, seconds: float, every: float, rate: float, threads: int) -> dict[str, Any]:
    """A steady load while the bundle is swapped every so many seconds."""
    service = Service(bundle, place / "log", threads)
    try:
        service.warm()
        began = service.mib
        under_way = service.start(seconds, CONNECTIONS, rate)
        end, sizes = time.perf_counter() + seconds, []
        while time.perf_counter() + every < end:
            time.sleep(every)
            service.process.send_signal(signal.SIGHUP)
            sizes.append(service.mib)
        found = service.finish(under_way)
        found["swaps"] = service.log.read_text().count("SIGHUP: serving")
        found["mib"] = [began, *sizes, service.mib]
        return found
    finally:
        service.stop()


def recall(bundle: Path, exact: Path) -> float:
    """Share of exact search's 10 that the index finds, over 500 users."""
    users = [str(row) for row in range(2, 502)]
    lists = [twotower.load(folder).recommend_many(users, k=10) for folder in (bundle, exact)]
    hits = sum(len({a.id for a in one} & {b.id for b in other}) for one, other in zip(*lists, strict=True))
    return hits / (10 * len(users))


def batch(place: Path, items: int, users: int) -> dict[str, Any]:
    """``recommend --all`` for so many users."""
    folder = place / f"batch-{users}"
    write_planted(folder, items, users)
    found = serving_batch.measured(folder, place / f"{users}.parquet", users)
    shutil.rmtree(folder)
    return found


def main() -> None:
    """Measure and report."""
    made = common.parser(__doc__)
    made.add_argument("--items", type=int, help="catalogue; default 100,000, and 20,000 with --quick")
    made.add_argument("--seconds", type=float, help="of each load; default 20, and 4 with --quick")
    made.add_argument("--steady", type=float, help="seconds of load with swaps; default 600, and 8 with --quick")
    made.add_argument("--kinds", default="", help="further indexes to measure, such as ivf_flat,ivf_pq,qdrant")
    made.add_argument(
        "--batch", type=int, nargs="*", default=[], help="also 'recommend --all' for so many users, such as 100000"
    )
    made.add_argument("--wrk", metavar="PROGRAM", help="compare our generator with this wrk, three times in turns")
    made.add_argument("--batch-alone", action="store_true", help="measure --batch and nothing else")
    made.add_argument("--serving-threads", type=int, default=2, help="requests answered at the same time")
    options = common.parse(made)
    items = options.items or (20_000 if options.quick else 100_000)
    seconds = options.seconds or (4.0 if options.quick else 20.0)
    lasting = options.steady or (8.0 if options.quick else 600.0)
    before = os.getloadavg()[0]
    if options.wrk and serving_wrk.version(options.wrk) is None:
        raise SystemExit(f"--wrk {options.wrk}: no wrk there; Debian has it: apt-get install wrk")
    if options.batch_alone:
        with tempfile.TemporaryDirectory(prefix="twotower-") as name:
            batches = [batch(Path(name), items, users) for users in options.batch]
        settings = {"items": items, "dim": DIM, "events": EVENTS, "k": 10, "loop": serving_batch.LOOP, "seed": 0}
        common.finish(
            "serving_batch", options, settings=settings, figures={"load_average_before": before, "batch": batches}
        )
        return
    with tempfile.TemporaryDirectory(prefix="twotower-") as name:
        place = Path(name)
        write_planted(place / "exact", items)
        write_planted(place / "hnsw", items)
        built = rebuild_index(place / "hnsw", "hnsw", {}, recall=TARGET, k=10)
        kinds, skipped = ["hnsw", "exact"], {}
        for kind in filter(None, options.kinds.split(",")):
            write_planted(place / kind, items)
            try:
                rebuild_index(place / kind, kind, {}, recall=TARGET, k=10)
                kinds.append(kind)
            except InputError as problem:
                skipped[kind] = str(problem).replace(str(place), "")
        found = {kind: measured(place / kind, place, seconds, options.serving_threads) for kind in kinds}
        rate = found["hnsw"]["full"]["per_second"] / 2
        swapped = steady(place / "hnsw", place, lasting, 3.0 if options.quick else 20.0, rate, options.serving_threads)
        figures = {
            "requests_per_second": found["hnsw"]["full"]["per_second"],
            "p99_ms_at_half_load": found["hnsw"]["half"]["p99_ms"],
            "failed": swapped["failed"] + sum(part[load]["failed"] for part in found.values() for load in LOADS),
            "hnsw_recall": recall(place / "hnsw", place / "exact"),
            "hnsw_over_exact_latency": found["hnsw"]["alone"]["p50_ms"] / found["exact"]["alone"]["p50_ms"],
            "cpu_us_a_request": found["hnsw"]["full"]["cpu_us_a_request"],
            "generator_share_of_cpu": found["hnsw"]["full"]["generator_share_of_cpu"],
            "load_average_before": before,
            **found,
            "recall": {kind: recall(place / kind, place / "exact") for kind in kinds},
            "skipped": skipped,
            "steady": swapped,
            "batch": [batch(place, items, users) for users in options.batch],
            "wrk": beside_wrk(options.wrk, place / "hnsw", place, seconds, options.serving_threads)
            if options.wrk
            else None,
            "build_seconds": built.build_seconds,
            "index_settings": built.settings,
        }
    settings = {
        "items": items,
        "dim": DIM,
        "users": USERS,
        "connections": CONNECTIONS,
        "seconds": seconds,
        "steady_seconds": lasting,
        "serving_threads": options.serving_threads,
        "generator": "serving_load.py (asyncio, uvloop where it is installed; one process, pinned to one core)",
        "seed": 0,
    }
    common.finish("serving", options, settings=settings, figures=figures, packages=("fastapi", "uvicorn", "uvloop"))


LOADS = ("full", "half", "alone")

if __name__ == "__main__":
    main()
