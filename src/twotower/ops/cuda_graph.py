"""Work recorded as a CUDA graph; where it cannot be recorded, PyTorch is left as it was."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TypeVar

import torch

Found = TypeVar("Found")

_FAILED: list[object] = []
"""Graphs whose recording failed. The allocator of page-locked memory (PyTorch 2.11) goes on asking them, by their
address, whether an allocation is theirs; so they are never freed. A few hundred bytes each."""


def recorded(
    work: Callable[[], Found], generators: Sequence[torch.Generator] = (), *, errors: str = "global"
) -> tuple[Callable[[], None], Found]:
    """Record work as a CUDA graph, without doing it; return how it is done again, and what then holds its result.

    Where that fails, nothing was drawn, and the stream, the generators and the memory are those of before: the same
    work can be done at once, and other work recorded later.

    Args:
        work: done three times already on another stream, so that what is made once is there.
        generators: that it draws from, beside the device's own.
        errors: whose calls end the recording where they may not be recorded: "global" or "thread_local".

    Raises:
        RuntimeError: if the work waits for the device, or does something else that cannot be recorded.
    """
    graph, pool, here = torch.cuda.CUDAGraph(), torch.cuda.graph_pool_handle(), torch.cuda.current_stream()
    for generator in generators:
        graph.register_generator_state(generator)
    try:
        with torch.cuda.graph(graph, pool=pool, capture_error_mode=errors):
            result = work()
    except RuntimeError:
        # CUDA has ended the recording by itself, and so capture_end raises first of all: what it does after that, and
        # what the context manager does after it, is left to do.
        torch.cuda.set_stream(here)
        if not _ended(pool):
            graph.reset()
        _FAILED.append(graph)
        _take_back(generators)
        raise
    return graph.replay, result


def _ended(pool: tuple[int, int]) -> bool:
    """End allocating from the pool of a failed graph, and give it up; False: PyTorch had ended it.

    2.11 does not, as later versions do (pytorch/pytorch#180395). Blocks that another stream has used would then never
    be free again, and on 2.6 the next recording would fail. There is no public name for it; the private one is what
    `torch.cuda.use_mem_pool` calls, and was another up to 2.7. What PyTorch has ended it gives up by itself: giving
    it up twice would break its count.
    """
    end = getattr(torch._C, "_cuda_endAllocateToPool", None) or getattr(
        torch._C, "_cuda_endAllocateCurrentStreamToPool", None
    )
    if end is None:
        return False
    device = torch.cuda.current_device()
    try:
        end(device, pool)
    except RuntimeError:  # not allocating from it
        return False
    torch._C._cuda_releasePool(device, pool)
    return True


def _take_back(generators: Sequence[torch.Generator]) -> None:
    """Let generators draw again after a failed recording, in which PyTorch 2.11 leaves them; 2.13 counts by graph.

    Each draw would raise "Offset increment outside graph capture encountered unexpectedly". Only a recording that ends
    well sets a generator back, so one is made (on an H200 with 2.11, one that came later did so). It mends the state
    itself: `graphsafe_set_state` would put a copy in its place, and leave graphs that were recorded before with the
    broken one. A recording counts its draws apart from the generator's, so none is lost and none is done twice.
    """
    graph, mark = torch.cuda.CUDAGraph(), torch.zeros((), device="cuda")
    for generator in generators:
        graph.register_generator_state(generator)
    with torch.cuda.graph(graph, capture_error_mode="thread_local"):
        mark.add_(1)
