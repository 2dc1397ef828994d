"""Work beside other work: two branches of a CUDA graph, whose kernels are too small to fill a GPU one by one."""

from __future__ import annotations

from collections.abc import Callable
from typing import TypeVar

import torch
from torch import Tensor

Found = TypeVar("Found")


def beside(work: Callable[[], Found], *, like: Tensor) -> Callable[[], Found]:
    """Start ``work`` beside what is started after this call; call what it returns to join both and have the result.

    Only while a CUDA graph is captured does this make two branches. Everywhere else the work is done at once: a GPU
    that is handed one kernel after the other waits for the host, and not for other kernels.

    Args:
        work: reads nothing that changes before the join.
        like: a tensor on the device of the work.
    """
    if not (like.is_cuda and torch.cuda.is_current_stream_capturing()):
        found = work()
        return lambda: found
    here, side = torch.cuda.current_stream(like.device), torch.cuda.Stream(like.device)
    side.wait_stream(here)
    with torch.cuda.stream(side):
        found = work()

    def joined() -> Found:
        here.wait_stream(side)
        return found

    return joined
