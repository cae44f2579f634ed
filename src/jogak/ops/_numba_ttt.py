# ruff: noqa: ANN001, ANN202, C901, PLR0912, PLR0915 (what numba compiles takes its types from the call; one loop nest each way)
"""Test-time training of an MLP on a CPU: one pass over the mini-batches of each head, whose weights stay in its cache.

Equations as in ops.ttt and ops._ttt_scan; second derivatives are written out. Places are innermost: what a mini-batch
is given and finds lies [features P] in a flat array, so that weights are only ever spread over a vector of places, and
sums over features go along lanes. Only what weights are changed by is turned to [P features].

Legend: M mini-batches, n rows times heads, C places of a mini-batch, P = C rounded up to whole vectors, K head width,
J = K + 1, F inner width. Names: k, q keys and queries with their one; h = W1^T k; s = slopes at z = W2^T gelu(h), r at
h; x what is read, W1^T q less the steps inside of the mini-batch.
"""

import numpy as np
import torch
from torch import Tensor

from jogak.ops._compiled import Kernel, jit
from jogak.ops._products import LANES, add, gelu, gelu_twice, ld, put, take, turn
from jogak.ops._ttt_scan import EPS

_apart = jit(ld)
NORM_EPS = np.float32(EPS)
ZERO = np.float32(0)


@jit
def _room(size):
    return np.zeros(size, np.float32)


@jit
def _two(size):
    return _room(size), _room(size)


@jit
def _three(size):
    return _room(size), _room(size), _room(size)


@jit
def _four(size):
    return _room(size), _room(size), _room(size), _room(size)


@jit
def _places(x, m, i, into, p):
    """x [M n C K] -> into [K P]."""
    for c in range(x.shape[2]):
        for k in range(x.shape[3]):
            into[k * p + c] = x[m, i, c, k]


@jit
def _steps(step, m, i, into, turned, p):
    """step [M n C C] -> into [C P], and turned."""
    for c in range(step.shape[2]):
        for s in range(step.shape[3]):
            into[c * p + s] = step[m, i, c, s]
            turned[s * p + c] = step[m, i, c, s]


@jit
def _ones(x, row, count, p):
    for c in range(count):
        x[row * p + c] = np.float32(1)


@jit
def _times(x, y, count):
    for i in range(count):
        x[i] = x[i] * y[i]


@jit
def _scaled(x, by, out, rows, p):
    """out [rows P] = x by, by [P]."""
    for k in range(rows):
        for c in range(p):
            out[k * p + c] = x[k * p + c] * by[c]


@jit
def _squared(x, out, count, p):
    """The transposed of a small square [C P]."""
    for s in range(count):
        for c in range(count):
            out[c * p + s] = x[s * p + c]


@jit
def _back(g, y, rstd, out, one, two, width, p):
    """out = rstd (g - mean(g) - y mean(g y)), over features [width P]; one, two: room."""
    share = np.float32(1.0 / width)
    for c in range(p):
        one[c], two[c] = ZERO, ZERO
    for k in range(width):
        for c in range(p):
            one[c] += g[k * p + c]
            two[c] += g[k * p + c] * y[k * p + c]
    for c in range(p):
        one[c] *= share
        two[c] *= share
    for k in range(width):
        for c in range(p):
            out[k * p + c] = rstd[c] * (g[k * p + c] - one[c] - y[k * p + c] * two[c])


@jit
def _slope(z, aim, gain, i, y, e, s, rstd, one, two, width, p):
    """y = norm(z), e = aim + gain y, s the slope; over features [width P]."""
    share = np.float32(1.0 / width)
    for c in range(p):
        one[c], two[c] = ZERO, ZERO
    for k in range(width):
        for c in range(p):
            one[c] += z[k * p + c]
    for c in range(p):
        one[c] *= share
    for k in range(width):
        for c in range(p):
            off = z[k * p + c] - one[c]
            two[c] += off * off
    for c in range(p):
        rstd[c] = np.float32(1) / np.sqrt(two[c] * share + NORM_EPS)
    for k in range(width):
        factor = gain[i, k]
        for c in range(p):
            value = (z[k * p + c] - one[c]) * rstd[c]
            y[k * p + c] = value
            e[k * p + c] = aim[k * p + c] + factor * value
    _back(e, y, rstd, s, one, two, width, p)


def _forward(
    first, last, keys, queries, aim, gain, rate, step, w1, w2, hidden, back, zs, read, firsts, seconds, y, end1, end2,
    keep,
) -> None:  # fmt: skip
    count, places, j, width, inner = keys.shape[0], keys.shape[2], keys.shape[3], aim.shape[3], w1.shape[2]
    p, row1, row2 = (places + 15) // 16 * 16, _apart(inner), _apart(width)
    slots, kept = (count + 1, count) if keep else (1, 1)
    room = (inner + 17) // 16 * 16 * p
    k, q, given, aims = _four(j * p)
    inside, slope, asked = _three(room)
    other, before = _two(room)
    normed, e, after, found = _four((width + 16) * p)
    turned1, turned2 = _room(p * row1 + room), _room(p * row2 + room)
    steps, turned, seen = _three(p * p)
    rates, rstd, one, two = _four(p)
    for i in range(first, last):
        start1, start2 = i * slots * j * row1, i * slots * (inner + 1) * row2
        firsts[start1 : start1 + j * row1] = ZERO
        seconds[start2 : start2 + (inner + 1) * row2] = ZERO
        for r in range(j):
            firsts[start1 + r * row1 : start1 + r * row1 + inner] = w1[i, r]
        for r in range(inner + 1):
            seconds[start2 + r * row2 : start2 + r * row2 + width] = w2[i, r]
        for m in range(count):
            slot = m if keep else 0
            at1, at2 = start1 + slot * j * row1, start2 + slot * (inner + 1) * row2
            wide, narrow = (i * kept + slot) * inner * p, (i * kept + slot) * width * p
            _places(keys, m, i, k, p)
            _places(queries, m, i, q, p)
            _places(aim, m, i, aims, p)
            _steps(step, m, i, steps, turned, p)
            for c in range(places):
                rates[c] = rate[m, i, c]
            put(hidden, wide, p, firsts, at1, 1, row1, k, 0, p, inner, j, p)
            gelu(hidden, wide, inside, slope, inner * p)
            _ones(inside, inner, places, p)
            put(zs, narrow, p, seconds, at2, 1, row2, inside, 0, p, width, inner + 1, p)
            _slope(zs[narrow : narrow + width * p], aims, gain, i, normed, e, after, rstd, one, two, width, p)
            put(back, wide, p, seconds, at2, row2, 1, after, 0, p, inner, width, p)
            pulled = back[wide : wide + inner * p]
            for r in range(inner * p):
                before[r] = pulled[r] * slope[r]
            put(seen, 0, p, k, 0, 1, p, q, 0, p, places, j, p)
            _times(seen, turned, p * p)
            put(read, wide, p, firsts, at1, 1, row1, q, 0, p, inner, j, p)
            take(read, wide, p, before, 0, p, 1, seen, 0, p, inner, places, p)
            gelu(read, wide, asked, other, inner * p)
            _ones(asked, inner, places, p)
            put(seen, 0, p, inside, 0, 1, p, asked, 0, p, places, inner + 1, p)
            _times(seen, turned, p * p)
            put(found, 0, p, seconds, at2, 1, row2, asked, 0, p, width, inner + 1, p)
            take(found, 0, p, after, 0, p, 1, seen, 0, p, width, places, p)
            for c in range(places):
                for r in range(width):
                    y[m, i, c, r] = found[r * p + c]
            _scaled(k, rates, given, j, p)
            _scaled(after, rates, found, width, p)
            turn(turned1, row1, before, 0, p, inner, p)
            turn(turned2, row2, found, 0, p, width, p)
            if keep:
                firsts[at1 + j * row1 : at1 + 2 * j * row1] = firsts[at1 : at1 + j * row1]
                seconds[at2 + (inner + 1) * row2 : at2 + 2 * (inner + 1) * row2] = seconds[
                    at2 : at2 + (inner + 1) * row2
                ]
                at1, at2 = at1 + j * row1, at2 + (inner + 1) * row2
            take(firsts, at1, row1, given, 0, p, 1, turned1, 0, row1, j, places, inner)
            take(seconds, at2, row2, inside, 0, p, 1, turned2, 0, row2, inner + 1, places, width)
        at1 = start1 + (slots - 1) * j * row1
        at2 = start2 + (slots - 1) * (inner + 1) * row2
        for r in range(j):
            end1[i, r] = firsts[at1 + r * row1 : at1 + r * row1 + inner]
        for r in range(inner + 1):
            end2[i, r] = seconds[at2 + r * row2 : at2 + r * row2 + width]


def _backward(
    first, last, keys, queries, aim, gain, rate, step, hidden, back, zs, read, firsts, seconds, dy, dend1, dend2,
    dkeys, dqueries, daim, dgain, drate, dstep, dw1, dw2,
) -> None:  # fmt: skip
    count, places, j = keys.shape[0], keys.shape[2], keys.shape[3]
    width, inner = aim.shape[3], dw1.shape[2]
    p, row1, row2 = (places + 15) // 16 * 16, _apart(inner), _apart(width)
    room, small = (inner + 17) // 16 * 16 * p, (width + 16) // 16 * 16 * p + 16 * p
    k, q, given, aims = _four(j * p)
    of_given, of_k, of_q = _three(j * p)
    inside, slope, bend, asked = _four(room)
    rise, before = _two(room)
    of_inside, of_asked, of_before = _three(room)
    of_hidden, lessened = _two(room)
    normed, e, after, of_after = _four(small)
    of_y, of_z, of_e, gone = _four(small)
    turned1, other1 = _room(p * row1 + room), _room(p * row1 + room)
    turned2, other2, third2 = _three(p * row2 + small)
    steps, turned, raw1, raw2 = _four(p * p)
    ds, seen1, seen2, e1 = _four(p * p)
    e2, square, dsteps = _three(p * p)
    rates, rstd, one, two = _four(p)
    pull, along, of_rate, of_rstd = _four(p)
    g1, g2 = _room(j * row1), _room((inner + 1) * row2)
    share = np.float32(1.0 / width)
    for i in range(first, last):
        g1[:] = ZERO
        g2[:] = ZERO
        for r in range(j):
            g1[r * row1 : r * row1 + inner] = dend1[i, r]
        for r in range(inner + 1):
            g2[r * row2 : r * row2 + width] = dend2[i, r]
        dgain[i] = ZERO
        for m in range(count - 1, -1, -1):
            at1, at2 = (i * (count + 1) + m) * j * row1, (i * (count + 1) + m) * (inner + 1) * row2
            wide, narrow = (i * count + m) * inner * p, (i * count + m) * width * p
            _places(keys, m, i, k, p)
            _places(queries, m, i, q, p)
            _places(aim, m, i, aims, p)
            _places(dy, m, i, gone, p)
            _steps(step, m, i, steps, turned, p)
            for c in range(places):
                rates[c] = rate[m, i, c]
            gelu_twice(hidden, wide, inside, slope, bend, inner * p)
            gelu(read, wide, asked, rise, inner * p)
            _ones(inside, inner, places, p)
            _ones(asked, inner, places, p)
            pulled = back[wide : wide + inner * p]
            for r in range(inner * p):
                before[r] = pulled[r] * slope[r]
            _slope(zs[narrow : narrow + width * p], aims, gain, i, normed, e, after, rstd, one, two, width, p)
            for c in range(p):
                pull[c], of_rate[c] = ZERO, ZERO
            for r in range(width):
                for c in range(p):
                    pull[c] += e[r * p + c] * normed[r * p + c]
            for c in range(p):
                pull[c] *= rstd[c] * share
            put(raw1, 0, p, k, 0, 1, p, q, 0, p, places, j, p)
            put(raw2, 0, p, inside, 0, 1, p, asked, 0, p, places, inner + 1, p)
            # What was read, second layer: of the steps [s c], of gelu(x), of the slopes
            put(ds, 0, p, after, 0, 1, p, gone, 0, p, places, width, p)
            for r in range(p * p):
                dsteps[r] = -ds[r] * raw2[r]
                e2[r] = -ds[r] * turned[r]
                square[r] = raw2[r] * turned[r]
            _squared(square, seen2, places, p)
            put(of_asked, 0, p, seconds, at2, row2, 1, gone, 0, p, inner, width, p)
            add(of_asked, 0, p, inside, 0, p, 1, e2, 0, p, inner, places, p)
            for r in range(inner * p):
                of_asked[r] *= rise[r]  # now of x
            # First layer
            put(ds, 0, p, before, 0, 1, p, of_asked, 0, p, places, inner, p)
            for r in range(p * p):
                dsteps[r] -= ds[r] * raw1[r]
                e1[r] = -ds[r] * turned[r]
                square[r] = raw1[r] * turned[r]
            _squared(square, seen1, places, p)
            for c in range(places):
                for s in range(places):
                    dstep[m, i, c, s] = dsteps[s * p + c]
            put(of_q, 0, p, firsts, at1, row1, 1, of_asked, 0, p, j, inner, p)
            add(of_q, 0, p, k, 0, p, 1, e1, 0, p, j, places, p)
            # The weights behind this mini-batch have gradients g1, g2
            _scaled(k, rates, given, j, p)
            of_before[:] = ZERO
            take(of_before, 0, p, g1, 0, 1, row1, given, 0, p, inner, j, p)
            take(of_before, 0, p, of_asked, 0, p, 1, seen1, 0, p, inner, places, p)
            _scaled(inside, rates, lessened, inner + 1, p)
            of_after[:] = ZERO
            take(of_after, 0, p, g2, 0, 1, row2, lessened, 0, p, width, inner + 1, p)
            take(of_after, 0, p, gone, 0, p, 1, seen2, 0, p, width, places, p)
            put(of_given, 0, p, g1, 0, row1, 1, before, 0, p, j, inner, p)
            put(of_inside, 0, p, g2, 0, row2, 1, after, 0, p, inner + 1, width, p)
            for r in range(j):
                for c in range(p):
                    of_rate[c] -= k[r * p + c] * of_given[r * p + c]
            for r in range(inner + 1):
                for c in range(p):
                    of_rate[c] -= inside[r * p + c] * of_inside[r * p + c]
                    of_inside[r * p + c] *= -rates[c]
            for c in range(places):
                drate[m, i, c] = of_rate[c]
            _squared(e2, square, places, p)
            add(of_inside, 0, p, asked, 0, p, 1, square, 0, p, inner, places, p)
            # before = back gelu'(h), back = W2 after
            for r in range(inner * p):
                lessened[r] = of_before[r] * slope[r]  # of back
                bend[r] *= of_before[r] * pulled[r]
            lessened[inner * p : (inner + 1) * p] = ZERO
            add(of_after, 0, p, seconds, at2, 1, row2, lessened, 0, p, width, inner, p)
            # after = slope(z)
            _back(of_after, normed, rstd, of_e, one, two, width, p)
            for c in range(p):
                along[c], of_rstd[c] = ZERO, ZERO
            for r in range(width):
                for c in range(p):
                    along[c] += of_after[r * p + c] * normed[r * p + c]
                    of_rstd[c] += of_after[r * p + c] * after[r * p + c]
            for c in range(p):
                along[c] *= rstd[c] * share
                of_rstd[c] *= rstd[c] * share
            for r in range(width):
                factor, total = gain[i, r], ZERO
                for c in range(p):
                    at = r * p + c
                    of_y[at] = factor * of_e[at] - of_after[at] * pull[c] - e[at] * along[c]
                    total += of_e[at] * normed[at]
                dgain[i, r] += total
            _back(of_y, normed, rstd, of_z, one, two, width, p)
            for r in range(width):
                for c in range(p):
                    of_z[r * p + c] -= normed[r * p + c] * of_rstd[c]
            add(of_inside, 0, p, seconds, at2, row2, 1, of_z, 0, p, inner, width, p)
            for r in range(inner * p):
                of_hidden[r] = of_inside[r] * slope[r] + bend[r]
            put(of_k, 0, p, firsts, at1, row1, 1, of_hidden, 0, p, j, inner, p)
            _squared(e1, square, places, p)
            add(of_k, 0, p, q, 0, p, 1, square, 0, p, j, places, p)
            for c in range(places):
                for r in range(j):
                    dqueries[m, i, c, r] = of_q[r * p + c]
                    dkeys[m, i, c, r] = of_k[r * p + c] - rates[c] * of_given[r * p + c]
                for r in range(width):
                    daim[m, i, c, r] = of_e[r * p + c]
            # The weights before it
            turn(turned2, row2, of_z, 0, p, width, p)
            turn(other2, row2, after, 0, p, width, p)
            turn(third2, row2, gone, 0, p, width, p)
            add(g2, 0, row2, inside, 0, p, 1, turned2, 0, row2, inner + 1, places, width)
            add(g2, 0, row2, lessened, 0, p, 1, other2, 0, row2, inner, places, width)
            add(g2, 0, row2, asked, 0, p, 1, third2, 0, row2, inner + 1, places, width)
            turn(turned1, row1, of_hidden, 0, p, inner, p)
            turn(other1, row1, of_asked, 0, p, inner, p)
            add(g1, 0, row1, k, 0, p, 1, turned1, 0, row1, j, places, inner)
            add(g1, 0, row1, q, 0, p, 1, other1, 0, row1, j, places, inner)
        for r in range(j):
            dw1[i, r] = g1[r * row1 : r * row1 + inner]
        for r in range(inner + 1):
            dw2[i, r] = g2[r * row2 : r * row2 + width]


FORWARD, BACKWARD = Kernel(_forward, reorder=True), Kernel(_backward, reorder=True)


def forward(
    keys: Tensor,
    queries: Tensor,
    aim: Tensor,
    gain: Tensor,
    rate: Tensor,
    step: Tensor,
    w1: Tensor,
    w2: Tensor,
    *,
    keep: bool,
) -> tuple[tuple[Tensor, Tensor, Tensor], tuple[Tensor, ...]]:
    """keys, queries [M n C J], aim [M n C K], gain [n K], rate [M n C], step [M n C C], w1 [n J F], w2 [n F+1 K].

    All float32 and contiguous. Gives z [M n C K] that is read, the weights behind the last mini-batch, and what
    `backward` needs, where keep.
    """
    count, heads, places, j = keys.shape
    inner, width = w1.shape[2], w2.shape[2]
    p = -(-places // LANES) * LANES
    y, end1, end2 = torch.empty_like(aim), torch.empty_like(w1), torch.empty_like(w2)
    kept, slots = (count, count + 1) if keep else (1, 1)
    sizes = (kept * inner * p, kept * inner * p, kept * width * p, kept * inner * p)
    rooms = [keys.new_empty(heads * size) for size in sizes]
    rooms += [keys.new_empty(heads * slots * rows * ld(n)) for rows, n in ((j, inner), (inner + 1, width))]
    given = (keys, queries, aim, gain, rate, step, w1, w2, *rooms, y, end1, end2)
    FORWARD(heads, *(t.detach().numpy() for t in given), keep, work=10 * keys.numel() * inner)
    return (y, end1, end2), tuple(rooms) if keep else ()


def backward(
    given: tuple[Tensor, ...], rooms: tuple[Tensor, ...], dy: Tensor, dend1: Tensor, dend2: Tensor
) -> tuple[Tensor, ...]:
    """The gradients of all that `forward` was given, in its order; given: keys, queries, aim, gain, rate, step."""
    found = (*(torch.empty_like(t) for t in given), torch.empty_like(dend1), torch.empty_like(dend2))
    arrays = (*given, *rooms, dy, dend1, dend2, *found)
    heads, inner = given[0].shape[1], dend1.shape[2]
    BACKWARD(heads, *(t.detach().numpy() for t in arrays), work=20 * given[0].numel() * inner)
    return found
