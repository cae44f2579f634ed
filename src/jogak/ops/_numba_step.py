"""A step of a block of attention and feedforward, one position of a few rows, in one go.

Every thread works out its share of each product and waits for the others where it needs theirs, which takes a
microsecond; an operation of its own takes ten to be called. All arrays are flat.

Legend: M rows, D width, H query heads, G key/value heads, K head width, R numbers of a head that are turned, F inner
width, S positions that the cache has room for.
"""

from types import FunctionType
from typing import Any

import numpy as np

from jogak.ops import _vectors
from jogak.ops._compiled import Kernel, jit
from jogak.ops._numba_activation import gelu, gelu_tanh, silu
from jogak.ops._numba_quantised import KERNELS as PRODUCTS
from jogak.ops._products import inner, put
from jogak.ops._threads import all_threads, barrier, this_thread

# ruff: noqa: ANN001, ANN202 (what numba compiles takes its types from the call)

exp2: Any = _vectors.exp2  # as numba calls it, without what its decorator is told
product: Any = PRODUCTS["float32"].compiled  # in each of KERNELS the one of its kind: see `_of`
ONE, NOTHING = np.float32(1), np.float32(0)
LAYER = 0  # the kind of norm that takes the mean away and adds a number; any other is a root-mean-square one
SILU, GELU_TANH, GELU = 0, 1, 2  # kinds of activation; any other is relu


@jit
def _norm(x, made, weight, bias, kind, plus, eps, rows, width):
    """x, made [M D]; weight, bias [D], or bias [0]."""
    for row in range(rows):
        given, y = x[row * width : (row + 1) * width], made[row * width : (row + 1) * width]
        mean, total = NOTHING, NOTHING
        if kind == LAYER:
            for i in range(width):
                mean += given[i]
            mean /= np.float32(width)
        for i in range(width):
            total += (given[i] - mean) * (given[i] - mean)
        factor = ONE / np.sqrt(total / np.float32(width) + eps)
        for i in range(width):
            y[i] = (given[i] - mean) * factor * (weight[i] + plus)
        if len(bias):
            for i in range(width):
                y[i] += bias[i]


@jit
def _turn(x, y, cos, sin, factor):
    """y = x [K] with its first R numbers turned by cos, sin [R/2], times a factor."""
    half = len(cos)
    for i in range(len(x)):
        y[i] = x[i] * factor
    for i in range(half):
        y[i] = (x[i] * cos[i] - x[half + i] * sin[i]) * factor
        y[half + i] = (x[half + i] * cos[i] + x[i] * sin[i]) * factor


@jit
def _head(qkv, y, k, v, cos, sin, scores, q, head, group, heads, groups, begin, count, writes, scale):
    """One head of one row: y [K] of q, k, v in qkv [(H + 2G) K], and of the cache k, v [S G K] from `begin` on.

    The last of `count` places is this position's own, which goes into the cache where this head writes.
    """
    width = len(y)
    _turn(qkv[head * width : (head + 1) * width], q[:width], cos, sin, scale)
    own = q[width:]
    _turn(qkv[(heads + group) * width : (heads + group + 1) * width], own, cos, sin, ONE)
    fresh = qkv[(heads + groups + group) * width : (heads + groups + group + 1) * width]
    at = ((begin + count - 1) * groups + group) * width
    if writes:
        k[at : at + width] = own
        v[at : at + width] = fresh
    step, at = groups * width, (begin * groups + group) * width
    inner(scores, 0, 0, q, 0, 0, k, at, step, 1, count - 1, width)
    inner(scores, count - 1, 0, q, 0, 0, q, width, 0, 1, 1, width)
    top, total = scores[0], NOTHING
    for s in range(1, count):
        top = max(top, scores[s])
    for s in range(count):
        scores[s] = exp2(scores[s] - top)
        total += scores[s]
    put(y, 0, 0, scores, 0, 0, 1, v, at, step, 1, count - 1, width)
    for i in range(width):
        y[i] = (y[i] + scores[count - 1] * fresh[i]) / total


@jit
def _attend(qkv, y, k, v, cos, sin, sizes, scale, first, last):
    """Heads first ... last - 1 of all rows: y [M H K]."""
    _, heads, groups, width, _, begin, count, room = sizes
    scores, q = np.empty(count, np.float32), np.empty(2 * width, np.float32)
    each, row_qkv, row_cache = heads // groups, (heads + 2 * groups) * width, room * groups * width
    for task in range(first, last):
        row, head = task // heads, task % heads
        held = slice(row * row_cache, (row + 1) * row_cache)
        _head(
            qkv[row * row_qkv : (row + 1) * row_qkv],
            y[task * width : (task + 1) * width],
            k[held],
            v[held],
            cos,
            sin,
            scores,
            q,
            head,
            head // each,
            heads,
            groups,
            begin,
            count,
            head % each == 0,
            scale,
        )


@jit
def _activate(x, y, kind, gated, rows, width, first, last):
    """Numbers first ... last - 1 of each row of y [M F] from x [M F], or [M 2F] where one half scales the other."""
    row_inner = 2 * width if gated else width
    for row in range(rows):
        given = x[row * row_inner + first : row * row_inner + last]
        made = y[row * width + first : row * width + last]
        if kind == SILU:
            for i in range(len(made)):
                made[i] = silu(given[i])[0]
        elif kind == GELU_TANH:
            for i in range(len(made)):
                made[i] = gelu_tanh(given[i])[0]
        elif kind == GELU:
            for i in range(len(made)):
                made[i] = gelu(given[i])[0]
        else:
            for i in range(len(made)):
                made[i] = max(given[i], NOTHING)
        if gated:
            factor = x[row * row_inner + width + first : row * row_inner + width + last]
            for i in range(len(made)):
                made[i] *= factor[i]


@jit
def _onto(x, y, rows, width, first, last):
    for row in range(rows):
        for i in range(row * width + first, row * width + last):
            x[i] += y[i]


def _block(number, last, x, room, k, v, cos, sin, norms, qkv, out, raising, lowering, sizes, kinds, numbers):
    """The step, of which a task is a thread's part: x [M D] becomes the block's output.

    room: floats, as many as `space` says. k, v [M S G K], in which this position's are put behind those that are read.
    norms: weight and bias of both. qkv, out, raising, lowering: what `product` reads of each matrix.
    """
    this, together = this_thread(), all_threads()
    if number != this:  # there are fewer threads than were asked for: those that there are do it all
        return
    rows, heads, groups, head, width, _, _, _ = sizes
    norm, activation, gated, f = kinds
    scale, plus, eps_first, eps_second = numbers
    d, a, h = width, heads * head, (heads + 2 * groups) * head
    wide = 2 * f if gated else f
    mixed, read = room[: rows * h], room[rows * h : rows * (h + a)]
    room = room[rows * (h + a) :]
    raised, made = room[: rows * wide], room[rows * wide : rows * (wide + f)]
    joined = room[rows * (wide + f) :]
    normed = np.empty(rows * d, np.float32)
    weight_first, bias_first, weight_second, bias_second = norms

    _norm(x, normed, weight_first, bias_first, norm, plus, eps_first, rows, d)
    product(h * this // together, h * (this + 1) // together, mixed, normed, *qkv, rows, h, d)
    barrier()
    tasks = rows * heads
    _attend(mixed, read, k, v, cos, sin, sizes, scale, tasks * this // together, tasks * (this + 1) // together)
    barrier()
    low, high = d * this // together, d * (this + 1) // together
    product(low, high, joined, read, *out, rows, d, a)
    _onto(x, joined, rows, d, low, high)
    barrier()
    _norm(x, normed, weight_second, bias_second, norm, plus, eps_second, rows, d)
    first, end = f * this // together, f * (this + 1) // together
    product(first, end, raised, normed, *raising, rows, wide, d)
    if gated:
        product(f + first, f + end, raised, normed, *raising, rows, wide, d)
    _activate(raised, made, activation, gated, rows, f, first, end)
    barrier()
    product(low, high, joined, made, *lowering, rows, d, f)
    _onto(x, joined, rows, d, low, high)


def _of(kind: str) -> Kernel:
    """The step with one kind of matrices, under a name of its own: compiled code is kept by name."""
    name = f"_block_{kind}"
    code = _block.__code__.replace(co_name=name, co_qualname=name)
    function = FunctionType(code, {**globals(), "product": PRODUCTS[kind].compiled}, name)
    function.__module__ = __name__
    return Kernel(function, reorder=True)


KERNELS = {kind: _of(kind) for kind in PRODUCTS}


def space(rows: int, heads: int, groups: int, head: int, width: int, gated: int, inner: int) -> int:
    """Floats of room that a step needs."""
    return rows * ((2 * heads + 2 * groups) * head + (3 if gated else 2) * inner + width)
