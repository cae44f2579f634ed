"""Products of a few rows with a matrix of int4, in whole numbers: four times as many in a register as floats.

With W = s q + z for each group of 32 columns, and x of a group rounded to r k with whole k of 16 bits,

    y = sum_g s r sum_i q k + sum_g z sum_i x

where the innermost sum is of whole numbers. r is 1 / 32767 of the group's largest x, so that y is as near as floats
of 16 bits would give it; what the matrix itself lost is hundreds of times as much.

Legend: M rows of x, N rows of the matrix (outputs), K columns, G = K / 32 groups.
"""

from collections.abc import Sequence
from typing import Any, cast

import numpy as np
from llvmlite import ir
from numba.core import cgutils
from numba.extending import intrinsic

from jogak.ops import _vectors
from jogak.ops._compiled import jit
from jogak.ops._vectors import FLOAT, INT, Builder, Value, Vector

# ruff: noqa: ANN001, ANN202 (what numba compiles takes its types from the call)

BYTE, SHORT = ir.IntType(8), ir.IntType(16)
GROUP, HALF, EIGHT = 32, 16, 8
TOGETHER = (4, 1)  # rows of x whose sums stay in registers
MOST, NOTHING = np.float32(32767), np.float32(0)


def _whole(builder: Builder, base: Value, index: Value, kind: Value, lanes: int) -> Value:
    """`lanes` whole numbers as they lie; base: of that kind."""
    pointer = builder.bitcast(builder.gep(base, [index]), ir.VectorType(kind, lanes).as_pointer())
    return builder.load(pointer, align=1)


def _pairs(builder: Builder, a: Value, b: Value) -> Value:
    """Sums of neighbours of a b: 16 of 16 bits -> 8 of 32 bits, for which processors have an instruction."""
    wide = ir.VectorType(INT, HALF)
    product = builder.mul(builder.sext(a, wide), builder.sext(b, wide))
    none = ir.Constant(wide, ir.Undefined)
    even, odd = (
        builder.shuffle_vector(product, none, ir.Constant(ir.VectorType(INT, EIGHT), list(range(first, HALF, 2))))
        for first in (0, 1)
    )
    return builder.add(even, odd)


def _spread(builder: Builder, number: Value, kind: Value) -> Value:
    """One number in eight lanes."""
    vector = ir.VectorType(kind, EIGHT)
    one = builder.insert_element(ir.Constant(vector, ir.Undefined), number, ir.Constant(INT, 0))
    return builder.shuffle_vector(
        one, ir.Constant(vector, ir.Undefined), ir.Constant(ir.VectorType(INT, EIGHT), [0] * EIGHT)
    )


def _sums(builder: Builder, bases: Sequence[Value], sizes: Sequence[Value], count: int) -> None:
    """The first sum of y for `count` rows of x and one of the matrix: out[at_out + r row_out] = ..."""
    out, numbers, steps, matrix, scales = bases
    n, row, at_out, row_out, groups = sizes
    v, kind = Vector(builder, EIGHT), groups.type

    def constant(number: int) -> Value:
        return ir.Constant(kind, number)

    totals = [cgutils.alloca_once(builder, v.type) for _ in range(count)]
    for total in totals:
        builder.store(v.constant(0.0), total)
    begin = builder.mul(n, groups)
    with cgutils.for_range(builder, groups) as loop:
        group = builder.add(begin, loop.index)
        shorts = ir.VectorType(SHORT, HALF)
        byte = _whole(builder, matrix, builder.mul(group, constant(HALF)), BYTE, HALF)
        both = builder.zext(byte, shorts)
        halves = (
            builder.and_(both, ir.Constant(shorts, [15] * HALF)),
            builder.lshr(both, ir.Constant(shorts, [4] * HALF)),
        )
        pair = builder.load(builder.gep(builder.bitcast(scales, INT.as_pointer()), [group]), align=2)
        scale = _spread(builder, builder.bitcast(builder.shl(pair, ir.Constant(INT, 16)), FLOAT), FLOAT)
        for r, total in enumerate(totals):
            mine = builder.add(builder.mul(builder.add(row, constant(r)), groups), loop.index)
            at = builder.mul(mine, constant(GROUP))
            parts = [
                _pairs(builder, half, _whole(builder, numbers, builder.add(at, constant(HALF * i)), SHORT, HALF))
                for i, half in enumerate(halves)
            ]
            found = builder.sitofp(builder.add(*parts), v.type)
            step = _spread(builder, builder.load(builder.gep(steps, [mine])), FLOAT)
            builder.store(v.fused(v.times(found, step), scale, builder.load(total)), total)
    for r, total in enumerate(totals):
        place = builder.add(at_out, builder.mul(row_out, constant(r)))
        builder.store(v.total(builder.load(total)), builder.gep(out, [place]))


def _line(builder: Builder, bases: Sequence[Value], sizes: Sequence[Value]) -> None:
    n, rows, outputs, groups = sizes
    done = ir.Constant(groups.type, 0)
    for count in TOGETHER:
        whole = builder.udiv(builder.sub(rows, done), ir.Constant(groups.type, count))
        with cgutils.for_range(builder, whole) as loop:
            row = builder.add(done, builder.mul(loop.index, ir.Constant(groups.type, count)))
            at_out = builder.add(builder.mul(row, outputs), n)
            _sums(builder, bases, (n, row, at_out, outputs, groups), count)
        done = builder.add(done, builder.mul(whole, ir.Constant(groups.type, count)))


@intrinsic
def _scaled(typing, out, numbers, steps, matrix, scales, n, rows, outputs, groups):
    """The first sum of y for row n of the matrix and all rows of x."""
    return _vectors.function(_line, 5, (out, numbers, steps, matrix, scales, n, rows, outputs, groups))


@intrinsic
def _number(typing, bits):
    """The float of which these are the highest 16 bits."""

    def generate(context, builder, signature, arguments):
        whole = builder.shl(builder.zext(arguments[0], INT), ir.Constant(INT, 16))
        return builder.bitcast(whole, FLOAT)

    from numba.core import types

    return types.float32(types.int16), generate


scaled, number = cast(Any, (_scaled, _number))  # numba itself gives their first argument


@jit
def _round(x, numbers, steps, sums, count):
    """The whole numbers k of x, their steps r, and the sums of x, of `count` groups."""
    for group in range(count):
        at, top, total = group * 32, NOTHING, NOTHING
        for i in range(at, at + 32):
            top = max(top, abs(x[i]))
            total += x[i]
        inverse = MOST / top if top > NOTHING else NOTHING
        for i in range(at, at + 32):
            numbers[i] = np.int16(np.rint(x[i] * inverse))
        steps[group], sums[group] = top / MOST, total


def product(first, last, out, x, matrix, scales, bias, rows, outputs, width):
    """out [M N] = x [M K] matrix^T + bias [N or 0]; tasks are rows of the matrix. All flat."""
    groups = width // 32
    numbers, steps = np.empty(rows * width, np.int16), np.empty(rows * groups, np.float32)
    sums = np.empty(rows * groups, np.float32)
    _round(x, numbers, steps, sums, rows * groups)
    for n in range(first, last):
        scaled(out, numbers, steps, matrix, scales, n, rows, outputs, groups)
        added = bias[n] if len(bias) else NOTHING
        for row in range(rows):
            total = NOTHING
            for group in range(groups):
                total += number(scales[2 * (n * groups + group) + 1]) * sums[row * groups + group]
            out[row * outputs + n] += total + added
