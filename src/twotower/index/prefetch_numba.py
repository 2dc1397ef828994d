"""Reading ahead in compiled loops (numba): rows asked for at random are on their way while others are read."""

from __future__ import annotations

import inspect
from typing import Any

from llvmlite import ir
from numba import types
from numba.core.cgutils import get_or_insert_function
from numba.extending import intrinsic

from twotower.index.best_numba import compiled

LINE = 64
"""Bytes that come at once."""
BYTE, NUMBER = ir.IntType(8).as_pointer(), ir.IntType(32)


def _prefetch(typing: Any, array: Any, at: Any) -> Any:
    """Ask for the cache line of ``array[at]`` of a contiguous array of one dimension; nothing waits for it."""

    def build(context: Any, builder: Any, signature: Any, given: Any) -> Any:
        data = context.make_array(signature.args[0])(context, builder, given[0]).data
        kind = ir.FunctionType(ir.VoidType(), [BYTE, NUMBER, NUMBER, NUMBER])
        ask = get_or_insert_function(builder.module, kind, "llvm.prefetch.p0i8")
        to_read, stays, is_data = NUMBER(0), NUMBER(3), NUMBER(1)
        builder.call(ask, [builder.bitcast(builder.gep(data, [given[1]]), BYTE), to_read, stays, is_data])
        return context.get_dummy_value()

    return types.void(array, at), build


prefetch = intrinsic(inspect.unwrap(_prefetch))


def _ask_for_row(flat: Any, row: Any, width: Any) -> None:
    """Ask for a row of a matrix that is given as its numbers one after the other."""
    start = row * width
    for at in range(start, start + width, LINE // flat.itemsize):
        prefetch(flat, at)


ask_for_row = compiled(_ask_for_row, inline="always")
