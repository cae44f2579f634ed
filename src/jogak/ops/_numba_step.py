"""Steps of decoding in one go, one position of a few rows: x + f(norm(x)) for attention, Mamba and feedforward.

Every thread works out its share of each product and waits for the others where it needs theirs, which takes far less
than calling an operation of its own. All arrays are flat.

Legend: M rows, D width, H query heads, G key/value heads, K head width, R numbers of a head that are turned, F inner
width, S positions that the cache has room for; of Mamba E channels, N numbers of a channel's state, Q taps, P rank.
"""

from collections.abc import Callable
from types import FunctionType
from typing import Any

import numpy as np

from jogak.ops import _vectors
from jogak.ops._compiled import Kernel, jit
from jogak.ops._numba_activation import gelu, gelu_tanh, silu, softplus
from jogak.ops._numba_quantised import KERNELS as PRODUCTS
from jogak.ops._products import inner, put
from jogak.ops._threads import all_threads, barrier, this_thread
from jogak.ops.activation import NUMBERS

# ruff: noqa: ANN001, ANN202 (what numba compiles takes its types from the call)

exp2: Any = _vectors.exp2  # as numba calls it, without what its decorator is told
product: Any = PRODUCTS["float32"].compiled  # in every loop below the one of its kind of matrices: see `_of`
ONE, NOTHING = np.float32(1), np.float32(0)
LAYER = 0  # the kind of norm that takes the mean away and adds a number; any other is a root-mean-square one
SILU, GELU_TANH, GELU = (NUMBERS[name] for name in ("silu", "gelu_tanh", "gelu"))  # any other is relu


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


@jit
def _share(this, together, count):
    """Of `count` outputs the first that is this thread's, and the one behind its last."""
    return count * this // together, count * (this + 1) // together


def _attention(number, last, x, room, k, v, cos, sin, weight, bias, qkv, out, sizes, kind, numbers):
    """x [M D] + attention(norm(x)), where x is; a task is a thread's part.

    room: floats, as many as `attention_room` says. k, v [M S G K], in which this position's are put behind those that
    are read. weight, bias: the norm's. qkv, out: what `product` reads of each matrix.
    """
    this, together = this_thread(), all_threads()
    if number != this:  # there are fewer threads than were asked for: those that there are do it all
        return
    rows, heads, groups, head, width, _, _, _ = sizes
    plus, eps, scale = numbers
    inside, all_heads = heads * head, (heads + 2 * groups) * head
    mixed, read, joined = room[: rows * all_heads], room[rows * all_heads : -rows * width], room[-rows * width :]
    normed = np.empty(rows * width, np.float32)
    _norm(x, normed, weight, bias, kind, plus, eps, rows, width)
    first, end = _share(this, together, all_heads)
    product(first, end, mixed, normed, *qkv, rows, all_heads, width)
    barrier()
    first, end = _share(this, together, rows * heads)
    _attend(mixed, read, k, v, cos, sin, sizes, scale, first, end)
    barrier()
    first, end = _share(this, together, width)
    product(first, end, joined, read, *out, rows, width, inside)
    _onto(x, joined, rows, width, first, end)


def attention_room(rows: int, heads: int, groups: int, head: int, width: int) -> int:
    return rows * ((2 * heads + 2 * groups) * head + width)


def _feedforward(number, last, x, room, weight, bias, raising, lowering, sizes, kinds, numbers):
    """x [M D] + feedforward(norm(x)), where x is; as above."""
    this, together = this_thread(), all_threads()
    if number != this:
        return
    rows, width, f = sizes
    kind, activation, gated = kinds
    plus, eps = numbers
    wide = 2 * f if gated else f
    raised, made, joined = room[: rows * wide], room[rows * wide : rows * (wide + f)], room[rows * (wide + f) :]
    normed = np.empty(rows * width, np.float32)
    _norm(x, normed, weight, bias, kind, plus, eps, rows, width)
    first, end = _share(this, together, f)
    product(first, end, raised, normed, *raising, rows, wide, width)
    if gated:
        product(f + first, f + end, raised, normed, *raising, rows, wide, width)
    _activate(raised, made, activation, gated, rows, f, first, end)
    barrier()
    first, end = _share(this, together, width)
    product(first, end, joined, made, *lowering, rows, width, f)
    _onto(x, joined, rows, width, first, end)


def feedforward_room(rows: int, width: int, inner: int, gated: int) -> int:
    return rows * ((3 if gated else 2) * inner + width)


@jit
def _convolved(raised, u, taps, bias, past, after, row, channels, count, first, end):
    """u = silu(taps * inputs + bias) of one row's channels first ... end - 1; after: the last Q - 1 inputs.

    raised [M 2E], of which the first half is the input now; u [M E]; taps [Q E]; past, after [M Q-1 E].
    """
    now, made = raised[2 * row * channels :], u[row * channels :]
    newest, reach = taps[(count - 1) * channels :], (count - 1) * channels
    before, behind = past[row * reach : (row + 1) * reach], after[row * reach : (row + 1) * reach]
    for i in range(first, end):
        made[i] = newest[i] * now[i]
    if len(bias):
        for i in range(first, end):
            made[i] += bias[i]
    for q in range(count - 1):
        tap, held = taps[q * channels : (q + 1) * channels], before[q * channels : (q + 1) * channels]
        kept = behind[(q - 1) * channels : q * channels] if q else behind[:0]
        for i in range(first, end):
            made[i] += tap[i] * held[i]
        for i in range(first, min(end, len(kept))):
            kept[i] = held[i]
    if count > 1:
        kept = behind[reach - channels :]
        for i in range(first, end):
            kept[i] = now[i]
    for i in range(first, end):
        made[i] = silu(made[i])[0]


@jit
def _selected(u, z, chosen, y, weight, bias, rate, d, h, after, channels, rank, states, first, end):
    """The selective scan of one row's channels first ... end - 1.

    u, z, y [E]; chosen [P + 2N]: what dt, B and C are made of; weight [E P], bias [E]; rate = A log2(e) [N E]; h, after
    [N E].
    """
    dt, put = np.empty(end - first, np.float32), np.empty(end - first, np.float32)
    for i in range(first, end):
        total, row = NOTHING, weight[i * rank : (i + 1) * rank]
        for r in range(rank):
            total += row[r] * chosen[r]
        dt[i - first] = total + bias[i]
    for i in range(end - first):
        dt[i] = softplus(dt[i])[0]
        put[i] = dt[i] * u[first + i]
        y[first + i] = d[first + i] * u[first + i]
    result = y[first:end]
    for n in range(states):
        b, c = chosen[rank + n], chosen[rank + states + n]
        at, to = n * channels + first, n * channels + end
        speed, held, kept = rate[at:to], h[at:to], after[at:to]
        for i in range(len(dt)):
            value = exp2(dt[i] * speed[i]) * held[i] + put[i] * b
            kept[i] = value
            result[i] += c * value
    gate = z[first:end]
    for i in range(len(result)):
        result[i] *= silu(gate[i])[0]


def _mamba(number, last, x, room, past, past_after, h, h_after, weight, bias, matrices, own, sizes, kind, numbers):
    """x [M D] + mamba(norm(x)), where x is; as above.

    past, past_after [M Q-1 E], h, h_after [M N E]: the state before and after. matrices: those of the projection
    inwards, of the selection and outwards. own: taps [Q E], their bias, dt's weight [E P] and bias, A log2(e) [N E], D.
    """
    this, together = this_thread(), all_threads()
    if number != this:
        return
    rows, width, e, states, taps, rank = sizes
    plus, eps = numbers
    inwards, select, outwards = matrices
    convolution, convolution_bias, dt_weight, dt_bias, rate, d = own
    many = rank + 2 * states
    raised, u, y = room[: 2 * rows * e], room[2 * rows * e : 3 * rows * e], room[3 * rows * e : 4 * rows * e]
    chosen, joined = room[4 * rows * e : rows * (4 * e + many)], room[rows * (4 * e + many) :]
    normed = np.empty(rows * width, np.float32)
    _norm(x, normed, weight, bias, kind, plus, eps, rows, width)
    first, end = _share(this, together, e)
    product(first, end, raised, normed, *inwards, rows, 2 * e, width)
    product(e + first, e + end, raised, normed, *inwards, rows, 2 * e, width)
    for row in range(rows):
        _convolved(raised, u, convolution, convolution_bias, past, past_after, row, e, taps, first, end)
    barrier()
    low, high = _share(this, together, many)
    product(low, high, chosen, u, *select, rows, many, e)
    barrier()
    for row in range(rows):
        _selected(
            u[row * e : (row + 1) * e],
            raised[(2 * row + 1) * e : (2 * row + 2) * e],
            chosen[row * many : (row + 1) * many],
            y[row * e : (row + 1) * e],
            dt_weight,
            dt_bias,
            rate,
            d,
            h[row * states * e : (row + 1) * states * e],
            h_after[row * states * e : (row + 1) * states * e],
            e,
            rank,
            states,
            first,
            end,
        )
    barrier()
    first, end = _share(this, together, width)
    product(first, end, joined, y, *outwards, rows, width, e)
    _onto(x, joined, rows, width, first, end)


def mamba_room(rows: int, width: int, channels: int, states: int, taps: int, rank: int) -> int:
    return rows * (4 * channels + rank + 2 * states + width)


def _of(loop: Callable[..., None], kind: str) -> Kernel:
    """A step with one kind of matrices, under a name of its own: compiled code is kept by name."""
    name = f"{loop.__name__}_{kind}"
    code = loop.__code__.replace(co_name=name, co_qualname=name)
    function = FunctionType(code, {**globals(), "product": PRODUCTS[kind].compiled}, name)
    function.__module__ = __name__
    return Kernel(function, reorder=True)


ATTENTION, FEEDFORWARD, MAMBA = (
    {kind: _of(loop, kind) for kind in PRODUCTS} for loop in (_attention, _feedforward, _mamba)
)
