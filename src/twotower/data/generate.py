"""A log of any size drawn from a planted world, streamed to Parquet a block of users at a time."""

from __future__ import annotations

import logging
import shutil
from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from twotower.core.errors import InputError
from twotower.core.folders import check_replaceable, replacing_folder
from twotower.core.seeds import numpy_generator
from twotower.data.planted_world import DAY, NEVER, SHARES, START, Tasters, World, WorldSettings
from twotower.data.prepare.spec import Interactions, Source, Spec
from twotower.data.sources.tables import database, write

SPEC = "spec.toml"
MARKER = "truth/world.json"
"""A file that such a folder has and no other."""
OWN = (SPEC, MARKER, "interactions/part-*.parquet", "truth/users-*.parquet", "truth/items-*.parquet")
"""All that such a folder holds."""
FILE_ROWS = 1 << 21
"""Rows from which a file is closed and the next begun: what is held in memory, with one block more."""
MOST_OF_ONE = 1 << 23
"""Events of one user, at most: they are drawn together, about 150 bytes each."""
BYTES_A_ROW = 16
"""On disk, at most about."""
GAP = 60.0
"""Mean seconds between two events of a session."""

Table = dict[str, NDArray[np.int64]]
log = logging.getLogger(__name__)


def generate(settings: WorldSettings, target: Path | str, *, partitions: int = 1) -> Path:
    """Draw a log with planted truth into the folder ``target`` and return the path of its spec.

    The folder holds ``interactions/part-….parquet`` (``user_id``, ``item_id``, ``timestamp``; by user, sessions in
    order), ``spec.toml`` for `prepare`, and in ``truth`` what is planted: ``world.json`` (see `World.load`), and as
    tables the tastes of users (``users-….parquet``) and the clusters of items (``items-….parquet``). A user's events
    depend on the settings alone, not on the number of partitions: the same rows in the same order.

    Args:
        settings: of the world.
        target: replaced when it was written by an earlier call; any other content is refused.
        partitions: users are cut into so many runs of files, such as one for each worker that reads them.

    Raises:
        InputError: if there are more partitions than blocks of users, one user has too many events for the memory of a
            block, or the disk is too small.
    """
    world, target = World(settings), Path(target)
    check_replaceable(target, marker=MARKER, own=OWN)
    if not 1 <= partitions <= world.blocks:
        raise InputError(
            f"generate: partitions must lie between 1 and {world.blocks:,}, the blocks of {world.block_users:,} users "
            f"that are drawn at a time, got {partitions:,}"
        )
    if (largest := world.largest_user) > MOST_OF_ONE:
        raise InputError(
            f"generate: the most active user would have {largest:,}, more than the {MOST_OF_ONE:,} that "
            "are drawn at a time; ask for more users, fewer events or a lower user_exponent"
        )
    _check_disk(settings, target)
    with replacing_folder(target, marker=MARKER, own=OWN) as folder, database() as connection:
        for name in ("interactions", "truth"):
            (folder / name).mkdir()
        for part in range(partitions):
            blocks = range(part * world.blocks // partitions, (part + 1) * world.blocks // partitions)
            events = (events_of_block(world, number) for number in blocks)
            _write(connection, events, folder / "interactions", f"part-{part:05d}")
            users = (_users_of_block(world, number) for number in blocks)
            _write(connection, users, folder / "truth", f"users-{part:05d}")
            log.info("generate: partition %d of %d is written", part + 1, partitions)
        _write(connection, _items(world), folder / "truth", "items")
        world.save(folder / "truth" / "world.json")
        interactions = Interactions(Source(("interactions/*.parquet",)), "user_id", "item_id", time="timestamp")
        spec = Spec("generated", interactions, None, None, None, {"kind": "leave-one-out"})
        replace(spec, folder=folder).to_toml(folder / SPEC)
    return target / SPEC


def events_of_block(world: World, number: int) -> Table:
    """Draw the events of a block's users: one session after the other, each about one taste of that time."""
    settings, users = world.settings, world.block(number)
    generator, tastes = numpy_generator(settings.seed, "events", number), world.tastes_of_block(number)
    lengths = world.events_of(users)
    row = np.repeat(np.arange(len(users)), lengths)
    begins = generator.random(len(row)) < 1.0 / settings.session
    begins[np.cumsum(lengths) - lengths] = True
    session, user_of = np.cumsum(begins) - 1, row[begins]
    starts = START + generator.integers(0, settings.days * DAY, len(user_of))
    starts = starts[np.lexsort((starts, user_of))]
    about = _tastes_of_sessions(tastes, user_of, starts, generator)
    popular = world.cluster_law.draw(generator.random(len(row)), world.clusters)
    clusters = np.where(generator.random(len(row)) < settings.noise, popular, about[session])
    ranks = world.item_law.draw(generator.random(len(row)), world.sizes(clusters))
    gaps = np.where(begins, 0, 1 + generator.exponential(GAP, len(row)).astype(np.int64)).cumsum()
    times = starts[session] + gaps - gaps[begins][session]
    return {"user_id": users[row], "item_id": world.items_of(clusters, ranks), "timestamp": times}


def _tastes_of_sessions(
    tastes: Tasters, users: NDArray[np.int64], starts: NDArray[np.int64], generator: np.random.Generator
) -> NDArray[np.int64]:
    place = np.searchsorted(SHARES.cumsum(), generator.random(len(users)), side="right").clip(max=len(SHARES) - 1)
    now = np.where(starts >= tastes.moves_at[users], tastes.later[users, place], tastes.first[users, place])
    return np.asarray(now, dtype=np.int64)


def _users_of_block(world: World, number: int) -> Table:
    users, tastes = world.block(number), world.tastes_of_block(number)
    table = {"user_id": users, "events": world.events_of(users), "moves_at": tastes.moves_at}
    for name, clusters in (("taste", tastes.first), ("later_taste", tastes.later)):
        table |= {f"{name}_{place + 1}": clusters[:, place] for place in range(clusters.shape[1])}
    return table


def _items(world: World) -> Iterator[Table]:
    for start in range(0, world.settings.items, FILE_ROWS):
        items = np.arange(start, min(start + FILE_ROWS, world.settings.items))
        clusters, ranks = world.places_of(items)
        yield {"item_id": items, "cluster": clusters, "rank": ranks}


def _write(connection: Any, tables: Iterator[Table], folder: Path, name: str) -> None:
    """Write tables one below the other, as files of about `FILE_ROWS` rows."""
    number, held, rows = 0, list[Table](), 0
    for table in tables:
        held.append(table)
        rows += len(next(iter(table.values())))
        if rows >= FILE_ROWS:
            _write_file(connection, held, folder / f"{name}-{number:05d}.parquet")
            number, held, rows = number + 1, [], 0
    if held:
        _write_file(connection, held, folder / f"{name}-{number:05d}.parquet")


def _write_file(connection: Any, tables: Sequence[Table], path: Path) -> None:
    drawn = {name: np.concatenate([table[name] for table in tables]) for name in tables[0]}
    connection.register("drawn", drawn)
    moves = f" REPLACE (nullif(moves_at, {NEVER}) AS moves_at)" if "moves_at" in drawn else ""
    write(connection, f"SELECT *{moves} FROM drawn", path)
    connection.unregister("drawn")


def _check_disk(settings: WorldSettings, target: Path) -> None:
    place = next(folder for folder in (target.absolute(), *target.absolute().parents) if folder.is_dir())
    needed = BYTES_A_ROW * (settings.events + settings.users + settings.items)
    free = shutil.disk_usage(place).free
    if needed > free:
        raise InputError(
            f"generate: {settings.events:,} events need up to {needed / 1e9:.1f} GB of disk, and {place} has "
            f"{free / 1e9:.1f} GB free; ask for fewer, or name another --to"
        )
