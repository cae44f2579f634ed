# ruff: noqa: ANN001, ANN202, PLR0915 (Triton's language)
"""The selective scan on a GPU: a program keeps the states of a block of channels in registers over all of time.

On the way back the states at the ends of chunks are given, those inside are made again into a small room of the
program's own. Imported only where a tensor is on such a device.

Legend: B batch, T time, D channels, N state, S = N rounded up to a power of two, L length of a chunk, W channels of a
program, M programs of a row.
"""

from typing import Any

import torch
import triton
import triton.language as tl
from torch import Tensor

W = 32
L = 32


@triton.jit
def _softplus(x):
    """log(1 + e^x) = max(x, 0) + 2 artanh(t / (2 + t)), t = e^-|x|, the series to the 13th power."""
    t = tl.exp(-tl.abs(x))
    s = t / (2.0 + t)
    q = s * s
    series = 1.0 + q * (1 / 3 + q * (1 / 5 + q * (1 / 7 + q * (1 / 9 + q * (1 / 11 + q / 13)))))
    return tl.maximum(x, 0.0) + 2.0 * s * series


@triton.jit
def _forward(
    x, dt, a, b, c, d, bias, z, h0, starts, lengths, y, bounds, end, time, width, states,
    RAW: tl.constexpr, GATED: tl.constexpr, RESET: tl.constexpr, KEEP: tl.constexpr,
    W: tl.constexpr, S: tl.constexpr, L: tl.constexpr,
):  # fmt: skip
    row, n = tl.program_id(0).to(tl.int64), tl.arange(0, S)[:, None]
    channels = tl.program_id(1) * W + tl.arange(0, W)
    inside = channels < width
    both = (n < states) & inside[None, :]
    square = n * width + channels[None, :]
    rate = tl.load(a + square, mask=both, other=0.0)
    skip = tl.load(d + channels, mask=inside, other=0.0)
    shift = tl.load(bias + channels, mask=inside, other=0.0)
    h = tl.load(h0 + row * states * width + square, mask=both, other=0.0)
    real = tl.load(lengths + row)
    chunks = (time + L - 1) // L
    for t in range(time):
        at = (row * time + t) * width + channels
        if t < real:
            if KEEP and t % L == 0:  # pyright: ignore[reportOperatorIssue]  # a constant to Triton
                tl.store(bounds + (row * chunks + t // L) * states * width + square, h, mask=both)
            if RESET:
                h = tl.where(tl.load(starts + row * time + t) != 0, 0.0, h)
            step = tl.load(dt + at, mask=inside, other=0.0)
            if RAW:
                step = _softplus(step + shift)
            given = tl.load(x + at, mask=inside, other=0.0)
            place = (row * time + t) * states + n
            write = tl.load(b + place, mask=n < states, other=0.0)
            read = tl.load(c + place, mask=n < states, other=0.0)
            h = tl.exp(step[None, :] * rate) * h + (step * given)[None, :] * write
            found = tl.sum(h * read, axis=0) + skip * given
            if GATED:
                gate = tl.load(z + at, mask=inside, other=0.0)
                found = found * gate / (1.0 + tl.exp(-gate))
            tl.store(y + at, found, mask=inside)
        else:
            tl.store(y + at, tl.zeros([W], tl.float32), mask=inside)
    tl.store(end + row * states * width + square, h, mask=both)


@triton.jit
def _backward(
    x, dt, a, b, c, d, bias, z, starts, lengths, bounds, room, dy, dend, dx, ddt, da, db, dc, dd, dbias, dz, dh0,
    time, width, states,
    RAW: tl.constexpr, GATED: tl.constexpr, RESET: tl.constexpr, W: tl.constexpr, S: tl.constexpr, L: tl.constexpr,
):  # fmt: skip
    row, block, blocks = tl.program_id(0).to(tl.int64), tl.program_id(1), tl.num_programs(1)
    n = tl.arange(0, S)[:, None]
    channels = block * W + tl.arange(0, W)
    inside = channels < width
    both = (n < states) & inside[None, :]
    square = n * width + channels[None, :]
    mine = (row * blocks + block) * L * S * W + n * W + tl.arange(0, W)[None, :]
    rate = tl.load(a + square, mask=both, other=0.0)
    skip = tl.load(d + channels, mask=inside, other=0.0)
    shift = tl.load(bias + channels, mask=inside, other=0.0)
    g = tl.load(dend + row * states * width + square, mask=both, other=0.0)
    of_rate = tl.zeros([S, W], tl.float32)
    of_skip, of_shift = tl.zeros([W], tl.float32), tl.zeros([W], tl.float32)
    real = tl.load(lengths + row)
    chunks = (time + L - 1) // L
    for t in range(real, time):
        at = (row * time + t) * width + channels
        tl.store(dx + at, tl.zeros([W], tl.float32), mask=inside)
        tl.store(ddt + at, tl.zeros([W], tl.float32), mask=inside)
        if GATED:
            tl.store(dz + at, tl.zeros([W], tl.float32), mask=inside)
        place = ((row * blocks + block) * time + t) * states + n
        tl.store(db + place, tl.zeros([S, 1], tl.float32), mask=n < states)
        tl.store(dc + place, tl.zeros([S, 1], tl.float32), mask=n < states)
    used = (real + L - 1) // L
    for back in range(used):
        chunk = used - 1 - back
        count = tl.minimum(real - chunk * L, L)
        h = tl.load(bounds + (row * chunks + chunk) * states * width + square, mask=both, other=0.0)
        tl.debug_barrier()
        for k in range(count):  # what stands before each place
            t = chunk * L + k
            if RESET:
                h = tl.where(tl.load(starts + row * time + t) != 0, 0.0, h)
            tl.store(room + mine + k * S * W, h)
            at = (row * time + t) * width + channels
            step = tl.load(dt + at, mask=inside, other=0.0)
            if RAW:
                step = _softplus(step + shift)
            given = tl.load(x + at, mask=inside, other=0.0)
            write = tl.load(b + (row * time + t) * states + n, mask=n < states, other=0.0)
            h = tl.exp(step[None, :] * rate) * h + (step * given)[None, :] * write
        tl.debug_barrier()
        for later in range(count):
            k = count - 1 - later
            t = chunk * L + k
            before = tl.load(room + mine + k * S * W)
            at = (row * time + t) * width + channels
            step = tl.load(dt + at, mask=inside, other=0.0)
            raw = step + shift
            if RAW:
                step = _softplus(raw)
            given = tl.load(x + at, mask=inside, other=0.0)
            write = tl.load(b + (row * time + t) * states + n, mask=n < states, other=0.0)
            read = tl.load(c + (row * time + t) * states + n, mask=n < states, other=0.0)
            decay = tl.exp(step[None, :] * rate)
            h = decay * before + (step * given)[None, :] * write
            of_y = tl.load(dy + at, mask=inside, other=0.0)
            if GATED:
                gate = tl.load(z + at, mask=inside, other=0.0)
                share = 1.0 / (1.0 + tl.exp(-gate))
                found = tl.sum(h * read, axis=0) + skip * given
                tl.store(dz + at, of_y * found * share * (1.0 + gate * (1.0 - share)), mask=inside)
                of_y = of_y * gate * share
            g += read * of_y[None, :]
            place = ((row * blocks + block) * time + t) * states + n
            tl.store(dc + place, tl.sum(h * of_y[None, :], axis=1, keep_dims=True), mask=n < states)
            tl.store(db + place, tl.sum(g * (step * given)[None, :], axis=1, keep_dims=True), mask=n < states)
            of_put = tl.sum(g * write, axis=0)
            of_decay = g * decay * before
            of_rate += of_decay * step[None, :]
            of_skip += of_y * given
            tl.store(dx + at, of_put * step + skip * of_y, mask=inside)
            of_step = of_put * given + tl.sum(of_decay * rate, axis=0)
            if RAW:
                of_step = of_step / (1.0 + tl.exp(-raw))
                of_shift += of_step
            tl.store(ddt + at, of_step, mask=inside)
            g = g * decay
            if RESET:
                g = tl.where(tl.load(starts + row * time + t) != 0, 0.0, g)
    tl.store(da + row * states * width + square, of_rate, mask=both)
    tl.store(dd + row * width + channels, of_skip, mask=inside)
    tl.store(dbias + row * width + channels, of_shift, mask=inside)
    tl.store(dh0 + row * states * width + square, g, mask=both)


def _places(x: Tensor, starts: Tensor | None, lengths: Tensor | None) -> tuple[Tensor, Tensor]:
    """starts int8 [B T], lengths int64 [B]."""
    ends = torch.full((x.shape[0],), x.shape[1], device=x.device) if lengths is None else lengths.contiguous()
    return ends if starts is None else starts.to(torch.int8).contiguous(), ends


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
    """As `selective_scan` with a [N D], all float32 and contiguous but z.

    y, the last state, and where keep those of chunks.
    """
    rows, time, width = x.shape
    y, end = torch.empty_like(x), torch.empty_like(h0)
    bounds = x.new_empty(rows, triton.cdiv(time, L) if keep else 0, *h0.shape[1:])
    first, ends = _places(x, starts, lengths)
    launch: Any = _forward[(rows, triton.cdiv(width, W))]
    gate, shift = x if z is None else z.contiguous(), d if bias is None else bias
    launch(
        *(x, dt, a, b, c, d, shift, gate, h0, first, ends, y, bounds, end, time, width, len(a)),
        **{"RAW": bias is not None, "GATED": z is not None, "RESET": starts is not None, "KEEP": keep},
        **{"W": W, "S": triton.next_power_of_2(len(a)), "L": L},
    )
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
    rows, time, width = x.shape
    blocks, size = triton.cdiv(width, W), triton.next_power_of_2(len(a))
    dx, ddt, dh0 = torch.empty_like(x), torch.empty_like(x), torch.empty_like(dend)
    dz = None if z is None else z.new_empty(z.shape)
    da, dd, dbias = x.new_empty(rows, *a.shape), x.new_empty(rows, width), x.new_empty(rows, width)
    db, dc = (x.new_empty(rows, blocks, time, len(a)) for _ in range(2))
    room = x.new_empty(rows * blocks * L * size * W)
    gates = (x, dx) if z is None or dz is None else (z.contiguous(), dz)
    first, ends = _places(x, starts, lengths)
    launch: Any = _backward[(rows, blocks)]
    launch(
        *(x, dt, a, b, c, d, d if bias is None else bias, gates[0], first, ends, bounds, room, dy, dend),
        *(dx, ddt, da, db, dc, dd, dbias, gates[1], dh0, time, width, len(a)),
        **{"RAW": bias is not None, "GATED": z is not None, "RESET": starts is not None, "W": W, "S": size, "L": L},
    )
    of_bias = None if bias is None else dbias.sum(0)
    return dx, ddt, da.sum(0), db.sum(1), dc.sum(1), dd.sum(0), dh0, dz, of_bias
