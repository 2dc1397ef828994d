"""Work for engines that tests hand over: a module that fresh processes import by name.

A worker of Dask that preloads it stops for a moment in the middle of each part of a recommendation, before the part is
renamed and before its note is written, and says so in the file that ENGINE_WORK_LOG names.
"""

from __future__ import annotations

import os
import time
from pathlib import Path
from typing import Any

from twotower.core.errors import InputError
from twotower.core.parts import writing_part


def write_number(task: dict[str, Any]) -> None:
    with writing_part(task, {"rows": 1}) as path:
        path.write_text(str(task["value"]))


def touch(task: dict[str, Any]) -> None:
    Path(task["file"]).touch()


def dies_once(task: dict[str, Any]) -> None:
    """End the process in the middle, the first time."""
    mark = Path(task["file"] + ".died")
    if task.get("dies") and not mark.exists():
        mark.touch()
        os._exit(9)
    touch(task)


def takes_long(task: dict[str, Any]) -> None:
    touch(task)
    if task["dies"]:
        time.sleep(600)


def dies_always(task: dict[str, Any]) -> None:
    os._exit(9)


def refuses(task: dict[str, Any]) -> None:
    with Path(task["file"]).open("a") as file:
        file.write("tried\n")
    raise InputError("this cannot be done")


def fails_twice(task: dict[str, Any]) -> None:
    with Path(task["file"]).open("a") as file:
        file.write("tried\n")
    if len(Path(task["file"]).read_text().splitlines()) < 3:
        raise ConnectionAbortedError("the disk is away")


def dask_setup(worker: Any) -> None:
    from twotower.core.store import Store
    from twotower.serving import everyone_part

    write, write_json = everyone_part._write, Store.write_json

    def say(stage: str) -> None:
        with Path(os.environ["ENGINE_WORK_LOG"]).open("a") as file:
            file.write(f"{os.getpid()} {stage}\n")
        time.sleep(0.25)

    def written(*words: Any) -> int:
        number = write(*words)
        say("part")
        return number

    def noted(store: Store, name: str, value: Any) -> None:
        say("note")
        write_json(store, name, value)

    everyone_part._write = written  # type: ignore[assignment]
    Store.write_json = noted  # type: ignore[method-assign]
