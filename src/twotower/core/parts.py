"""A map over partitions whose result is on disk: numbered files, a note beside each that is whole, a manifest last.

Nothing is taken on the word of an engine. A part counts as done when its note is there, which is written after it and
says its bytes and hash; the whole counts as done when the manifest is there, which is written after all notes are read.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import logging
import re
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, NamedTuple

from twotower.core.engines.base import Engine, Task, Work
from twotower.core.errors import InputError
from twotower.core.files import sha256
from twotower.core.store import Store
from twotower.core.version import __version__

PLAN, MANIFEST, KIND = "plan.json", "manifest.json", "parts"
_OURS = re.compile(r"\d{6}\.(parquet|json)|plan\.json|\..+")

log = logging.getLogger(__name__)

Note = dict[str, Any]
"""Of a part: its name, bytes and sha256, and what its work counted."""


class Job(NamedTuple):
    """Describe what is to be done: the question as a whole, and the arguments of each part."""

    plan: dict[str, Any]
    """What the parts answer: two runs of an equal plan have equal parts."""
    work: Work
    tasks: list[Task]
    """Arguments of each part, to which `run_parts` adds where it lies."""


def part_name(number: int) -> str:
    """Return the name of a part's file.

    Examples:
        >>> part_name(12)
        '000012.parquet'
    """
    return f"{number:06d}.parquet"


@contextlib.contextmanager
def writing_part(task: Task, counts: dict[str, Any]) -> Iterator[Path]:
    """Yield the local path that a part is written to; then put it in its place, and its note after it.

    Args:
        task: as `run_parts` made it.
        counts: what the note says beside the file; may be filled in the block.

    Raises:
        InputError: if the run that the task belongs to is over, or the worker has another version of this package.
    """
    if task["twotower"] != __version__:
        raise InputError(f"a worker has twotower {__version__}, the command {task['twotower']}: install the same there")
    store, name = Store(task["to"]), part_name(task["part"])
    if digest(store.read_json(PLAN)) != task["plan"]:
        raise InputError(f"{store.name}: its {PLAN} is that of another run; this one is over")
    note: Note = {"name": name}
    with store.writing(name) as path:
        yield path
        note |= {"bytes": path.stat().st_size, "sha256": sha256(path), **counts}
    store.write_json(_note_of(name), note)


def run_parts(store: Store, job: Job, engine: Engine, on_done: Callable[[int], None]) -> tuple[list[Note], int]:
    """Do the parts that are not done yet, and return the notes of all, in order, and how many were there before.

    Args:
        store: the folder of the parts, which `prepare_parts` made ready.
        job: what to do.
        engine: runs it.
        on_done: is told how many parts are done.

    Raises:
        InputError: of a part; or if a part is not what its note says.
        ConnectionError: if the engine or the store cannot be reached.
        OSError: if a part failed several times.
    """
    names = [part_name(number) for number in range(len(job.tasks))]
    there = whole_parts(store, names)
    more = {"to": store.address, "plan": digest(job.plan), "twotower": __version__}
    left = [
        {**task, **more, "part": number}
        for number, (name, task) in enumerate(zip(names, job.tasks, strict=True))
        if name not in there
    ]
    done = len(there)
    if done:
        on_done(done)

    def one_more() -> None:
        nonlocal done
        done += 1
        on_done(done)

    if left:
        engine.run(job.work, left, one_more)
        before, there = len(there), whole_parts(store, names)
    else:
        before = len(there)
    missing = [name for name in names if name not in there]
    if missing:
        raise InputError(
            f"{store.name}: {len(missing):,} of {len(names):,} parts are not whole, such as {missing[0]}: do the "
            "workers write to the same place? The same command makes them again"
        )
    return [there[name] for name in names], before


def prepare_parts(store: Store, plan: dict[str, Any]) -> None:
    """Make a folder ready for the parts of a plan: parts of the same plan are kept, unfinished ones of another go.

    Raises:
        InputError: if the folder holds something else, or the whole answer to another question.
    """
    store.check_name()
    names = store.sizes()
    if MANIFEST in names:
        manifest = read_parts(store)
        if digest(manifest["plan"]) != digest(plan):
            raise InputError(f"{store.name}: holds the answer to another question; name another place, or remove it")
        return
    if PLAN in names:
        with contextlib.suppress(InputError):
            if digest(store.read_json(PLAN)) == digest(plan):
                return
        log.warning("%s: parts of a stopped run with another bundle or question; they are removed", store.name)
    if strange := sorted(name for name in names if not _OURS.fullmatch(name)):
        raise InputError(f"{store.name}: holds something else, such as {strange[0]}; name another place")
    for name in sorted(names, key=lambda name: name != PLAN):
        store.remove(name)
    store.write_json(PLAN, plan)


def finish_parts(store: Store, plan: dict[str, Any], notes: list[Note]) -> None:
    """Write the manifest, which makes the parts a whole; then remove what only a run that goes on needs."""
    names = store.sizes()
    if MANIFEST not in names:
        body = {"kind": KIND, "made_by": {"twotower": __version__}, "plan": plan, "parts": notes}
        store.write_json(MANIFEST, {**body, "digest": digest(body)})
    kept = {MANIFEST, *(note["name"] for note in notes)}
    for name in names.keys() - kept:
        if _OURS.fullmatch(name):
            store.remove(name)


def read_parts(store: Store, *, check: bool = False) -> dict[str, Any]:
    """Return the manifest of parts that are a whole.

    Args:
        store: their folder.
        check: whether to compare the hash of each part, which reads all of them, rather than its size.

    Raises:
        InputError: if the manifest is missing or damaged, or a part is missing or not what the manifest says.
    """
    names = store.sizes()
    if MANIFEST not in names:
        told = "a run was stopped; the same command goes on" if PLAN in names else "these are no parts of ours"
        raise InputError(f"{store.name}: no {MANIFEST}, so it is not whole: {told}")
    manifest = store.read_json(MANIFEST)
    if not isinstance(manifest, dict) or manifest.get("kind") != KIND:
        raise InputError(f"{store.name}: its {MANIFEST} is not that of parts")
    if manifest.get("digest") != digest({key: value for key, value in manifest.items() if key != "digest"}):
        raise InputError(f"{store.name}: its {MANIFEST} was changed after it was written; make the parts anew")
    for note in manifest["parts"]:
        name = note["name"]
        if name not in names:
            raise InputError(f"{store.name}: {name} is missing; make the parts anew")
        if names[name] != note["bytes"] or (check and store.sha256(name) != note["sha256"]):
            raise InputError(f"{store.name}: {name} is damaged, not what the manifest says; make the parts anew")
    return manifest


def whole_parts(store: Store, names: list[str]) -> dict[str, Note]:
    """Return the notes of the parts that are whole, by name: of the size, and here of the hash, that the note says.

    Raises:
        InputError: if the parts are a whole by their manifest, and one of them is not what it says.
    """
    sizes = store.sizes()
    if MANIFEST in sizes:
        return {note["name"]: note for note in read_parts(store, check=store.local is not None)["parts"]}
    found: dict[str, Note] = {}
    for name in names:
        if name in sizes and _note_of(name) in sizes:
            with contextlib.suppress(InputError):  # a note that cannot be read says nothing: the part is made again
                note = store.read_json(_note_of(name))
                here = store.local is not None
                if note["bytes"] == sizes[name] and (not here or store.sha256(name) == note["sha256"]):
                    found[name] = note
    return found


def digest(value: Any) -> str:
    """Return a hash of a value of JSON."""
    return hashlib.sha256(json.dumps(value, sort_keys=True, ensure_ascii=False).encode()).hexdigest()


def _note_of(name: str) -> str:
    return name.replace(".parquet", ".json")
