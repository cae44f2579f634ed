# ruff: noqa: ANN001 (what numba compiles takes its types from the call)
"""The selective scan on a CPU: a block of channels keeps its states in the first cache, channels innermost.

Imported only where it runs, since numba takes long to import. Blocks are padded to their full width in small
buffers, so that the compiler knows the innermost loop's length and turns it into vector instructions. The backward
pass goes through the chunks from the last to the first, makes the states of a chunk again from the one before it,
and keeps them only while that chunk is done.

Legend: B batch, T time, D channels, N state, W channels of a block, L length of a chunk.
"""

from collections.abc import Iterator
from typing import Any, cast

import numpy as np
import torch
from torch import Tensor

from jogak.ops import _vectors
from jogak.ops._compiled import Kernel, dense, flat
from jogak.ops._numba_activation import silu, softplus
from jogak.ops._vectors import W

L = 32  # the states and decays of a chunk, 256 KiB, stay in the second cache

# numba itself gives their first argument
advance, again, back = cast(Any, (_vectors.advance, _vectors.again, _vectors.back))
LOG2E = np.float32(_vectors.LOG2E)


def _forward(  # noqa: C901, PLR0912 (one loop nest, which a compiler reads)
    first,
    last,
    x,
    dt,
    a,
    b,
    c,
    d,
    bias,
    z,
    z_row,
    z_step,
    h0,
    starts,
    lengths,
    y,
    bounds,
    end,
) -> None:
    """z: all numbers, a row and a place so far apart; of none where nothing is gated."""
    length, width, states, gated, reset = x.shape[1], x.shape[2], a.shape[0], z.shape[0] > 0, starts.shape[0] > 0
    kept, raw = bounds.shape[1] > 0, bias.shape[0] > 0
    blocks = (width + W - 1) // W
    h, rate = np.zeros((states, W), np.float32), np.zeros((states, W), np.float32)
    xs, steps, inputs, ys = (
        np.zeros(W, np.float32),
        np.zeros(W, np.float32),
        np.zeros(W, np.float32),
        np.zeros(W, np.float32),
    )
    for task in range(first, last):
        row, low = task // blocks, (task % blocks) * W
        count = min(width - low, W)
        high = low + count
        skip = d[low:high]
        for n in range(states):
            held, speed, begun, rates = h[n], rate[n], h0[row, n, low:high], a[n, low:high]
            for i in range(count):
                held[i] = begun[i]
                speed[i] = rates[i] * LOG2E
            held[count:] = np.float32(0)
        xs[count:] = np.float32(0)
        steps[count:] = np.float32(0)
        for t in range(lengths[row]):
            if kept and t % L == 0:
                for n in range(states):
                    bound, held = bounds[row, t // L, n, low:high], h[n]
                    for i in range(count):
                        bound[i] = held[i]
            if reset and starts[row, t]:
                h[:] = np.float32(0)
            given, step, made = x[row, t, low:high], dt[row, t, low:high], y[row, t, low:high]
            for i in range(count):
                xs[i] = given[i]
                steps[i] = step[i]
            if raw:
                shift = bias[low:high]
                for i in range(count):
                    steps[i] = softplus(steps[i] + shift[i])[0]
            for i in range(W):
                inputs[i] = steps[i] * xs[i]
            advance(h, rate, b, c, steps, inputs, ys, states, (row * length + t) * states)
            for i in range(count):
                made[i] = ys[i] + skip[i] * xs[i]
            if gated:
                at = row * z_row + t * z_step + low
                gate = z[at : at + count]
                for i in range(count):
                    made[i] *= silu(gate[i])[0]
        for t in range(lengths[row], length):
            y[row, t, low:high] = np.float32(0)
        for n in range(states):
            last_one, held = end[row, n, low:high], h[n]
            for i in range(count):
                last_one[i] = held[i]


def _backward(  # noqa: C901, PLR0912, PLR0915 (one loop nest, which a compiler reads)
    first,
    last,
    x,
    dt,
    a,
    b,
    c,
    d,
    bias,
    z,
    z_row,
    z_step,
    starts,
    lengths,
    bounds,
    dy,
    dx,
    ddt,
    da,
    db,
    dc,
    dd,
    dbias,
    dz,
    carried,
) -> None:
    """da [B N D], dd, dbias [B D], db and dc [B blocks T N] are summed afterwards.

    carried [B N D]: the gradient of the end, and then of h0.
    """
    length, width, states, gated, reset = x.shape[1], x.shape[2], a.shape[0], z.shape[0] > 0, starts.shape[0] > 0
    raw = bias.shape[0] > 0
    blocks = (width + W - 1) // W
    hs, decays = np.zeros((L + 1, states, W), np.float32), np.zeros((L, states, W), np.float32)
    scaled, rate = np.zeros((states, W), np.float32), np.zeros((states, W), np.float32)
    g, drate = np.zeros((states, W), np.float32), np.zeros((states, W), np.float32)
    vectors, xs = np.zeros((6, W), np.float32), np.zeros(W, np.float32)
    steps, inputs, dys, dins, dsteps, ys = vectors[0], vectors[1], vectors[2], vectors[3], vectors[4], vectors[5]
    slopes, dds, dbs = np.ones(W, np.float32), np.zeros(W, np.float32), np.zeros(W, np.float32)
    for task in range(first, last):
        row, block = task // blocks, task % blocks
        low = block * W
        count = min(width - low, W)
        high = low + count
        skip = d[low:high]
        vectors[:, count:] = np.float32(0)
        xs[count:] = np.float32(0)
        hs[0] = np.float32(0)
        dds[:] = np.float32(0)
        dbs[:] = np.float32(0)
        drate[:] = np.float32(0)
        g[:] = np.float32(0)
        for n in range(states):
            rates, gradient = a[n, low:high], carried[row, n, low:high]
            speed, fast, held = rate[n], scaled[n], g[n]
            for i in range(count):
                speed[i] = rates[i]
                fast[i] = rates[i] * LOG2E
                held[i] = gradient[i]
        db[row, block] = np.float32(0)
        dc[row, block] = np.float32(0)
        for chunk in range((lengths[row] + L - 1) // L - 1, -1, -1):
            begin, stop = chunk * L, min(lengths[row], chunk * L + L)
            for n in range(states):
                bound, held = bounds[row, chunk, n, low:high], hs[0, n]
                for i in range(count):
                    held[i] = bound[i]
            for t in range(begin, stop):
                given, step = x[row, t, low:high], dt[row, t, low:high]
                for i in range(count):
                    steps[i] = step[i]
                if raw:
                    shift = bias[low:high]
                    for i in range(count):
                        steps[i] = softplus(steps[i] + shift[i])[0]
                for i in range(count):
                    inputs[i] = steps[i] * given[i]
                again(hs, decays, scaled, b, steps, inputs, states, (row * length + t) * states, t - begin)
                if reset and starts[row, t]:  # nothing comes from before
                    decays[t - begin] = np.float32(0)
                    for n in range(states):
                        held = hs[t - begin + 1, n]
                        for i in range(W):
                            held[i] = inputs[i] * b[row, t, n]
            for t in range(stop - 1, begin - 1, -1):
                given, step, slope_y = x[row, t, low:high], dt[row, t, low:high], dy[row, t, low:high]
                of_x, of_step = dx[row, t, low:high], ddt[row, t, low:high]
                for i in range(count):
                    xs[i] = given[i]
                    steps[i] = step[i]
                    dys[i] = slope_y[i]
                if raw:
                    shift = bias[low:high]
                    for i in range(count):
                        steps[i], slopes[i] = softplus(steps[i] + shift[i])
                at = row * z_row + t * z_step + low
                gate = z[at : at + count]
                if gated:
                    for i in range(count):
                        dys[i] *= silu(gate[i])[0]
                for i in range(W):
                    inputs[i] = steps[i] * xs[i]
                place, out = (row * length + t) * states, ((row * blocks + block) * length + t) * states
                back(g, hs, decays, rate, drate, b, c, db, dc, vectors, states, place, t - begin, out)
                for i in range(count):
                    of_x[i] = dins[i] * steps[i] + skip[i] * dys[i]
                    dsteps[i] = (dins[i] * xs[i] + dsteps[i]) * slopes[i]
                    dds[i] += dys[i] * xs[i]
                    dbs[i] += dsteps[i]
                for i in range(count):
                    of_step[i] = dsteps[i]
                if gated:
                    of_gate = dz[row, t, low:high]
                    for i in range(count):
                        of_gate[i] = slope_y[i] * (ys[i] + skip[i] * xs[i]) * silu(gate[i])[1]
        for t in range(lengths[row], length):
            dx[row, t, low:high] = np.float32(0)
            ddt[row, t, low:high] = np.float32(0)
            if gated:
                dz[row, t, low:high] = np.float32(0)
        of_skip, of_shift = dd[row, low:high], dbias[row, low:high]
        for i in range(count):
            of_skip[i] = dds[i]
            of_shift[i] = dbs[i]
        for n in range(states):
            of_rate, before, slow, held = da[row, n, low:high], carried[row, n, low:high], drate[n], g[n]
            for i in range(count):
                of_rate[i] = slow[i]
                before[i] = held[i]


FORWARD, BACKWARD = Kernel(_forward), Kernel(_backward)

NOTHING = torch.empty(0, 0, 0)
NO_BIAS = torch.empty(0)


def _blocks(x: Tensor) -> int:
    return -(-x.shape[2] // W)


def _arrays(*tensors: Tensor) -> Iterator[np.ndarray]:
    return (t.detach().numpy() for t in tensors)


def _places(x: Tensor, starts: Tensor | None, lengths: Tensor | None) -> tuple[Tensor, Tensor]:
    """starts bool [B T], of no rows where there are none; lengths int64 [B]."""
    found = torch.empty(0, 0, dtype=torch.bool) if starts is None else starts.contiguous()
    return found, torch.full((x.shape[0],), x.shape[1]) if lengths is None else lengths


def forward(
    x: Tensor,
    dt: Tensor,
    a: Tensor,
    b: Tensor,
    c: Tensor,
    d: Tensor,
    h0: Tensor,
    z: Tensor | None,
    bias: Tensor | None,
    starts: Tensor | None,
    lengths: Tensor | None,
    *,
    keep: bool,
) -> tuple[Tensor, Tensor, Tensor]:
    """As `selective_scan` with a [N D], all float32 and contiguous, but z dense in channels alone.

    y, the last state, and where keep those of chunks.
    """
    y, end = torch.empty_like(x), torch.empty_like(h0)
    chunks = -(-x.shape[1] // L) if keep else 0
    bounds = x.new_empty(x.shape[0], chunks, *h0.shape[1:])
    if x.device.type != "meta":
        given = _arrays(x, dt, a, b, c, d, NO_BIAS if bias is None else bias)
        gate = NOTHING if z is None else dense(z)
        others = _arrays(h0, *_places(x, starts, lengths), y, bounds, end)
        FORWARD(x.shape[0] * _blocks(x), *given, flat(gate), *gate.stride()[:2], *others, work=x.numel() * len(a))
    return y, end, bounds


def backward(
    x: Tensor,
    dt: Tensor,
    a: Tensor,
    b: Tensor,
    c: Tensor,
    d: Tensor,
    z: Tensor | None,
    bias: Tensor | None,
    bounds: Tensor,
    dy: Tensor,
    dend: Tensor,
    starts: Tensor | None,
    lengths: Tensor | None,
) -> tuple[Tensor | None, ...]:
    """The gradients of x, dt, a, b, c, d, h0, z and bias."""
    rows, length, width = x.shape
    dx, ddt = torch.empty_like(x), torch.empty_like(x)
    dz = None if z is None else z.new_empty(z.shape)
    da, dd, dbias = x.new_empty(rows, *a.shape), x.new_empty(rows, width), x.new_empty(rows, width)
    db, dc = (x.new_empty(rows, _blocks(x), length, len(a)) for _ in range(2))
    carried = dend.clone()
    if x.device.type != "meta":
        given = _arrays(x, dt, a, b, c, d, NO_BIAS if bias is None else bias)
        gate = NOTHING if z is None else dense(z)
        others = _arrays(*_places(x, starts, lengths), bounds, dy)
        found = _arrays(dx, ddt, da, db, dc, dd, dbias, NOTHING if dz is None else dz, carried)
        work = 4 * x.numel() * len(a)
        BACKWARD(rows * _blocks(x), *given, flat(gate), *gate.stride()[:2], *others, *found, work=work)
    of_bias = None if bias is None else dbias.sum(0)
    return dx, ddt, da.sum(0), db.sum(1), dc.sum(1), dd.sum(0), carried, dz, of_bias
