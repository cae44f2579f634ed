# ruff: noqa: ANN001, ANN202 (what numba compiles takes its types from the call)
"""Products of small matrices, transposes and GELU for compiled loops, on flat arrays of floats, as vector instructions.

A row of what is written takes whole vectors of LANES floats: up to LANES - 1 behind its end are written too, so that
rows lie `PAD`-wise apart, and what is there never reaches a number that counts.
"""

from collections.abc import Callable, Sequence
from typing import Any, cast

from llvmlite import ir
from numba.core import cgutils
from numba.extending import intrinsic

from jogak.ops import _vectors
from jogak.ops._compiled import jit
from jogak.ops._vectors import LOG2E, Builder, Value, Vector

LANES = 16
ROWS = 8  # of a block whose sums stay in registers, two vectors wide
SLOPE, BEND = 0.7978845608028654, 0.044715  # sqrt(2 / pi) and the cube's share, of GELU by tanh
GREATEST = 100.0  # of an exponent

_ahead = cast(Any, _vectors).function


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

        whole = builder.udiv(rows, constant(ROWS))
        with cgutils.for_range(builder, whole) as loop:
            block(builder.mul(loop.index, constant(ROWS)), ROWS)
        done = builder.mul(whole, constant(ROWS))
        with cgutils.for_range(builder, builder.sub(rows, done)) as loop:
            block(builder.add(done, loop.index), 1)

    all_vectors = builder.udiv(builder.add(columns, constant(LANES - 1)), constant(LANES))
    pairs = builder.udiv(all_vectors, constant(2))
    with cgutils.for_range(builder, pairs) as loop:
        down(builder.mul(loop.index, constant(2 * LANES)), 2)
    with builder.if_then(builder.trunc(all_vectors, ir.IntType(1))):
        down(builder.mul(pairs, constant(2 * LANES)), 1)


def _intrinsic(mode: str) -> Callable[..., Any]:
    def product(typing, out, at_out, row_out, a, at_a, row_a, step_a, b, at_b, row_b, rows, inner, columns):
        def body(builder: Builder, arguments: Sequence[Value]) -> None:
            bases, sizes = arguments[:3], arguments[3:]
            _product(builder, bases, sizes, mode)

        given = (out, at_out, row_out, a, at_a, row_a, step_a, b, at_b, row_b, rows, inner, columns)
        return _vectors.mixed(lambda builder, arrays, sizes: body(builder, [*arrays, *sizes]), given)

    return intrinsic(product)


_put, _add, _take = (cast(Any, _intrinsic(mode)) for mode in ("put", "add", "take"))


@jit
def put(out, at_out, row_out, a, at_a, row_a, step_a, b, at_b, row_b, rows, inner, columns):
    """out[at_out + r row_out + c] = sum_i a[at_a + r row_a + i step_a] b[at_b + i row_b + c]."""
    _put(out, at_out, row_out, a, at_a, row_a, step_a, b, at_b, row_b, rows, inner, columns)


@jit
def add(out, at_out, row_out, a, at_a, row_a, step_a, b, at_b, row_b, rows, inner, columns):
    """The same added to what is there."""
    _add(out, at_out, row_out, a, at_a, row_a, step_a, b, at_b, row_b, rows, inner, columns)


@jit
def take(out, at_out, row_out, a, at_a, row_a, step_a, b, at_b, row_b, rows, inner, columns):
    """The same subtracted from what is there."""
    _take(out, at_out, row_out, a, at_a, row_a, step_a, b, at_b, row_b, rows, inner, columns)
