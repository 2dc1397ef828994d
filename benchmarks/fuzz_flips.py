"""Changes one byte at a time in every file of a bundle, of a prepared data set and of a stopped training.

Used by ``fuzz.py``. Each of these files is covered by a hash, so that every change is refused with one line; of the
notes beside a checkpoint some bytes mean nothing, and there going on is right too.
"""

from __future__ import annotations

import contextlib
import json
import shutil
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from random import Random

from twotower.experiment.run import Run
from twotower.experiment.train import train
from twotower.training.callbacks import EpochRecord, Silent

RUN = """
[model]
name = "two_tower"
dim = 4
history_length = 3

[training]
epochs = 3
batch_size = 8
device = "cpu"

[index]
kind = "hnsw"
"""


@dataclass(frozen=True)
class Target:
    """A folder whose files are changed, and the commands that read it in turn."""

    kind: str
    folder: Path
    commands: tuple[list[str], ...]
    must_refuse: Callable[[str], bool]
    """Whether a change in the file of that name may not pass."""


class _Stop(Silent):
    """Stops the training after its second epoch, as Ctrl-C does."""

    def epoch_done(self, record: EpochRecord, model: object) -> None:
        """Stop."""
        if record.epoch == 3:
            raise KeyboardInterrupt


def targets(prepared: Path, work: Path) -> list[Target]:
    """Write a bundle and a stopped training into ``work``, and say how they and the prepared data are read."""
    (work / "run.toml").write_text(RUN)
    values = Run.load(work / "run.toml").to_dict()
    run = Run.from_dict(values | {"data": values["data"] | {"path": str(prepared)}})
    train(run, to=work / "bundle")
    with contextlib.suppress(KeyboardInterrupt):
        train(run, to=work / "stopped", callbacks=[_Stop()])
    shutil.copytree(prepared, work / "prepared")
    bundle, data, stopped = (str(work / name) for name in ("bundle", "prepared", "stopped"))
    user = json.dumps("u0").strip('"')
    again = ["train", str(work / "run.toml"), "--data", str(prepared), "--to", stopped, "--resume"]
    return [
        Target(
            "bundle",
            work / "bundle",
            (["recommend", bundle, "--user", user], ["similar", bundle, "--item", "0"], ["diagnose", bundle]),
            lambda name: True,
        ),
        Target(
            "prepared",
            work / "prepared",
            (
                ["train", "--model", "popularity", "--data", data, "--to", str(work / "none")],
                ["data", "describe", data],
            ),
            lambda name: True,
        ),
        Target("checkpoint", work / "stopped.run", (again,), lambda name: name == "train.safetensors"),
    ]


def flips(target: Target, count: int, seed: int) -> Iterator[tuple[str, list[str]]]:
    """Change a byte, yield the file's name and a command, and put the byte back: ``count`` times for each file."""
    healthy = {path: path.read_bytes() for path in sorted(target.folder.rglob("*")) if path.is_file()}
    for number in range(count):  # file after file in each round, so that a run that is cut short has seen them all
        for path, content in healthy.items():
            name = path.relative_to(target.folder).as_posix()
            if not content:
                continue
            random = Random(f"{seed}:{target.kind}:{name}:{number}")
            place, bit = random.randrange(len(content)), 1 << random.randrange(8)
            path.write_bytes(content[:place] + bytes([content[place] ^ bit]) + content[place + 1 :])
            yield name, target.commands[number % len(target.commands)]
            _restore(target.folder, healthy)


def _restore(folder: Path, healthy: dict[Path, bytes]) -> None:
    """Put every file back as it was, and take away what a command left."""
    for path in folder.rglob("*"):
        if path.is_file() and path not in healthy:
            path.unlink()
    for path, content in healthy.items():
        if not path.is_file() or path.read_bytes() != content:
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_bytes(content)
