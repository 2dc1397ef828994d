"""Native scoring: a request on a CPU by one loop in C, compiled for the machine and for the model's sizes."""

from __future__ import annotations

import ctypes
import functools
import os
import shlex
import shutil
import subprocess
from collections.abc import Callable
from pathlib import Path
from tempfile import TemporaryDirectory

import torch
from jaxtyping import Float, Integer
from torch import Tensor

from twotower.core.errors import InputError, shown
from twotower.models.fit.triton import lss_of, packed_weights
from twotower.scorers.heads import HeadScorer

SOURCE = Path(__file__).with_name("scores.c")
# Sums may be reordered, so that they fill registers. NaN and infinities stay what they are.
FLAGS = "-O3 -march=native -fassociative-math -fno-signed-zeros -fno-trapping-math -fno-math-errno -shared -fPIC"
TYPES = {
    torch.float64: "double",
    torch.float32: "float",
    torch.float16: "_Float16",
    torch.int8: "int8_t",
    torch.uint8: "uint8_t",
    torch.int16: "int16_t",
    torch.int32: "int32_t",
    torch.int64: "int64_t",
}
WHOLE = {torch.uint8, torch.int8, torch.int16, torch.int32, torch.int64}
ITEMS_A_THREAD = 512
"""Fewer are not worth waking a thread for."""

MOST_ON_STACK = 4096
"""User heads times width of the scorer that one block of items may take room for."""
COMPILE_SECONDS = 120

Kernel = Callable[..., int]
Kind = tuple[int, torch.dtype, torch.dtype, torch.dtype | None]
"""Width of a head, and the types of query index, item state and step; no step: None."""


class NativeScores:
    """Score as `scores_of_one_user` does, with the scorer's current weights.

    Args:
        scorer: on a CPU.
        dim: width of a head.

    Raises:
        InputError: if the scorer is another than `LSS`, too wide or not on a CPU, or the C compiler is missing or
            fails; in a request, if an id is not a row of the states, or these are another model's.
    """

    def __init__(self, scorer: HeadScorer, dim: int) -> None:
        lss = lss_of(scorer)
        self.weights, self.hidden = packed_weights(lss), len(lss.rows.bias)
        self.user_heads, self.item_heads = lss.columns.weight.shape[1], lss.rows.weight.shape[1]
        if self.user_heads * self.hidden > MOST_ON_STACK:
            raise InputError(f"the scorer is too wide to compile: {self.user_heads} user heads times {self.hidden}")
        if self.weights.dtype not in TYPES or self.weights.device.type != "cpu":
            raise InputError(f"no loop in C for weights of {self.weights.dtype} on '{self.weights.device.type}'")
        self.compiler = tuple(c_compiler())
        self._kernel((dim, torch.uint8, self.weights.dtype, None))  # a compiler that fails is to fail here

    def __call__(
        self,
        queries: Float[Tensor, "queries user_heads dim"],
        ids: Integer[Tensor, " candidates"],
        index: Integer[Tensor, " items"],
        heads: Float[Tensor, "items item_heads dim"] | Integer[Tensor, "items item_heads dim"],
        step: Float[Tensor, " items"] | None,
    ) -> Float[Tensor, " candidates"]:
        """Score one user with the items of rows ``ids``."""
        self._check(queries, ids, index, heads, step)
        out = queries.new_empty(len(ids))
        held = [part.contiguous() for part in (queries, index, heads, heads if step is None else step, ids.long())]
        places = [part.data_ptr() for part in held]
        wrong = self._kernel((queries.shape[2], index.dtype, heads.dtype, None if step is None else step.dtype))(
            places[0],
            len(queries),
            *places[1:4],
            len(heads),
            places[4],
            len(ids),
            self.weights.data_ptr(),
            out.data_ptr(),
            max(1, min(torch.get_num_threads(), len(ids) // ITEMS_A_THREAD)),
        )
        if wrong == 2:
            raise InputError(f"an id is not a row of the {len(heads)} item states")
        if wrong:
            raise InputError(f"an item names a query beyond the model's {len(queries)}: another model's states?")
        return out

    def _check(self, queries: Tensor, ids: Tensor, index: Tensor, heads: Tensor, step: Tensor | None) -> None:
        """The loop reads memory as it is told to, so what it is told must be so."""
        # Plain attributes: after other work every further kind of call costs a request some microseconds.
        if not (queries.is_cpu and ids.is_cpu and index.is_cpu and heads.is_cpu and (step is None or step.is_cpu)):
            raise InputError(
                f"the model is on a CPU, but states or ids on '{heads.device.type}' or '{ids.device.type}'"
            )
        if queries.dtype != self.weights.dtype or queries.shape[1] != self.user_heads:
            raise InputError(f"user states {tuple(queries.shape)} of {queries.dtype} are another model's")
        if len(ids.shape) != 1 or ids.dtype not in WHOLE:
            raise InputError(f"ids are whole numbers [candidates], got {tuple(ids.shape)} of {ids.dtype}")
        fits = heads.shape == (*index.shape, self.item_heads, queries.shape[2])
        stepped = step is None or (step.shape == index.shape and step.dtype in TYPES)
        if not fits or not stepped or heads.dtype not in TYPES or index.dtype not in WHOLE:
            raise InputError(
                f"item states {tuple(heads.shape)} of {heads.dtype} are another model's, or their parts differ in "
                f"length: this model has {self.item_heads} heads of {queries.shape[2]}"
            )

    def _kernel(self, kind: Kind) -> Kernel:
        return build(self.compiler, (self.user_heads, self.item_heads, self.hidden), self.weights.dtype, kind)


def c_compiler() -> list[str]:
    """Return the command that the variable ``CC`` names, or ``cc``.

    Raises:
        InputError: if it is not there.
    """
    named = os.environ.get("CC", "")
    try:
        command = shlex.split(named) or ["cc"]
    except ValueError as error:
        raise InputError(f"the variable CC is no command: {shown(named)} ({error})") from None
    if shutil.which(command[0]) is None:
        raise InputError(f"no C compiler '{command[0]}': install gcc or clang, or name one in the variable CC")
    return command


@functools.cache
def build(compiler: tuple[str, ...], sizes: tuple[int, int, int], real: torch.dtype, kind: Kind) -> Kernel:
    """Compile the loop for these sizes (user heads, item heads, width of the scorer) and types, once a process.

    With threads, where the compiler knows OpenMP.

    Raises:
        InputError: if the compiler fails, or what it made cannot be loaded.
    """
    user_heads, item_heads, hidden = sizes
    dim, index, state, step = kind
    macros = {"USER_HEADS": user_heads, "ITEM_HEADS": item_heads, "DIM": dim, "HIDDEN": hidden, "REAL": TYPES[real]}
    macros |= {
        "INDEX": TYPES[index],
        "STATE": TYPES[state],
        "STEP": TYPES[step or real],
        "COUNTED": int(step is not None),
    }
    given = [*FLAGS.split(), *(f"-D{name}={value}" for name, value in macros.items()), "-x", "c", str(SOURCE)]
    try:
        with TemporaryDirectory(ignore_cleanup_errors=True) as folder:  # Windows keeps what is loaded
            library = Path(folder) / "scores.so"
            for threads in (["-fopenmp"], []):
                command = [*compiler, *threads, *given, "-o", str(library)]
                done = subprocess.run(
                    command, capture_output=True, text=True, errors="replace", check=False, timeout=COMPILE_SECONDS
                )
                if not done.returncode:
                    break
            else:
                said = [line for line in done.stderr.splitlines() if "error" in line] or [f"status {done.returncode}"]
                raise InputError(f"{shlex.join(compiler)} could not compile {SOURCE.name}: {said[0]}")
            kernel: Kernel = ctypes.CDLL(str(library)).scores  # loaded now; the file may go
    except (OSError, AttributeError, subprocess.TimeoutExpired) as error:
        raise InputError(
            f"what {shlex.join(compiler)} made of {SOURCE.name} cannot be used: {error}; if programs may not run from "
            "the folder of temporary files, name another in the variable TMPDIR"
        ) from None
    pointer, count = ctypes.c_void_p, ctypes.c_int64
    kernel.argtypes = [pointer, count, *[pointer] * 3, count, pointer, count, pointer, pointer, ctypes.c_int]  # type: ignore[attr-defined]
    return kernel
