"""A request's scores on a CPU, by one loop in C that is compiled for the machine and for the model's sizes."""

from __future__ import annotations

import ctypes
import os
import shlex
import shutil
import subprocess
from collections.abc import Callable, Mapping
from pathlib import Path
from tempfile import TemporaryDirectory

import torch
from jaxtyping import Float, Integer
from torch import Tensor

from twotower.core.errors import InputError
from twotower.models.fit_compiled import lss_of, packed_weights
from twotower.scorers.heads import HeadScorer

SOURCE = Path(__file__).with_name("fit_scores.c")
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
ITEMS_A_THREAD = 512
"""Fewer are not worth waking a thread for."""

Kernel = Callable[..., int]


class NativeScores:
    """`scores_of_one_user` with the scorer's weights of now; the first request compiles, in a fraction of a second.

    Raises:
        InputError: if the scorer is another than `LSS` or there is no C compiler; in a request, if the compiler fails,
            an id is not a row of the states, or these are another model's.
    """

    def __init__(self, scorer: HeadScorer) -> None:
        lss = lss_of(scorer)
        self.weights = packed_weights(lss)
        self.compiler = c_compiler()
        self.hidden = len(lss.rows.bias)
        self.user_heads, self.item_heads = lss.columns.weight.shape[1], lss.rows.weight.shape[1]
        self._kernels: dict[tuple[object, ...], Kernel] = {}

    def __call__(
        self,
        queries: Float[Tensor, "queries user_heads dim"],
        ids: Integer[Tensor, " candidates"],
        index: Integer[Tensor, " items"],
        heads: Float[Tensor, "items item_heads dim"] | Integer[Tensor, "items item_heads dim"],
        step: Float[Tensor, " items"] | None,
    ) -> Float[Tensor, " candidates"]:
        """Scores of one user with the items of rows ``ids``."""
        self._check(queries, index, heads)
        out = queries.new_empty(len(ids))
        held = [part.contiguous() for part in (queries, index, heads, heads if step is None else step, ids.long())]
        places = [part.data_ptr() for part in held]
        kernel = self._kernel(queries.shape[2], index.dtype, heads.dtype, None if step is None else step.dtype)
        wrong = kernel(
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
        if wrong == 1:
            raise InputError(f"an id is not a row of the {len(heads)} item states")
        if wrong:
            raise InputError(f"an item names a query beyond the model's {len(queries)}: another model's states?")
        return out

    def _check(self, queries: Tensor, index: Tensor, heads: Tensor) -> None:
        """The loop reads memory as it is told to, so what it is told must be so."""
        dim = queries.shape[2]
        if queries.dtype != self.weights.dtype or queries.shape[1] != self.user_heads:
            raise InputError(f"user states {tuple(queries.shape)} of {queries.dtype} are another model's")
        if heads.shape != (len(index), self.item_heads, dim) or not {heads.dtype, index.dtype} <= TYPES.keys():
            raise InputError(
                f"item states {tuple(heads.shape)} of {heads.dtype} are another model's: this one has "
                f"{self.item_heads} heads of {dim}"
            )

    def _kernel(self, dim: int, index: torch.dtype, state: torch.dtype, step: torch.dtype | None) -> Kernel:
        kind = (dim, index, state, step)
        if kind not in self._kernels:
            sizes = {"USER_HEADS": self.user_heads, "ITEM_HEADS": self.item_heads, "DIM": dim, "HIDDEN": self.hidden}
            dtypes = {"REAL": self.weights.dtype, "INDEX": index, "STATE": state, "STEP": step or torch.float32}
            types = {name: TYPES[dtype] for name, dtype in dtypes.items()}
            self._kernels[kind] = build(self.compiler, {**sizes, **types, "COUNTED": int(step is not None)})
        return self._kernels[kind]


def c_compiler() -> list[str]:
    """The command that the variable ``CC`` names, or ``cc``.

    Raises:
        InputError: if it is not there.
    """
    command = shlex.split(os.environ.get("CC", "")) or ["cc"]
    if shutil.which(command[0]) is None:
        raise InputError(f"no C compiler '{command[0]}': install gcc or clang, or name one in the variable CC")
    return command


def build(compiler: list[str], macros: Mapping[str, object]) -> Kernel:
    """The loop for these sizes and types, with threads where the compiler knows OpenMP.

    Raises:
        InputError: if the compiler fails.
    """
    with TemporaryDirectory() as folder:
        library = Path(folder) / "scores.so"
        given = [*FLAGS.split(), *(f"-D{name}={value}" for name, value in macros.items()), str(SOURCE)]
        for threads in (["-fopenmp"], []):
            command = [*compiler, *threads, *given, "-o", str(library)]
            done = subprocess.run(command, capture_output=True, text=True, check=False)
            if not done.returncode:
                break
        else:
            said = next((line for line in done.stderr.splitlines() if "error" in line), f"status {done.returncode}")
            raise InputError(f"{shlex.join(compiler)} could not compile {SOURCE.name}: {said}")
        kernel: Kernel = ctypes.CDLL(str(library)).scores  # loaded now; the file may go
    pointer, count = ctypes.c_void_p, ctypes.c_int64
    kernel.argtypes = [pointer, count, *[pointer] * 3, count, pointer, count, pointer, pointer, ctypes.c_int]  # type: ignore[attr-defined]
    return kernel
