"""Products of a few rows with matrices of small numbers, which are made floats in registers and never in memory.

With one row this is as fast as memory gives the matrix; each row of it is read once for all rows of x.

Legend: M rows of x, N rows of the matrix (outputs), K columns (inputs), S = 32 columns of a group.
"""

from collections.abc import Callable, Sequence
from typing import Any, cast

import numpy as np
import torch
from llvmlite import ir
from numba.core import cgutils
from numba.extending import intrinsic
from torch import Tensor

from jogak.ops import _numba_int4, _vectors
from jogak.ops._compiled import Kernel
from jogak.ops._vectors import Builder, Value, Vector

# ruff: noqa: ANN001, ANN202 (what numba compiles takes its types from the call)

BYTE, SHORT = ir.IntType(8), ir.IntType(16)
TOGETHER = (4, 2, 1)  # rows of x whose sums stay in registers
STEP = 32  # columns of a step of the loop, those of a group


def _load(builder: Builder, base: Value, index: Value, kind: Value, lanes: int) -> Value:
    """`lanes` whole numbers of a kind, as they lie."""
    pointer = builder.bitcast(builder.gep(base, [index]), ir.VectorType(kind, lanes).as_pointer())
    return builder.load(pointer, align=1)


def _float32(builder: Builder, bases: Sequence[Value], at: Value) -> list[Value]:
    """The floats of STEP columns, in vectors of 16, of a matrix of floats."""
    v = Vector(builder, 16)
    return [v.load(bases[0], place) for place in (at, builder.add(at, ir.Constant(at.type, 16)))]


def _bfloat16(builder: Builder, bases: Sequence[Value], at: Value) -> list[Value]:
    """The same of a matrix of bfloat16."""
    v, found = Vector(builder, 16), []
    for place in (at, builder.add(at, ir.Constant(at.type, 16))):
        bits = builder.zext(_load(builder, bases[0], place, SHORT, 16), v.whole)  # those that a float begins with
        found.append(builder.bitcast(builder.shl(bits, ir.Constant(v.whole, [16] * 16)), v.type))
    return found


def _int8(builder: Builder, bases: Sequence[Value], at: Value) -> list[Value]:
    """The same of whole numbers, whose scale is their row's and comes last."""
    v, found = Vector(builder, 16), []
    for place in (at, builder.add(at, ir.Constant(at.type, 16))):
        number = builder.sext(_load(builder, bases[0], place, BYTE, 16), v.whole)
        found.append(builder.sitofp(number, v.type))
    return found


def _rows(
    builder: Builder,
    bases: Sequence[Value],
    sizes: Sequence[Value],
    count: int,
    columns: Callable[[Value], list[Value]],
) -> None:
    """`count` sums over K of a row of the matrix times rows of x, times a factor, plus a number, to their places."""
    out, x = bases
    at_out, row_out, at_x, width, factor, added = sizes
    v, kind = Vector(builder, 16), width.type
    sums = [[cgutils.alloca_once_value(builder, v.constant(0.0)) for _ in range(2)] for _ in range(count)]
    for row in sums:
        for total in row:
            builder.store(v.constant(0.0), total)
    with cgutils.for_range(builder, builder.udiv(width, ir.Constant(kind, STEP))) as loop:
        k = builder.mul(loop.index, ir.Constant(kind, STEP))
        weights = columns(k)
        for r, row in enumerate(sums):
            start = builder.add(builder.add(at_x, k), builder.mul(width, ir.Constant(kind, r)))
            for part, (total, weight) in enumerate(zip(row, weights, strict=True)):
                along = v.load(x, builder.add(start, ir.Constant(kind, 16 * part)))
                builder.store(v.fused(weight, along, builder.load(total)), total)
    for r, (first, second) in enumerate(sums):
        value = v.total(v.plus(builder.load(first), builder.load(second)))
        place = builder.add(at_out, builder.mul(row_out, ir.Constant(kind, r)))
        value = builder.fadd(builder.fmul(value, factor), added)
        builder.store(value, builder.gep(out, [place]))


def _line(builder: Builder, bases: Sequence[Value], sizes: Sequence[Value], form: Callable[..., list[Value]]) -> None:
    """Output n of all rows of x: out [M N], x [M K], matrix and scales as they lie."""
    out, x, matrix, scales = bases
    n, rows, outputs, width, factor, added = sizes
    kind = width.type

    def columns(k: Value) -> list[Value]:
        return form(builder, (matrix, scales), builder.add(builder.mul(n, width), k))

    def some(row: Value, count: int) -> None:
        given = (builder.add(builder.mul(row, outputs), n), outputs, builder.mul(row, width), width, factor, added)
        _rows(builder, (out, x), given, count, columns)

    done = ir.Constant(kind, 0)
    for count in TOGETHER:
        whole = builder.udiv(builder.sub(rows, done), ir.Constant(kind, count))
        with cgutils.for_range(builder, whole) as loop:
            some(builder.add(done, builder.mul(loop.index, ir.Constant(kind, count))), count)
        done = builder.add(done, builder.mul(whole, ir.Constant(kind, count)))


def _made(form: Callable[..., list[Value]], given: Sequence[Any]) -> Any:  # noqa: ANN401 (what numba asks for)
    def body(builder: Builder, bases: Sequence[Value], sizes: Sequence[Value]) -> None:
        _line(builder, bases, sizes, form)

    return _vectors.function(body, 4, given)


@intrinsic
def _of_float32(typing, out, x, matrix, scales, n, rows, outputs, width, factor, added):
    return _made(_float32, (out, x, matrix, scales, n, rows, outputs, width, factor, added))


@intrinsic
def _of_bfloat16(typing, out, x, matrix, scales, n, rows, outputs, width, factor, added):
    return _made(_bfloat16, (out, x, matrix, scales, n, rows, outputs, width, factor, added))


@intrinsic
def _of_int8(typing, out, x, matrix, scales, n, rows, outputs, width, factor, added):
    return _made(_int8, (out, x, matrix, scales, n, rows, outputs, width, factor, added))


# numba itself gives their first argument
of_float32, of_bfloat16, of_int8 = cast(Any, (_of_float32, _of_bfloat16, _of_int8))
ONE, NONE = np.float32(1), np.float32(0)


def _product_float32(first, last, out, x, matrix, scales, bias, rows, outputs, width):
    """out [M N] = x [M K] matrix^T + bias [N or 0]; tasks are rows of the matrix. All flat."""
    for n in range(first, last):
        of_float32(out, x, matrix, scales, n, rows, outputs, width, ONE, bias[n] if len(bias) else NONE)


def _product_bfloat16(first, last, out, x, matrix, scales, bias, rows, outputs, width):
    for n in range(first, last):
        of_bfloat16(out, x, matrix, scales, n, rows, outputs, width, ONE, bias[n] if len(bias) else NONE)


def _product_int8(first, last, out, x, matrix, scales, bias, rows, outputs, width):
    for n in range(first, last):
        of_int8(out, x, matrix, scales, n, rows, outputs, width, scales[n], bias[n] if len(bias) else NONE)


KERNELS = {
    "float32": Kernel(_product_float32),
    "bfloat16": Kernel(_product_bfloat16),
    "int8": Kernel(_product_int8),
    "int4": Kernel(_numba_int4.product, reorder=True),
}


def flat(tensor: Tensor) -> Any:  # noqa: ANN401  # an array of NumPy's
    """The numbers of a contiguous tensor, bfloat16 as whole numbers of as many bits."""
    return tensor.detach().view(-1).view(torch.int16 if tensor.dtype == torch.bfloat16 else tensor.dtype).numpy()


def product(kind: str, x: Tensor, arrays: tuple[Any, Any, Any], outputs: int) -> Tensor:
    """x float32 [.. K] times the matrix [N K], plus a bias, of which `flat` has made arrays: float32 [.. N]."""
    *shape, width = x.shape
    out = x.new_empty(*shape, outputs)
    rows, work = x.numel() // width, outputs * x.numel() // 4
    KERNELS[kind](outputs, out.view(-1).numpy(), x.reshape(-1).numpy(), *arrays, rows, outputs, width, work=work)
    return out
