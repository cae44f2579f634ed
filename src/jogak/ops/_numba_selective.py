"""The selective scan on a CPU: a block of channels keeps its states in the first cache, channels innermost.

Imported only where it runs, since numba takes long to import. Blocks are padded to their full width in small
buffers, so that the compiler knows the innermost loop's length and turns it into vector instructions. The backward
pass goes through the chunks from the last to the first, makes the states of a chunk again from the one before it,
and keeps them only while that chunk is done.

Legend: B batch, T time, D channels, N state, W channels of a block, L length of a chunk.
"""

import numpy as np
import torch
from torch import Tensor

from jogak.ops._compiled import Kernel, jit
from jogak.ops._vectors import W, advance, again, back, exp2

L = 32  # the states and decays of a chunk, 256 KiB, stay in the second cache

LOG2E = np.float32(1.4426950408889634)


@jit
def _sigmoid(x):  # noqa: ANN001, ANN202
    return np.float32(1) / (np.float32(1) + exp2(-x * LOG2E))


def _forward(first, last, x, dt, a, b, c, d, z, h0, starts, lengths, y, bounds, end) -> None:  # noqa: ANN001
    length, width, states, gated, reset = x.shape[1], x.shape[2], a.shape[0], z.shape[0] > 0, starts.shape[0] > 0
    kept = bounds.shape[1] > 0
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
        for n in range(states):
            for i in range(count):
                h[n, i] = h0[row, n, low + i]
                rate[n, i] = a[n, low + i] * LOG2E
            h[n, count:] = np.float32(0)
        xs[count:] = np.float32(0)
        steps[count:] = np.float32(0)
        for t in range(lengths[row]):
            if kept and t % L == 0:
                for n in range(states):
                    for i in range(count):
                        bounds[row, t // L, n, low + i] = h[n, i]
            if reset and starts[row, t]:
                h[:] = np.float32(0)
            for i in range(count):
                xs[i] = x[row, t, low + i]
                steps[i] = dt[row, t, low + i]
            for i in range(W):
                inputs[i] = steps[i] * xs[i]
            advance(h, rate, b, c, steps, inputs, ys, states, (row * length + t) * states)
            if gated:
                for i in range(count):
                    gate = z[row, t, low + i]
                    y[row, t, low + i] = (ys[i] + d[low + i] * xs[i]) * gate * _sigmoid(gate)
            else:
                for i in range(count):
                    y[row, t, low + i] = ys[i] + d[low + i] * xs[i]
        for t in range(lengths[row], length):
            y[row, t, low : low + count] = np.float32(0)
        for n in range(states):
            for i in range(count):
                end[row, n, low + i] = h[n, i]


def _backward(
    first,  # noqa: ANN001
    last,  # noqa: ANN001
    x,  # noqa: ANN001
    dt,  # noqa: ANN001
    a,  # noqa: ANN001
    b,  # noqa: ANN001
    c,  # noqa: ANN001
    d,  # noqa: ANN001
    z,  # noqa: ANN001
    starts,  # noqa: ANN001
    lengths,  # noqa: ANN001
    bounds,  # noqa: ANN001
    dy,  # noqa: ANN001
    dx,  # noqa: ANN001
    ddt,  # noqa: ANN001
    da,  # noqa: ANN001
    db,  # noqa: ANN001
    dc,  # noqa: ANN001
    dd,  # noqa: ANN001
    dz,  # noqa: ANN001
    carried,  # noqa: ANN001
) -> None:
    """da [B N D], dd [B D], db and dc [B blocks T N] are summed afterwards; carried [B N D]: of the end, then of h0."""
    length, width, states, gated, reset = x.shape[1], x.shape[2], a.shape[0], z.shape[0] > 0, starts.shape[0] > 0
    blocks = (width + W - 1) // W
    hs, decays = np.zeros((L + 1, states, W), np.float32), np.zeros((L, states, W), np.float32)
    scaled, rate = np.zeros((states, W), np.float32), np.zeros((states, W), np.float32)
    g, drate = np.zeros((states, W), np.float32), np.zeros((states, W), np.float32)
    vectors, xs = np.zeros((6, W), np.float32), np.zeros(W, np.float32)
    steps, inputs, dys, dins, dsteps, ys = vectors[0], vectors[1], vectors[2], vectors[3], vectors[4], vectors[5]
    dds = np.zeros(W, np.float32)
    for task in range(first, last):
        row, block = task // blocks, task % blocks
        low = block * W
        count = min(width - low, W)
        vectors[:, count:] = np.float32(0)
        xs[count:] = np.float32(0)
        hs[0] = np.float32(0)
        dds[:] = np.float32(0)
        drate[:] = np.float32(0)
        g[:] = np.float32(0)
        for n in range(states):
            for i in range(count):
                rate[n, i] = a[n, low + i]
                scaled[n, i] = a[n, low + i] * LOG2E
                g[n, i] = carried[row, n, low + i]
        db[row, block] = np.float32(0)
        dc[row, block] = np.float32(0)
        for chunk in range((lengths[row] + L - 1) // L - 1, -1, -1):
            begin, stop = chunk * L, min(lengths[row], chunk * L + L)
            for n in range(states):
                for i in range(count):
                    hs[0, n, i] = bounds[row, chunk, n, low + i]
            for t in range(begin, stop):
                for i in range(count):
                    steps[i] = dt[row, t, low + i]
                    inputs[i] = steps[i] * x[row, t, low + i]
                again(hs, decays, scaled, b, steps, inputs, states, (row * length + t) * states, t - begin)
                if reset and starts[row, t]:  # nothing comes from before
                    decays[t - begin] = np.float32(0)
                    for n in range(states):
                        for i in range(W):
                            hs[t - begin + 1, n, i] = inputs[i] * b[row, t, n]
            for t in range(stop - 1, begin - 1, -1):
                for i in range(count):
                    xs[i] = x[row, t, low + i]
                    steps[i] = dt[row, t, low + i]
                    dys[i] = dy[row, t, low + i]
                if gated:
                    for i in range(count):
                        gate = z[row, t, low + i]
                        dys[i] *= gate * _sigmoid(gate)
                for i in range(W):
                    inputs[i] = steps[i] * xs[i]
                place = (row * length + t) * states
                back(
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
                    place,
                    t - begin,
                    ((row * blocks + block) * length + t) * states,
                )
                for i in range(count):
                    dx[row, t, low + i] = dins[i] * steps[i] + d[low + i] * dys[i]
                    ddt[row, t, low + i] = dins[i] * xs[i] + dsteps[i]
                    dds[i] += dys[i] * xs[i]
                if gated:
                    for i in range(count):
                        gate = z[row, t, low + i]
                        s = _sigmoid(gate)
                        slope = s * (np.float32(1) + gate * (np.float32(1) - s))
                        dz[row, t, low + i] = dy[row, t, low + i] * (ys[i] + d[low + i] * xs[i]) * slope
        for t in range(lengths[row], length):
            dx[row, t, low : low + count] = np.float32(0)
            ddt[row, t, low : low + count] = np.float32(0)
            if gated:
                dz[row, t, low : low + count] = np.float32(0)
        for i in range(count):
            dd[row, low + i] = dds[i]
        for n in range(states):
            for i in range(count):
                da[row, n, low + i] = drate[n, i]
                carried[row, n, low + i] = g[n, i]


FORWARD, BACKWARD = Kernel(_forward), Kernel(_backward)

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
