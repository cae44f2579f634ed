"""The selective scan on a CPU: a block of channels keeps its states in the first cache, channels innermost.

Imported only where it runs, since numba takes long to import. Blocks are padded to their full width in small
buffers, so that the compiler knows the innermost loop's length and turns it into vector instructions. The backward
pass goes through the chunks from the last to the first, makes the states of a chunk again from the one before it,
and keeps them only while that chunk is done.

Legend: B batch, T time, D channels, N state, W channels of a block, L length of a chunk.
"""

import numpy as np
import torch
from llvmlite import ir
from numba.core import types
from numba.extending import intrinsic
from torch import Tensor

from jogak.ops._compiled import Kernel, jit

W = 64  # 16 states of as many channels are 4 KiB
L = 32  # the states and decays of a chunk, 256 KiB, stay in the second cache

LOG2E = np.float32(1.4426950408889634)
MAGIC = np.float32(1.5 * 2**23)  # what is added to it is rounded to a whole number, in the lowest bits
# 2^f = 1 + P1 f + ... for f in [-1/2, 1/2], of least relative error: 9.1e-8
P1, P2, P3, P4, P5 = (np.float32(x) for x in (0.693147, 0.24022242, 0.055507336, 0.009671514, 0.001326472))


@intrinsic
def _bits(typing, x):  # noqa: ANN001, ANN202 (numba's signature)
    def generate(context, builder, signature, arguments):  # noqa: ANN001, ANN202
        return builder.bitcast(arguments[0], ir.IntType(32))

    return types.int32(types.float32), generate


@intrinsic
def _float(typing, x):  # noqa: ANN001, ANN202 (numba's signature)
    def generate(context, builder, signature, arguments):  # noqa: ANN001, ANN202
        return builder.bitcast(arguments[0], ir.FloatType())

    return types.float32(types.int32), generate


@jit
def _exp2(x):  # noqa: ANN001, ANN202
    """2^x for -126 <= x <= 126: a polynomial for the fraction, whose exponent the whole part is added to."""
    x = min(max(x, np.float32(-126)), np.float32(126))
    whole = x + MAGIC
    f = x - (whole - MAGIC)
    p = ((((P5 * f + P4) * f + P3) * f + P2) * f + P1) * f + np.float32(1)
    return _float(np.int32(_bits(p) + np.int32(_bits(whole) << np.int32(23))))


@jit
def _sigmoid(x):  # noqa: ANN001, ANN202
    return np.float32(1) / (np.float32(1) + _exp2(-x * LOG2E))


@jit
def _load(block, source, low, high):  # noqa: ANN001, ANN202
    for i in range(high - low):
        block[i] = source[low + i]


def _forward(first, last, x, dt, a, b, c, d, z, h0, starts, lengths, y, bounds, end) -> None:  # noqa: ANN001
    width, states, gated, reset = x.shape[2], a.shape[0], z.shape[0] > 0, starts.shape[0] > 0
    kept = bounds.shape[1] > 0
    blocks = (width + W - 1) // W
    h, rate = np.zeros((states, W), np.float32), np.zeros((states, W), np.float32)
    xs, steps, inputs, ys = np.zeros((4, W), np.float32)
    for task in range(first, last):
        row, low = task // blocks, (task % blocks) * W
        high = min(width, low + W)
        for n in range(states):
            for i in range(high - low):
                h[n, i] = h0[row, n, low + i]
                rate[n, i] = a[n, low + i] * LOG2E
        for t in range(lengths[row]):
            if kept and t % L == 0:
                for n in range(states):
                    for i in range(high - low):
                        bounds[row, t // L, n, low + i] = h[n, i]
            if reset and starts[row, t]:
                h[:] = np.float32(0)
            _load(xs, x[row, t], low, high)
            _load(steps, dt[row, t], low, high)
            for i in range(W):
                inputs[i] = steps[i] * xs[i]
                ys[i] = np.float32(0)
            for n in range(states):
                bn, cn = b[row, t, n], c[row, t, n]
                for i in range(W):
                    value = _exp2(steps[i] * rate[n, i]) * h[n, i] + inputs[i] * bn
                    h[n, i] = value
                    ys[i] += cn * value
            for i in range(high - low):
                value = ys[i] + d[low + i] * xs[i]
                if gated:
                    gate = z[row, t, low + i]
                    value *= gate * _sigmoid(gate)
                y[row, t, low + i] = value
        for t in range(lengths[row], x.shape[1]):
            y[row, t, low:high] = np.float32(0)
        for n in range(states):
            for i in range(high - low):
                end[row, n, low + i] = h[n, i]


def _backward(
    first, last, x, dt, a, b, c, d, z, starts, lengths, bounds, dy, dx, ddt, da, db, dc, dd, dz, carried
) -> None:  # noqa: ANN001
    """da [B N D], dd [B D], db and dc [B blocks T N] are summed afterwards; carried [B N D]: of the end, then of h0."""
    width, states, gated, reset = x.shape[2], a.shape[0], z.shape[0] > 0, starts.shape[0] > 0
    blocks = (width + W - 1) // W
    hs, decays = np.zeros((L + 1, states, W), np.float32), np.zeros((L, states, W), np.float32)
    rate, g, drate = np.zeros((3, states, W), np.float32)
    xs, steps, inputs, dys, dins, dsteps, ys, dds = np.zeros((8, W), np.float32)
    for task in range(first, last):
        row, block = task // blocks, task % blocks
        low, high = block * W, min(width, block * W + W)
        dds[:] = np.float32(0)
        drate[:] = np.float32(0)
        xs[:] = np.float32(0)
        steps[:] = np.float32(0)
        dys[:] = np.float32(0)
        for n in range(states):
            for i in range(high - low):
                rate[n, i] = a[n, low + i]
                g[n, i] = carried[row, n, low + i]
            for i in range(high - low, W):
                rate[n, i] = np.float32(0)
                g[n, i] = np.float32(0)
        for chunk in range((lengths[row] + L - 1) // L - 1, -1, -1):
            begin, stop = chunk * L, min(lengths[row], chunk * L + L)
            for n in range(states):
                for i in range(high - low):
                    hs[0, n, i] = bounds[row, chunk, n, low + i]
            for t in range(begin, stop):
                k = t - begin
                _load(xs, x[row, t], low, high)
                _load(steps, dt[row, t], low, high)
                for i in range(W):
                    inputs[i] = steps[i] * xs[i]
                    steps[i] *= LOG2E
                if reset and starts[row, t]:
                    decays[k] = np.float32(0)
                    for n in range(states):
                        for i in range(W):
                            hs[k + 1, n, i] = inputs[i] * b[row, t, n]
                    continue
                for n in range(states):
                    bn = b[row, t, n]
                    for i in range(W):
                        decay = _exp2(steps[i] * rate[n, i])
                        decays[k, n, i] = decay
                        hs[k + 1, n, i] = decay * hs[k, n, i] + inputs[i] * bn
            for t in range(stop - 1, begin - 1, -1):
                k = t - begin
                _load(xs, x[row, t], low, high)
                _load(steps, dt[row, t], low, high)
                _load(dys, dy[row, t], low, high)
                if gated:
                    for i in range(high - low):
                        gate = z[row, t, low + i]
                        dys[i] *= gate * _sigmoid(gate)
                for i in range(W):
                    inputs[i] = steps[i] * xs[i]
                    dins[i] = np.float32(0)
                    dsteps[i] = np.float32(0)
                    ys[i] = np.float32(0)
                for n in range(states):
                    bn, cn = b[row, t, n], c[row, t, n]
                    of_b, of_c = np.float32(0), np.float32(0)
                    for i in range(W):
                        now = g[n, i] + cn * dys[i]
                        of_b += now * inputs[i]
                        of_c += dys[i] * hs[k + 1, n, i]
                        ys[i] += cn * hs[k + 1, n, i]
                        dins[i] += now * bn
                        now *= decays[k, n, i]
                        g[n, i] = now
                        of_rate = now * hs[k, n, i]
                        dsteps[i] += of_rate * rate[n, i]
                        drate[n, i] += of_rate * steps[i]
                    db[row, block, t, n] = of_b
                    dc[row, block, t, n] = of_c
                for i in range(high - low):
                    j = low + i
                    if gated:
                        gate = z[row, t, j]
                        s = _sigmoid(gate)
                        slope = s * (np.float32(1) + gate * (np.float32(1) - s))
                        dz[row, t, j] = dy[row, t, j] * (ys[i] + d[j] * xs[i]) * slope
                    dx[row, t, j] = dins[i] * steps[i] + d[j] * dys[i]
                    ddt[row, t, j] = dins[i] * xs[i] + dsteps[i]
                    dds[i] += dys[i] * xs[i]
        for t in range(lengths[row], x.shape[1]):
            dx[row, t, low:high] = np.float32(0)
            ddt[row, t, low:high] = np.float32(0)
            db[row, block, t] = np.float32(0)
            dc[row, block, t] = np.float32(0)
            if gated:
                dz[row, t, low:high] = np.float32(0)
        for i in range(high - low):
            dd[row, low + i] = dds[i]
        for n in range(states):
            for i in range(high - low):
                da[row, n, low + i] = drate[n, i]
                carried[row, n, low + i] = g[n, i]


FORWARD, BACKWARD = Kernel(_forward), Kernel(_backward, reorder=True)

NOTHING = torch.empty(0, 0, 0)


def _blocks(x: Tensor) -> int:
    return -(-x.shape[2] // W)


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
    starts: Tensor | None,
    lengths: Tensor | None,
    *,
    keep: bool,
) -> tuple[Tensor, Tensor, Tensor]:
    """As `selective_scan` with a [N D], float32 and contiguous: y, the last state, and where keep those of chunks."""
    y, end = torch.empty_like(x), torch.empty_like(h0)
    chunks = -(-x.shape[1] // L) if keep else 0
    bounds = x.new_empty(x.shape[0], chunks, *h0.shape[1:])
    if x.device.type != "meta":
        gate = NOTHING if z is None else z
        given = (x, dt, a, b, c, d, gate, h0, *_places(x, starts, lengths), y, bounds, end)
        FORWARD(x.shape[0] * _blocks(x), *(t.detach().numpy() for t in given), work=x.numel() * len(a))
    return y, end, bounds


def backward(
    x: Tensor,
    dt: Tensor,
    a: Tensor,
    b: Tensor,
    c: Tensor,
    d: Tensor,
    z: Tensor | None,
    bounds: Tensor,
    dy: Tensor,
    dend: Tensor,
    starts: Tensor | None,
    lengths: Tensor | None,
) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor, Tensor, Tensor, Tensor | None]:
    """The gradients of x, dt, a, b, c, d, h0 and z."""
    rows, length, width = x.shape
    dx, ddt = torch.empty_like(x), torch.empty_like(x)
    dz = None if z is None else torch.empty_like(z)
    da, dd = x.new_empty(rows, *a.shape), x.new_empty(rows, width)
    db, dc = (x.new_empty(rows, _blocks(x), length, len(a)) for _ in range(2))
    carried = dend.clone()
    if x.device.type != "meta":
        gates = (NOTHING, NOTHING) if z is None or dz is None else (z, dz)
        given = (x, dt, a, b, c, d, gates[0], *_places(x, starts, lengths), bounds, dy)
        found = (dx, ddt, da, db, dc, dd, gates[1], carried)
        BACKWARD(rows * _blocks(x), *(t.detach().numpy() for t in (*given, *found)), work=4 * x.numel() * len(a))
    return dx, ddt, da.sum(0), db.sum(1), dc.sum(1), dd.sum(0), carried, dz
