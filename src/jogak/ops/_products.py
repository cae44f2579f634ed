# ruff: noqa: ANN001, ANN202 (what numba compiles takes its types from the call)
"""Products of small matrices, transposes and GELU for compiled loops, on flat arrays of floats.

What is written takes whole vectors of LANES floats: up to LANES - 1 behind the end of a row are written too, so that
rows lie `ld` apart, and what is there never reaches a number that counts.
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

LANES = 16
TALL = {2: (8, 1), 1: (16, 4, 1)}  # rows of a block whose sums stay in registers, by its width in vectors
SLOPE, CUBE = np.float32(0.7978845608028654), np.float32(0.044715)  # sqrt(2 / pi) and the cube's share in GELU's tanh
TWICE = np.float32(2 * 1.4426950408889634)  # of log2(e)
MOST = np.float32(100.0)  # of an exponent
HALF, ONE, THREE = np.float32(0.5), np.float32(1), np.float32(3)

exp2 = cast(Any, _vectors.exp2)


def ld(width: int) -> int:
    """Distance of rows that hold `width` floats and one more: whole vectors, an odd number of them.

    Rows that lie a power of two apart would share few places of the first cache.
    """
    vectors = width // LANES + 1
    return LANES * (vectors + 1 - vectors % 2)


def _block(builder: Builder, bases: Sequence[Value], at: Sequence[Value], shape: tuple[int, int], mode: str) -> None:
    """One block of rows and vectors of `_product`; at: where it is in out, a and b, and the strides."""
    out, a, b = bases
    at_out, at_a, at_b, row_out, row_a, step_a, row_b, inner = at
    rows, vectors = shape
    v, kind = Vector(builder, LANES), inner.type
    places = [
        [
            builder.add(builder.add(at_out, builder.mul(row_out, ir.Constant(kind, r))), ir.Constant(kind, LANES * c))
            for c in range(vectors)
        ]
        for r in range(rows)
    ]
    sums = [[cgutils.alloca_once(builder, v.type) for _ in range(vectors)] for _ in range(rows)]
    for places_r, sums_r in zip(places, sums, strict=True):
        for place, total in zip(places_r, sums_r, strict=True):
            builder.store(v.constant(0.0) if mode == "put" else v.load(out, place), total)
    with cgutils.for_range(builder, inner) as loop:
        from_b = builder.add(at_b, builder.mul(loop.index, row_b))
        along = [v.load(b, builder.add(from_b, ir.Constant(kind, LANES * c))) for c in range(vectors)]
        from_a = builder.add(at_a, builder.mul(loop.index, step_a))
        for r, sums_r in enumerate(sums):
            factor = v.spread(a, builder.add(from_a, builder.mul(row_a, ir.Constant(kind, r))))
            for total, x in zip(sums_r, along, strict=True):
                product = v.times(factor, x)
                now = builder.load(total)
                now = builder.fsub(now, product, flags=("contract",)) if mode == "take" else v.plus(now, product)
                builder.store(now, total)
    for places_r, sums_r in zip(places, sums, strict=True):
        for place, total in zip(places_r, sums_r, strict=True):
            v.store(builder.load(total), out, place)


def _product(builder: Builder, bases: Sequence[Value], sizes: Sequence[Value], mode: str) -> None:
    """Columns outermost: as many rows of b as a pass needs stay in the first cache."""
    at_out, row_out, at_a, row_a, step_a, at_b, row_b, rows, inner, columns = sizes
    kind = rows.type

    def constant(number: int) -> Value:
        return ir.Constant(kind, number)

    def down(column: Value, vectors: int) -> None:
        def block(row: Value, height: int) -> None:
            at = (
                builder.add(at_out, builder.add(builder.mul(row, row_out), column)),
                builder.add(at_a, builder.mul(row, row_a)),
                builder.add(at_b, column),
            )
            _block(builder, bases, (*at, row_out, row_a, step_a, row_b, inner), (height, vectors), mode)

        done = constant(0)
        for height in TALL[vectors]:
            whole = builder.udiv(builder.sub(rows, done), constant(height))
            with cgutils.for_range(builder, whole) as loop:
                block(builder.add(done, builder.mul(loop.index, constant(height))), height)
            done = builder.add(done, builder.mul(whole, constant(height)))

    all_vectors = builder.udiv(builder.add(columns, constant(LANES - 1)), constant(LANES))
    pairs = builder.udiv(all_vectors, constant(2))
    with cgutils.for_range(builder, pairs) as loop:
        down(builder.mul(loop.index, constant(2 * LANES)), 2)
    with builder.if_then(builder.trunc(all_vectors, ir.IntType(1))):
        down(builder.mul(pairs, constant(2 * LANES)), 1)


def _made(mode: str, given: Sequence[Any]) -> Any:  # noqa: ANN401 (what numba's `intrinsic` asks for)
    """given: out, a, b, then the sizes."""

    def body(builder: Builder, bases: Sequence[Value], sizes: Sequence[Value]) -> None:
        _product(builder, bases, sizes, mode)

    return _vectors.function(body, 3, given)


@intrinsic
def _put(typing, out, a, b, at_out, row_out, at_a, row_a, step_a, at_b, row_b, rows, inner, columns):
    return _made("put", (out, a, b, at_out, row_out, at_a, row_a, step_a, at_b, row_b, rows, inner, columns))


@intrinsic
def _add(typing, out, a, b, at_out, row_out, at_a, row_a, step_a, at_b, row_b, rows, inner, columns):
    return _made("add", (out, a, b, at_out, row_out, at_a, row_a, step_a, at_b, row_b, rows, inner, columns))


@intrinsic
def _take(typing, out, a, b, at_out, row_out, at_a, row_a, step_a, at_b, row_b, rows, inner, columns):
    return _made("take", (out, a, b, at_out, row_out, at_a, row_a, step_a, at_b, row_b, rows, inner, columns))


@intrinsic
def _turn(typing, out, x, row_out, at_x, row_x, rows, columns):
    """Blocks of LANES times LANES, each turned in registers: in every step, halves of half the size change places."""

    def body(builder: Builder, bases: Sequence[Value], sizes: Sequence[Value]) -> None:
        out, x = bases
        row_out, at_x, row_x, rows, columns = sizes
        v, kind = Vector(builder, LANES), rows.type
        width = ir.Constant(kind, LANES)
        across = builder.udiv(columns, width)
        with cgutils.for_range(builder, builder.mul(builder.udiv(rows, width), across)) as loop:
            row = builder.mul(builder.udiv(loop.index, across), width)
            column = builder.mul(builder.urem(loop.index, across), width)
            from_x = builder.add(builder.add(at_x, column), builder.mul(row, row_x))
            to = builder.add(row, builder.mul(column, row_out))
            lines = [v.load(x, builder.add(from_x, builder.mul(row_x, ir.Constant(kind, r)))) for r in range(LANES)]
            for r, line in enumerate(_turned(builder, lines)):
                v.store(line, out, builder.add(to, builder.mul(row_out, ir.Constant(kind, r))))

    return _vectors.function(body, 2, (out, x, row_out, at_x, row_x, rows, columns))


def _turned(builder: Builder, lines: list[Value]) -> list[Value]:
    many = ir.VectorType(INT, LANES)
    size = LANES // 2
    while size:
        low = ir.Constant(many, [i if not i & size else LANES + i - size for i in range(LANES)])
        high = ir.Constant(many, [i + size if not i & size else LANES + i for i in range(LANES)])
        for r in range(LANES):
            if not r & size:
                one, other = lines[r], lines[r + size]
                lines[r] = builder.shuffle_vector(one, other, low)
                lines[r + size] = builder.shuffle_vector(one, other, high)
        size //= 2
    return lines


@intrinsic
def _inner(typing, out, a, b, at_out, row_out, at_a, row_a, at_b, row_b, rows, columns, width):
    """As many lanes at once as divide the width; each sum is added up within registers."""

    def body(builder: Builder, bases: Sequence[Value], sizes: Sequence[Value]) -> None:
        rest = builder.urem(sizes[-1], ir.Constant(sizes[-1].type, 4 * LANES))
        with builder.if_else(builder.icmp_unsigned("==", rest, ir.Constant(rest.type, 0))) as (whole, parts):
            with whole:
                _dots(builder, bases, sizes, 4 * LANES)
            with parts:
                _dots(builder, bases, sizes, LANES)

    given = (out, a, b, at_out, row_out, at_a, row_a, at_b, row_b, rows, columns, width)
    return _vectors.function(body, 3, given)


def _dots(builder: Builder, bases: Sequence[Value], sizes: Sequence[Value], lanes: int) -> None:
    """A row of a stays in registers while those of b go by."""
    out, a, b = bases
    at_out, row_out, at_a, row_a, at_b, row_b, rows, columns, width = sizes
    v, kind = Vector(builder, lanes), rows.type
    first = ir.Constant(kind, 0)
    with cgutils.for_range(builder, rows) as row:
        to = builder.add(at_out, builder.mul(row.index, row_out))
        from_a = builder.add(at_a, builder.mul(row.index, row_a))
        with cgutils.for_range(builder, builder.udiv(width, ir.Constant(kind, lanes))) as part:
            along = builder.mul(part.index, ir.Constant(kind, lanes))
            query, later = v.load(a, builder.add(from_a, along)), builder.icmp_unsigned("!=", part.index, first)
            start = builder.add(at_b, along)
            with cgutils.for_range(builder, columns) as column:
                key = v.load(b, builder.add(start, builder.mul(column.index, row_b)))
                place = builder.gep(out, [builder.add(to, column.index)])
                before = builder.select(later, builder.load(place), ir.Constant(FLOAT, 0.0))
                builder.store(builder.fadd(before, v.total(v.times(query, key))), place)


# numba itself gives their first argument
do_put, do_add, do_take, do_turn, do_inner = cast(Any, (_put, _add, _take, _turn, _inner))


@jit
def put(out, at_out, row_out, a, at_a, row_a, step_a, b, at_b, row_b, rows, inner, columns):
    """out[at_out + r row_out + c] = sum_i a[at_a + r row_a + i step_a] b[at_b + i row_b + c]."""
    do_put(out, a, b, at_out, row_out, at_a, row_a, step_a, at_b, row_b, rows, inner, columns)


@jit
def add(out, at_out, row_out, a, at_a, row_a, step_a, b, at_b, row_b, rows, inner, columns):
    """The same added to what is there."""
    do_add(out, a, b, at_out, row_out, at_a, row_a, step_a, at_b, row_b, rows, inner, columns)


@jit
def take(out, at_out, row_out, a, at_a, row_a, step_a, b, at_b, row_b, rows, inner, columns):
    """The same subtracted from what is there."""
    do_take(out, a, b, at_out, row_out, at_a, row_a, step_a, at_b, row_b, rows, inner, columns)


@jit
def inner(out, at_out, row_out, a, at_a, row_a, b, at_b, row_b, rows, columns, width):
    """out[at_out + r row_out + c] = sum_i a[at_a + r row_a + i] b[at_b + c row_b + i]; width: a multiple of LANES.

    For few columns: what is written is no more than they are.
    """
    do_inner(out, a, b, at_out, row_out, at_a, row_a, at_b, row_b, rows, columns, width)


@jit
def turn(out, row_out, x, at_x, row_x, rows, columns):
    """out[c row_out + r] = x[at_x + r row_x + c], rows and columns rounded up to LANES."""
    do_turn(out, x, row_out, at_x, row_x, (rows + 15) // 16 * 16, (columns + 15) // 16 * 16)


@jit
def _tanh(x):
    return ONE - (ONE + ONE) / (ONE + exp2(min(x * TWICE, MOST)))


@jit
def gelu(x, at_x, y, slope, count):
    """y = x (1 + tanh u) / 2 with u = sqrt(2 / pi) (x + 0.044715 x^3), and its derivative."""
    for i in range(count):
        value = x[at_x + i]
        square = value * value
        t = _tanh(SLOPE * value * (ONE + CUBE * square))
        rise = HALF * (ONE + t)
        y[i] = value * rise
        slope[i] = rise + HALF * value * (ONE - t * t) * SLOPE * (ONE + THREE * CUBE * square)


@jit
def gelu_twice(x, at_x, y, slope, bend, count):
    """The same and its second derivative."""
    for i in range(count):
        value = x[at_x + i]
        square = value * value
        t = _tanh(SLOPE * value * (ONE + CUBE * square))
        rise, rest = HALF * (ONE + t), ONE - t * t
        inner = SLOPE * (ONE + THREE * CUBE * square)
        y[i] = value * rise
        slope[i] = rise + HALF * value * rest * inner
        bend[i] = rest * (inner + THREE * CUBE * SLOPE * square - value * t * inner * inner)
