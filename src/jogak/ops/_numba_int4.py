"""Products of a few rows with a matrix of int4, in whole numbers: twice as many in a register as floats.

With W = s q + z for each group of 32 columns, and x of a group rounded to r k with whole k of 16 bits,

    y = sum_g (s r) sum_i q k + sum_g z sum_i x

where the innermost sum is of whole numbers, two groups at a time. r is 1 / 32767 of the group's largest x, so that y
is as near as floats of 16 bits would give it; what the matrix itself lost is hundreds of times as much.

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
GROUP, HALF, LANES = 32, 16, 8  # columns of a group, its bytes, and the sums that are kept of it
TOGETHER = (4, 1)  # rows of x whose sums stay in registers
CHAINS = 2  # sums of each, so that an addition need not wait for the one before
MOST, NOTHING = np.float32(32767), np.float32(0)


def _whole(builder: Builder, base: Value, index: Value, kind: Value, lanes: int) -> Value:
    """`lanes` whole numbers as they lie; base: of that kind."""
    pointer = builder.bitcast(builder.gep(base, [index]), ir.VectorType(kind, lanes).as_pointer())
    return builder.load(pointer, align=1)


def _order(builder: Builder, a: Value, b: Value, lanes: Sequence[int]) -> Value:
    return builder.shuffle_vector(a, b, ir.Constant(ir.VectorType(INT, len(lanes)), list(lanes)))


def _pairs(builder: Builder, a: Value, b: Value, lanes: int) -> Value:
    """Sums of neighbours of a b, 2 lanes of 16 bits -> lanes of 32, for which processors have an instruction."""
    wide = ir.VectorType(INT, 2 * lanes)
    product = builder.mul(builder.sext(a, wide), builder.sext(b, wide))
    even, odd = (_order(builder, product, product, range(first, 2 * lanes, 2)) for first in (0, 1))
    return builder.add(even, odd)


def _halves(builder: Builder, matrix: Value, group: Value, groups: int) -> tuple[Value, Value]:
    """The numbers in the low and in the high half of each byte of some groups."""
    count = HALF * groups
    shorts = ir.VectorType(SHORT, count)
    at = builder.mul(group, ir.Constant(group.type, HALF))
    both = builder.zext(_whole(builder, matrix, at, BYTE, count), shorts)
    low = builder.and_(both, ir.Constant(shorts, [15] * count))
    return low, builder.lshr(both, ir.Constant(shorts, [4] * count))


def _scales(builder: Builder, scales: Value, group: Value, groups: int) -> tuple[Value, Value]:
    """s and z of some groups: pairs of bfloat16, whose bits are the highest of a float's."""
    v = Vector(builder, groups)
    pointer = builder.gep(builder.bitcast(scales, INT.as_pointer()), [group])
    pairs = builder.load(builder.bitcast(pointer, v.whole.as_pointer()), align=2)
    s, z = (builder.shl(pairs, _same(v, 16)), builder.and_(pairs, _same(v, 0xFFFF0000)))
    return builder.bitcast(s, v.type), builder.bitcast(z, v.type)


def _same(v: Vector, number: int) -> Value:
    return ir.Constant(v.whole, number if v.lanes == 1 else [number] * v.lanes)


def _of_groups(builder: Builder, factor: Value, groups: int) -> Value:
    """The float of each group in all of its lanes."""
    if groups == 1:
        some = ir.Constant(ir.VectorType(FLOAT, LANES), ir.Undefined)
        factor = builder.insert_element(some, factor, ir.Constant(INT, 0))
    return _order(builder, factor, factor, [lane // LANES for lane in range(LANES * groups)])


def _add(
    builder: Builder, bases: Sequence[Value], places: Sequence[Value], totals: Sequence[Sequence[Value]], groups: int
) -> None:
    """Adds what some groups, from number `here` on of row n of the matrix, give to both sums of some rows of x."""
    numbers, steps, sums, matrix, scales = bases
    begin, here, row, count = places
    kind, lanes = here.type, LANES * groups
    v, few = Vector(builder, lanes), Vector(builder, groups)
    group = builder.add(begin, here)
    halves = _halves(builder, matrix, group, groups)
    s, z = _scales(builder, scales, group, groups)
    for r, (total, offset) in enumerate(totals):
        mine = builder.add(builder.mul(builder.add(row, ir.Constant(kind, r)), count), here)
        at = builder.mul(mine, ir.Constant(kind, GROUP))
        parts = [
            _pairs(
                builder,
                half,
                _whole(builder, numbers, builder.add(at, ir.Constant(kind, HALF * groups * i)), SHORT, HALF * groups),
                lanes,
            )
            for i, half in enumerate(halves)
        ]
        found = builder.sitofp(builder.add(*parts), v.type)
        factor = _of_groups(builder, few.times(s, few.load(steps, mine)), groups)
        builder.store(v.fused(found, factor, builder.load(total)), total)
        builder.store(few.fused(z, few.load(sums, mine), builder.load(offset)), offset)


def _sums(builder: Builder, bases: Sequence[Value], sizes: Sequence[Value], count: int) -> None:
    """y of `count` rows of x and one of the matrix, plus a number: out[at_out + r row_out] = ..."""
    out, *read = bases
    n, row, at_out, row_out, groups, added = sizes
    kind = groups.type

    def nothing(together: int) -> list[list[Value]]:
        kinds = [Vector(builder, lanes) for lanes in (LANES * together, together)]
        found = [[cgutils.alloca_once(builder, v.type) for v in kinds] for _ in range(count)]
        for row in found:
            for v, total in zip(kinds, row, strict=True):
                builder.store(v.constant(0.0), total)
        return found

    chains, rest = [nothing(2) for _ in range(CHAINS)], nothing(1)
    begin, done = builder.mul(n, groups), ir.Constant(kind, 0)
    for some in (chains, chains[:1]):
        size = ir.Constant(kind, 2 * len(some))
        whole = builder.udiv(builder.sub(groups, done), size)
        with cgutils.for_range(builder, whole) as loop:
            for c, chain in enumerate(some):
                here = builder.add(builder.add(done, builder.mul(loop.index, size)), ir.Constant(kind, 2 * c))
                _add(builder, read, (begin, here, row, groups), chain, 2)
        done = builder.add(done, builder.mul(whole, size))
    with builder.if_then(builder.icmp_unsigned("<", done, groups)):
        _add(builder, read, (begin, done, row, groups), rest, 1)
    for r in range(count):
        value = added
        for i, lanes in enumerate((LANES, 1)):
            two, one = Vector(builder, 2 * lanes), Vector(builder, lanes)
            both = two.plus(*(builder.load(chain[r][i]) for chain in chains))
            value = builder.fadd(value, builder.fadd(two.total(both), one.total(builder.load(rest[r][i]))))
        place = builder.add(at_out, builder.mul(row_out, ir.Constant(kind, r)))
        builder.store(value, builder.gep(out, [place]))


def _line(builder: Builder, bases: Sequence[Value], sizes: Sequence[Value]) -> None:
    n, rows, outputs, groups, added = sizes
    done = ir.Constant(groups.type, 0)
    for count in TOGETHER:
        whole = builder.udiv(builder.sub(rows, done), ir.Constant(groups.type, count))
        with cgutils.for_range(builder, whole) as loop:
            row = builder.add(done, builder.mul(loop.index, ir.Constant(groups.type, count)))
            at_out = builder.add(builder.mul(row, outputs), n)
            _sums(builder, bases, (n, row, at_out, outputs, groups, added), count)
        done = builder.add(done, builder.mul(whole, ir.Constant(groups.type, count)))


@intrinsic
def _output(typing, out, numbers, steps, sums, matrix, scales, n, rows, outputs, groups, added):
    """Output n of all rows of x."""
    given = (out, numbers, steps, sums, matrix, scales, n, rows, outputs, groups, added)
    return _vectors.function(_line, 6, given)


output = cast(Any, _output)  # numba itself gives its first argument


@jit
def _round(x, numbers, steps, sums, rows, groups):
    """The whole numbers k of x, their steps r, and the sums of x, of each group.

    Two groups lie together as they are read: the first halves of both, then the second halves.
    """
    peaks = np.empty(16, np.float32)
    for row in range(rows):
        for group in range(groups):
            mine = row * groups + group
            given = x[mine * 32 : mine * 32 + 32]
            top, total = NOTHING, NOTHING
            for i in range(16):  # which are instructions on vectors; the largest of all at once would be none
                peaks[i] = max(abs(given[i]), abs(given[16 + i]))
            for i in range(16):
                top = max(top, peaks[i])
            for i in range(32):
                total += given[i]
            inverse = MOST / top if top > NOTHING else NOTHING
            alone = group == groups - 1 and groups % 2 == 1
            at = (mine - group % 2) * 32 + group % 2 * 16
            low, high = numbers[at : at + 16], numbers[at + 16 : at + 32] if alone else numbers[at + 32 : at + 48]
            for i in range(16):
                low[i] = np.int16(np.rint(given[i] * inverse))
                high[i] = np.int16(np.rint(given[16 + i] * inverse))
            steps[mine], sums[mine] = top / MOST, total


def product(first, last, out, x, matrix, scales, bias, rows, outputs, width):
    """out [M N] = x [M K] matrix^T + bias [N or 0]; tasks are rows of the matrix. All flat."""
    groups = width // 32
    numbers, steps = np.empty(rows * width, np.int16), np.empty(rows * groups, np.float32)
    sums = np.empty(rows * groups, np.float32)
    _round(x, numbers, steps, sums, rows, groups)
    for n in range(first, last):
        added = bias[n] if len(bias) else NOTHING
        output(out, numbers, steps, sums, matrix, scales, n, rows, outputs, groups, added)
