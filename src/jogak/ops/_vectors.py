# ruff: noqa: ANN001, ANN202 (what numba compiles takes its types from the call)
"""Innermost loops of the selective scan as vector instructions, written in LLVM's language.

The compiler's own vectoriser takes half of the processor's width here and cannot keep sums in registers over the
loop over states. A vector of V floats becomes as many registers as the processor needs for it, on any processor.

Legend: N state, W channels of a block (rows of W floats), L length of a chunk, V channels of a vector.
"""

from collections.abc import Callable, Sequence
from typing import Any, TypeAlias

import numpy as np
from llvmlite import ir
from numba.core import cgutils, types
from numba.extending import intrinsic

Builder: TypeAlias = Any  # llvmlite's types say less than it does
Value: TypeAlias = Any
W = 64  # channels of a block: 16 states of as many are 4 KiB, of the first cache's 32 or more
HALF = 32  # of them at once on the way back, which needs more registers
FLOAT, INT = ir.FloatType(), ir.IntType(32)
MAGIC = 1.5 * 2**23  # what is added to it is rounded to a whole number, in the lowest bits
LEAST = -126.0  # of the exponents of normal numbers
# 2^f = 1 + P1 f + ... for f in [-1/2, 1/2], of least relative error: 9.1e-8
POLYNOMIAL = (1.0, 0.693147, 0.24022242, 0.055507336, 0.009671514, 0.001326472)
LOG2E = 1.4426950408889634


class Vector:
    """Arithmetic on vectors of `lanes` floats (1: on floats) in the function that `builder` writes."""

    def __init__(self, builder: Builder, lanes: int) -> None:
        self.builder, self.lanes = builder, lanes
        self.type = FLOAT if lanes == 1 else ir.VectorType(FLOAT, lanes)
        self.whole = INT if lanes == 1 else ir.VectorType(INT, lanes)

    def constant(self, value: float) -> Value:
        rounded = float(np.float32(value))
        return ir.Constant(self.type, rounded if self.lanes == 1 else [rounded] * self.lanes)

    def spread(self, base: Value, index: Value) -> Value:
        """One float in every lane."""
        value = self.builder.load(self.builder.gep(base, [index]))
        first = ir.Constant(self.whole, [0] * self.lanes)
        one = self.builder.insert_element(ir.Constant(self.type, ir.Undefined), value, ir.Constant(INT, 0))
        return self.builder.shuffle_vector(one, ir.Constant(self.type, ir.Undefined), first)

    def at(self, base: Value, index: Value) -> Value:
        pointer = self.builder.gep(base, [index])
        return self.builder.bitcast(pointer, self.type.as_pointer())

    def load(self, base: Value, index: Value) -> Value:
        return self.builder.load(self.at(base, index), align=4)

    def store(self, value: Value, base: Value, index: Value) -> None:
        self.builder.store(value, self.at(base, index), align=4)

    def times(self, a: Value, b: Value) -> Value:
        return self.builder.fmul(a, b, flags=("contract",))

    def plus(self, a: Value, b: Value) -> Value:
        return self.builder.fadd(a, b, flags=("contract",))

    def fused(self, a: Value, b: Value, c: Value) -> Value:
        return self.plus(self.times(a, b), c)

    def exp2(self, x: Value) -> Value:
        """2^x for x < 126, at least 2^-126: a polynomial for the fraction, the whole part added to its exponent."""
        least = self.constant(LEAST)
        x = self.builder.select(self.builder.fcmp_ordered(">", x, least), x, least)
        shifted = self.builder.fadd(x, self.constant(MAGIC))
        f = self.builder.fsub(x, self.builder.fsub(shifted, self.constant(MAGIC)))
        value = self.constant(POLYNOMIAL[-1])
        for factor in POLYNOMIAL[-2::-1]:
            value = self.fused(value, f, self.constant(factor))
        places = ir.Constant(self.whole, 23 if self.lanes == 1 else [23] * self.lanes)
        exponent = self.builder.shl(self.builder.bitcast(shifted, self.whole), places)
        return self.builder.bitcast(self.builder.add(self.builder.bitcast(value, self.whole), exponent), self.type)

    def total(self, x: Value) -> Value:
        """The sum of all lanes, in any order."""
        lanes = self.lanes
        while lanes > 1:  # halves are added, which keeps whole registers as long as there are any
            lanes //= 2
            mask = ir.VectorType(INT, lanes)
            low, high = ir.Constant(mask, list(range(lanes))), ir.Constant(mask, list(range(lanes, 2 * lanes)))
            x = self.builder.fadd(self.builder.shuffle_vector(x, x, low), self.builder.shuffle_vector(x, x, high))
        return x if self.lanes == 1 else self.builder.extract_element(x, ir.Constant(INT, 0))


def function(body: Callable[..., None], arrays: int, given: Sequence[types.Type]) -> tuple[Any, Callable[..., Any]]:
    """What numba's `intrinsic` asks for: the types, and what writes `body`, told where its arrays begin."""

    def generate(context, builder, signature, arguments):
        bases = [
            context.make_array(kind)(context, builder, value).data
            for kind, value in zip(signature.args[:arrays], arguments, strict=False)
        ]
        body(builder, bases, arguments[arrays:])
        return context.get_dummy_value()

    return types.none(*given), generate


@intrinsic
def exp2(typing, x):
    """2^x of a float."""

    def generate(context, builder, signature, arguments):
        return Vector(builder, 1).exp2(arguments[0])

    return types.float32(types.float32), generate


@intrinsic
def advance(typing, h, rate, b, c, steps, inputs, ys, states, at_b):
    """h = 2^(steps rate) h + inputs b and ys = sum_n c h: h, rate [N W], steps, inputs, ys [W], b, c [N] at at_b."""

    def body(builder: Builder, bases: Sequence[Value], sizes: Sequence[Value]) -> None:
        h, rate, b, c, steps, inputs, ys = bases
        states, at_b = sizes
        v = Vector(builder, W)
        none = ir.Constant(states.type, 0)
        step, put = v.load(steps, none), v.load(inputs, none)
        total = cgutils.alloca_once_value(builder, v.constant(0.0))
        with cgutils.for_range(builder, states) as loop:
            place, n = builder.mul(loop.index, ir.Constant(states.type, W)), builder.add(at_b, loop.index)
            decay = v.exp2(v.times(step, v.load(rate, place)))
            value = v.fused(decay, v.load(h, place), v.times(put, v.spread(b, n)))
            v.store(value, h, place)
            builder.store(v.fused(v.spread(c, n), value, builder.load(total)), total)
        v.store(builder.load(total), ys, none)

    return function(body, 7, (h, rate, b, c, steps, inputs, ys, states, at_b))


@intrinsic
def again(typing, hs, decays, rate, b, steps, inputs, states, at_b, k):
    """decays_k = 2^(steps rate) and hs_(k+1) = decays_k hs_k + inputs b: hs [L+1 N W], decays [L N W]."""

    def body(builder: Builder, bases: Sequence[Value], sizes: Sequence[Value]) -> None:
        hs, decays, rate, b, steps, inputs = bases
        states, at_b, k = sizes
        v, row = Vector(builder, W), ir.Constant(states.type, W)
        none, size = ir.Constant(states.type, 0), builder.mul(states, row)
        step, put = v.load(steps, none), v.load(inputs, none)
        with cgutils.for_range(builder, states) as loop:
            at = builder.mul(loop.index, row)
            now = builder.add(builder.mul(k, size), at)
            decay = v.exp2(v.times(step, v.load(rate, at)))
            v.store(decay, decays, now)
            n = builder.add(at_b, loop.index)
            value = v.fused(decay, v.load(hs, now), v.times(put, v.spread(b, n)))
            v.store(value, hs, builder.add(now, size))

    return function(body, 6, (hs, decays, rate, b, steps, inputs, states, at_b, k))


@intrinsic
def back(
    typing,
    g,
    hs,
    decays,
    rate,
    drate,
    b,
    c,
    db,
    dc,
    vectors,
    states,
    at_b,
    k,
    at_db,
):
    """From the gradient g [N W] of the states behind place k to that of those before it; adds to db, dc [N], drate.

    vectors [7 W]: steps, inputs, dys are given; dins, dsteps, ys are found.
    """

    def body(builder: Builder, bases: Sequence[Value], sizes: Sequence[Value]) -> None:
        states = sizes[0]
        with cgutils.for_range(builder, ir.Constant(states.type, W // HALF)) as halves:
            _back(builder, bases, sizes, builder.mul(halves.index, ir.Constant(states.type, HALF)))

    given = (g, hs, decays, rate, drate, b, c, db, dc, vectors, states, at_b, k, at_db)
    return function(body, 10, given)


def _back(builder: Builder, bases: Sequence[Value], sizes: Sequence[Value], low: Value) -> None:
    """The channels from `low` on, as many as leave registers for all sums."""
    g, hs, decays, rate, drate, b, c, db, dc, vectors = bases
    states, at_b, k, at_db = sizes
    v, row = Vector(builder, HALF), ir.Constant(states.type, W)
    size = builder.mul(states, row)
    places = [builder.add(low, ir.Constant(states.type, W * i)) for i in range(6)]
    step, put, dy = (v.load(vectors, p) for p in places[:3])
    sums = [cgutils.alloca_once(builder, v.type) for _ in range(3)]
    for total in sums:
        builder.store(v.constant(0.0), total)
    with cgutils.for_range(builder, states) as loop:
        at = builder.add(builder.mul(loop.index, row), low)
        now = builder.add(builder.mul(k, size), at)
        n = builder.add(at_b, loop.index)
        bn, cn = v.spread(b, n), v.spread(c, n)
        h = v.load(hs, builder.add(now, size))
        gradient = v.fused(cn, dy, v.load(g, at))
        for base, part in ((db, v.times(gradient, put)), (dc, v.times(dy, h))):
            pointer = builder.gep(base, [builder.add(at_db, loop.index)])
            builder.store(builder.fadd(builder.load(pointer), v.total(part)), pointer)
        carried = v.times(gradient, v.load(decays, now))
        v.store(carried, g, at)
        of_rate = v.times(carried, v.load(hs, now))
        v.store(v.fused(of_rate, step, v.load(drate, at)), drate, at)
        for total, a, x in ((sums[0], gradient, bn), (sums[1], of_rate, v.load(rate, at)), (sums[2], cn, h)):
            builder.store(v.fused(a, x, builder.load(total)), total)
    for total, place in zip(sums, places[3:], strict=True):
        v.store(builder.load(total), vectors, place)
