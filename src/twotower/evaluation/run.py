"""Full-catalogue evaluation: every user against every candidate, in tiles of both."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from functools import partial

import torch
from torch import Tensor

from twotower.core.errors import InputError
from twotower.core.records import FIRST_KNOWN
from twotower.data.dataset import Dataset
from twotower.data.log import Log
from twotower.data.split import Targets
from twotower.evaluation.processes import Alone, Processes
from twotower.evaluation.protocol import Protocol
from twotower.evaluation.ranks import ranks_by_counting, ranks_in_lists
from twotower.evaluation.result import Result, question
from twotower.evaluation.slices import slices
from twotower.metrics.beyond_accuracy import beyond_accuracy
from twotower.metrics.ranking import MISSED
from twotower.metrics.registry import metrics_per_query
from twotower.models.base import Model
from twotower.models.encode import ItemStates, encode_items, inference, users_with_history
from twotower.ops.ragged import expand
from twotower.ops.tiles import masked_tiles

FEW_TRUTHS = 4
"""Up to this many relevant items a user, counting what is above each is quicker than finding the list."""

CPU_TILE, CUDA_TILE = (256, 16_384), (8_192, 16_384)
"""Users and items scored at a time when the caller does not say: 16 and 512 MiB of float32 scores."""


def evaluate(
    model: Model,
    dataset: Dataset,
    targets: Targets,
    protocol: Protocol | None = None,
    *,
    train: Log | None = None,
    items: ItemStates | None = None,
    user_tile: int | None = None,
    item_tile: int | None = None,
    progress: Callable[[int, int], None] | None = None,
    processes: Processes | None = None,
) -> Result:
    """Rank all candidates for every user of ``targets``, and give the ranks of the relevant ones.

    The user tower reads the positive events of ``targets.history``; its events of whatever label are what the user has
    seen (`Log.seen`), which ``protocol.mask_seen`` leaves out. Memory holds the states of all candidates and the
    scores of one tile of users with one tile of items, never users × items. Tile sizes have no effect beyond the
    last-bit rounding of the model's own arithmetic.

    Args:
        protocol: what is ranked against what; None: `Protocol()`.
        train: what the model learned from. Given, the result also tells coverage, popularity bias and cold slices,
            which takes longer, since the lists themselves are needed.
        items: what the model makes of every known item, where that is at hand; None: they are encoded. Not read where
            ``protocol.candidates`` names its own.
        user_tile: users scored at a time; None: by device.
        item_tile: items encoded and scored at a time; None: by device.
        progress: called with (users done, users in all) after each tile, of those that are this process's.
        processes: that evaluate together, with the same arguments; the tiles of users are dealt out, and each
            returns the result of all. None: this one alone.

    Raises:
        InputError: if no user has a truth, a candidate is no item of the catalogue, or the model's scores are NaN.
    """
    protocol, processes = protocol or Protocol(), processes or Alone()
    device = dataset.device
    default = CUDA_TILE if device.type == "cuda" else CPU_TILE
    user_tile, item_tile = user_tile or default[0], item_tile or default[1]
    candidates, column_of = _candidates(dataset, protocol)
    history = targets.history.to(dataset.log.items.device)  # in main memory where the log is
    truth = _distinct(targets.truth.to(device).positives())
    queries = truth.lengths.nonzero()[:, 0]
    if not len(queries):
        raise InputError(f"split '{protocol.split}': no user has an event to be found, so there is nothing to evaluate")
    read = history.positives()
    by_lists = train is not None or truth.num_events > FEW_TRUTHS * len(queries)
    counts = torch.zeros(len(protocol.ks), len(candidates), dtype=torch.int64, device=device)
    ranks = torch.full_like(truth.items, MISSED)
    seen, faulty = torch.zeros((2,), dtype=torch.int64, device=device)

    # Users with histories of like length share a tile, so that windows are no wider than they need to be.
    order = queries[read.lengths.to(device)[queries].argsort(stable=True)]
    mine = order.split(min(user_tile, -(-len(order) // processes.size)))[processes.rank :: processes.size]
    done, to_do = 0, sum(map(len, mine))
    with inference(model), processes.together():
        if items is None or protocol.candidates is not None:
            states_of_items = encode_items(model, dataset, candidates, item_tile)
        else:
            states_of_items = items.states
        for ids in mine:
            states = model.encode_users(users_with_history(dataset, read, ids, model.history_length))
            left_out = _columns(history, ids, column_of)[1:] if protocol.mask_seen else None
            tiles = _replay(
                partial(masked_tiles, model.score, states, states_of_items, item_tile, left_out), candidates, item_tile
            )
            events, rows, columns = _columns(truth, ids, column_of)
            if by_lists:
                found, lists = ranks_in_lists(tiles, rows, columns, max(protocol.ks))
                for count, k in zip(counts, protocol.ks, strict=True):
                    chosen = lists.ids[:, :k]
                    count += chosen[chosen >= 0].bincount(minlength=len(candidates))
            else:
                found = ranks_by_counting(tiles, rows, columns)
            ranks[events] = found.ranks
            seen += found.not_allowed.sum()
            faulty += found.faulty
            done += len(ids)
            if progress is not None:
                progress(done, to_do)
    ranks = processes.summed(ranks - MISSED) + MISSED  # each truth is found by one process at most
    counts, seen, faulty = (processes.summed(part) for part in (counts, seen, faulty))
    if faulty:
        raise InputError(f"split '{protocol.split}': the model's scores hold NaN; it has diverged or was never trained")
    if by_lists and len(queries) and not counts.any():
        raise InputError(
            f"split '{protocol.split}': all {len(queries):,} users have seen all {len(candidates):,} items, so "
            "nothing is left to recommend; where items may come again, judge with evaluation.mask_seen = false"
        )

    ranks, users, items_of_truth = ranks.cpu(), queries.cpu(), truth.items.cpu()
    rows = torch.arange(len(users)).repeat_interleave(truth.lengths[queries].cpu())
    per_user = metrics_per_query(ranks, rows, len(users), protocol.ks)
    metrics = {name: values.mean().item() for name, values in per_user.items()}
    if train is not None:
        popularity = train.positives().items.bincount(minlength=dataset.schema.num_items).to(device)[candidates]
        for count, k in zip(counts, protocol.ks, strict=True):
            metrics |= {f"{name}@{k}": value for name, value in beyond_accuracy(count, popularity).items()}
    return Result(
        split=protocol.split,
        users=users,
        num_items=len(candidates),
        per_user=per_user,
        metrics=metrics,
        truths=truth.num_events,
        seen_truths=int(seen),
        unreachable_truths=int((column_of[truth.items] < 0).sum()),
        slices={} if train is None else slices(ranks, rows, items_of_truth, users, train, protocol.ks),
        asked=question(users, truth.lengths[queries].cpu(), items_of_truth),
        mask_seen=protocol.mask_seen,
    )


def _candidates(dataset: Dataset, protocol: Protocol) -> tuple[Tensor, Tensor]:
    """Item rows to rank, ascending, and the column of every item row, -1 where it is none."""
    total, device = dataset.schema.num_items, dataset.device
    if protocol.candidates is None:
        candidates = dataset.known_items()
    else:
        candidates = torch.tensor(protocol.candidates, device=device).unique()
        if candidates[0] < FIRST_KNOWN or candidates[-1] >= total:
            raise InputError(
                f"evaluation.candidates must be item rows from {FIRST_KNOWN} to {total - 1}, "
                f"got {int(candidates[0])} to {int(candidates[-1])}"
            )
    if not len(candidates):
        raise InputError("the catalogue has no known item, so there is nothing to rank")
    column_of = torch.full((total,), -1, device=device)
    column_of[candidates] = torch.arange(len(candidates), device=device)
    return candidates, column_of


def _distinct(truth: Log) -> Log:
    """The distinct items of each user, ascending."""
    width = int(truth.items.max()) + 1 if truth.num_events else 1
    keys = (truth.users() * width + truth.items).unique()
    lengths = (keys // width).bincount(minlength=len(truth.offsets) - 1)
    return Log(torch.cat([lengths.new_zeros(1), lengths.cumsum(0)]), keys % width)


def _columns(log: Log, ids: Tensor, column_of: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """The events of users ``ids`` whose item is a candidate: their places in the log, user rows and item columns."""
    at, device = ids.to(log.offsets.device), column_of.device
    rows, events = (part.to(device) for part in expand(log.offsets[at], log.offsets[at + 1]))
    columns = column_of[log.items[events.to(at.device)].to(device)]
    inside = columns >= 0
    return events[inside], rows[inside], columns[inside]


def _replay(
    make: Callable[[], Iterator[tuple[int, Tensor]]], candidates: Tensor, item_tile: int
) -> Callable[[], Iterable[tuple[int, Tensor]]]:
    """Tiles that can be gone through twice: kept when there is a single one, else computed again."""
    if len(candidates) > item_tile:
        return make
    only = list(make())
    return lambda: only
