"""Inverted lists of scored items under codes: built in tiles, updated without a rebuild, read by memory map."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, TypeAlias

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from twotower.core.errors import InputError
from twotower.core.records import TopK
from twotower.index.postings_files import ARRAYS, read_lists, write_lists
from twotower.index.precisions import check_precision, decode_scores, encode_scores
from twotower.ops.topk import merge, top_k, top_k_of_tiles

CodeScore: TypeAlias = Callable[[Tensor, slice], Tensor]
"""Scores of codes (int64 [codes]) with items (a slice of places): a new tensor [codes, items]; -inf: never listed."""

CODE_TILE, ITEM_TILE = 256, 16_384
LONG = 8
"""Items of a tile for each item of a list, at least: long lists of many tiles would be sorted again with every tile."""


@dataclass(frozen=True, eq=False)
class Postings:
    """Hold lists of items, one a code, as compressed rows.

    List n lies at ``offsets[n]:offsets[n + 1]`` of ``places`` and ``scores``, ascending by place. A place is a row of
    ``ids``, which ascend, so the lower place is the lower id. A score of list n is ``low[n] + step[n] * scores`` for
    uint8 and ``scores`` itself for the others.

    Attributes:
        ids: int64 [items].
        offsets: int64 [codes + 1].
        places: int32 [postings].
        scores: float32, float16 or uint8 [postings].
        low: float32 [codes].
        step: float32 [codes].
        longest: most items that a list may have.
    """

    ids: NDArray[np.int64]
    offsets: NDArray[np.int64]
    places: NDArray[np.int32]
    scores: NDArray[Any]
    low: NDArray[np.float32]
    step: NDArray[np.float32]
    longest: int

    @property
    def num_codes(self) -> int:
        """Return how many lists there are, empty ones with them."""
        return len(self.offsets) - 1

    @property
    def precision(self) -> str:
        """Return how scores are stored."""
        return str(self.scores.dtype)

    @property
    def sparsity(self) -> float:
        """Return the share of unlisted pairs of an item and a code that has a list: 0 when all are listed."""
        pairs = int((self.lengths > 0).sum()) * len(self.ids)
        return 1.0 - len(self.places) / pairs if pairs else 1.0

    @property
    def lengths(self) -> NDArray[np.int64]:
        """Return the number of items of each list."""
        return np.diff(self.offsets)

    @property
    def num_bytes(self) -> int:
        """Return the bytes of all arrays."""
        return sum(getattr(self, name).nbytes for name in ARRAYS)

    def values(self, code: int) -> NDArray[np.float32]:
        """Return the scores of a list as float32."""
        stored = self.scores[self.offsets[code] : self.offsets[code + 1]]
        return decode_scores(stored, self.low[code], self.step[code])

    def add(self, scores: Tensor, ids: Tensor) -> Postings:
        """Return the lists with further items, each in the lists that score it among their ``longest`` best.

        Without a removal before, and in float32, that is what building anew would give.

        Args:
            scores: every code with every new item [codes, new]; -inf: not listed.
            ids: int64 [new]; one that is there is replaced.

        Raises:
            InputError: if the shapes differ, an id comes twice or is below 0, or a score is NaN or +inf.
        """
        if tuple(scores.shape) != (self.num_codes, len(ids)):
            raise InputError(f"postings: {tuple(scores.shape)} scores for {self.num_codes} codes and {len(ids)} items")
        there = ids[torch.isin(ids, torch.from_numpy(np.array(self.ids)))]
        base = self.remove(there) if len(there) else self
        all_ids, order = torch.cat([torch.from_numpy(np.array(base.ids)), ids]).sort()
        _check_ids(all_ids)
        moved = torch.empty_like(order)
        moved[order] = torch.arange(len(order))
        old, new = moved[: len(base.ids)], moved[len(base.ids) :]
        if not len(ids):
            return base
        by_id, lists = new.argsort(), []
        for start in range(0, self.num_codes, CODE_TILE):
            stop = min(start + CODE_TILE, self.num_codes)
            there_now = _padded(base, start, stop)
            kept = there_now._replace(ids=torch.where(there_now.ids < 0, -1, old[there_now.ids.clamp(min=0)]))
            # `top_k` cuts ties by column, so columns have to be in the order of ids.
            fresh = top_k(_checked(scores[start:stop, by_id].float()), self.longest)
            fresh = fresh._replace(ids=torch.where(fresh.ids < 0, -1, new[by_id][fresh.ids.clamp(min=0)]))
            lists.append(merge(kept, fresh))
        return _pack(lists, all_ids, self.longest, self.precision)

    def remove(self, ids: Tensor) -> Postings:
        """Return the lists without some items.

        No other item takes their place: those that were cut are not known.

        Raises:
            InputError: if an id is not there.
        """
        unwanted = ids.numpy()
        absent = unwanted[~np.isin(unwanted, self.ids)]
        if len(absent):
            raise InputError(f"postings: no item has id {int(absent[0])}, so it cannot be removed")
        stays = ~np.isin(self.ids, unwanted)
        listed = stays[self.places]
        renumbered = (np.cumsum(stays) - 1).astype(np.int32)
        before = np.concatenate([np.zeros(1, dtype=np.int64), np.cumsum(listed, dtype=np.int64)])
        return replace(
            self,
            ids=self.ids[stays],
            offsets=before[self.offsets],
            places=renumbered[self.places[listed]],
            scores=self.scores[listed],
        )

    def save(self, folder: Path) -> None:
        """Write the lists into ``folder``, one file an array."""
        sizes = {"codes": self.num_codes, "items": len(self.ids), "postings": len(self.places)}
        header = sizes | {"longest": self.longest, "precision": self.precision}
        write_lists(folder, {name: getattr(self, name) for name in ARRAYS}, header)

    @staticmethod
    def load(folder: Path) -> Postings:
        """Map the files that `save` wrote into memory; pages are read at their first use.

        Raises:
            InputError: if a file is missing, cut short, or is not one of these lists.
        """
        arrays, header = read_lists(folder)
        return Postings(**arrays, longest=header["longest"])


def build_postings(
    score: CodeScore,
    num_codes: int,
    ids: Tensor,
    *,
    longest: int,
    precision: str = "float32",
    above: float | None = None,
    codes: Tensor | None = None,
) -> Postings:
    """Score codes with items, tile by tile, and keep the best of each code.

    Memory is one tile of 256 codes × 16,384 items, or of fewer codes × 8 L items where lists are long, and the lists.

    Args:
        score: codes with items.
        num_codes: how many codes there are.
        ids: of the items, ascending: int64 [items].
        longest: items of a list, at most; equal scores: the lower id stays.
        precision: of stored scores: "float32", "float16" or "uint8" (an offset and a step for each list).
        above: only scores above it are listed; None: all finite ones.
        codes: those that are used (int64); None: all. Others have empty lists and are never scored.

    Raises:
        InputError: if ids do not ascend, ``longest`` is below 1, the precision is unknown, a code is out of range, or a
            score is NaN or +inf.
    """
    check_precision("precision of postings", precision)
    if longest < 1 or num_codes < 1:
        raise InputError(f"postings: there must be at least 1 code and 1 item a list, got {num_codes} and {longest}")
    _check_ids(ids)
    used = torch.arange(num_codes) if codes is None else codes.unique()
    if len(used) and (used[0] < 0 or used[-1] >= num_codes):
        raise InputError(f"postings: code {int(used[0] if used[0] < 0 else used[-1])} of {num_codes}")
    width = min(longest, max(1, len(ids)))
    lists = TopK(torch.full((num_codes, width), -torch.inf), torch.full((num_codes, width), -1))
    wide = max(ITEM_TILE, LONG * width)
    for part in used.split(max(1, CODE_TILE * ITEM_TILE // wide)) if len(ids) else ():
        tiles = (
            (at, _checked(score(part, slice(at, min(at + wide, len(ids)))).float(), above))
            for at in range(0, len(ids), wide)
        )
        with torch.no_grad():
            found = top_k_of_tiles(tiles, width)
        lists.scores[part], lists.ids[part] = found.scores.cpu(), found.ids.cpu()
    return _pack([lists], ids, longest, precision)


def _pack(lists: list[TopK], ids: Tensor, longest: int, precision: str) -> Postings:
    """Best-first lists as rows ascending by place."""
    best = torch.cat([part.ids for part in lists])
    order = torch.where(best < 0, len(ids), best).argsort(dim=1)
    listed: NDArray[np.int64] = best.gather(1, order).numpy()
    scores: NDArray[np.float32] = torch.cat([part.scores for part in lists]).gather(1, order).numpy()
    real = listed >= 0
    offsets = np.concatenate([np.zeros(1, dtype=np.int64), np.cumsum(real.sum(1), dtype=np.int64)])
    stored = encode_scores(scores, real, precision)
    return Postings(ids.numpy().copy(), offsets, listed[real].astype(np.int32), *stored, longest)


def _padded(postings: Postings, start: int, stop: int) -> TopK:
    """Lists ``start:stop`` best first, padded to ``longest``."""
    width = max(1, postings.longest)
    scores, places = np.full((stop - start, width), -np.inf, dtype=np.float32), np.full((stop - start, width), -1)
    for row, code in enumerate(range(start, stop)):
        part = slice(postings.offsets[code], postings.offsets[code + 1])
        scores[row, : part.stop - part.start] = postings.values(code)
        places[row, : part.stop - part.start] = postings.places[part]
    return TopK(torch.from_numpy(scores), torch.from_numpy(places))


def _checked(scores: Tensor, above: float | None = None) -> Tensor:
    if not bool((scores < torch.inf).all()):
        raise InputError("postings: a score is NaN or infinite; mend the model before its lists are built")
    return scores if above is None else scores.masked_fill(scores <= above, -torch.inf)


def _check_ids(ids: Tensor) -> None:
    if len(ids) and (ids[0] < 0 or not bool((ids[1:] > ids[:-1]).all())):
        raise InputError("postings: ids must be 0 or more, ascend, and each come once")
