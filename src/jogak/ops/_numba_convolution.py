# ruff: noqa: ANN001, ANN202, PLR0912 (what numba compiles takes its types from the call, and one loop nest)
"""The short causal convolution on a CPU, with SiLU behind it or none: one pass over memory in each direction.

x may be part of wider rows, as it comes from a projection that gives two things: it is read where it is. SiLU is
worked out from what the convolution gave, which is made again on the way back and kept nowhere.

Legend: N rows, L length, D channels, K taps.
"""

import numpy as np
import torch
from torch import Tensor

from jogak.ops._compiled import Kernel, flat, jit
from jogak.ops._numba_activation import silu

BLOCK, PLACES = 128, 32  # channels of a task on the way back; places of one on the way there


@jit
def _places(x, at, step, width):
    """Two neighbours in time."""
    return x[at : at + width], x[at + step : at + step + width]


@jit
def _convolve(made, x, at, step, weight, bias, past, t, begin, low) -> None:
    """made [d]: bias and taps of place t in the channels from `low` on, the first of which is x[at]; past [K-1 D]."""
    taps, width = weight.shape[0], made.shape[0]
    shift, high = bias[low : low + width], low + width
    if taps == 4 and t >= max(begin, 0) + 3:  # the usual case, in one pass
        first, second = _places(x, at - 3 * step, step, width)
        third, now = _places(x, at - step, step, width)
        w1, w2, w3, w4 = weight[0, low:high], weight[1, low:high], weight[2, low:high], weight[3, low:high]
        for i in range(width):
            made[i] = shift[i] + (w1[i] * first[i] + w2[i] * second[i]) + (w3[i] * third[i] + w4[i] * now[i])
        return
    for i in range(width):
        made[i] = shift[i]
    for j in range(taps):
        back, tap = taps - 1 - j, weight[j, low:high]
        if t - back < begin:
            continue
        source = past[t + j, low:high] if t < back else x[at - back * step : at - back * step + width]
        for i in range(width):
            made[i] += tap[i] * source[i]


def _forward(first, last, x, row_step, step, weight, bias, past, starts, y, curved) -> None:
    """x: all numbers from its first on, a row and a place so far apart."""
    taps, reset, length = weight.shape[0], starts.shape[0] > 0, y.shape[1]
    parts = (length + PLACES - 1) // PLACES
    for task in range(first, last):
        row, low = task // parts, (task % parts) * PLACES
        begin = 1 - taps  # of the open document; before 0 is the past
        if reset:
            for t in range(max(0, low + 1 - taps), low):
                if starts[row, t]:
                    begin = t
        for t in range(low, min(length, low + PLACES)):
            if reset and starts[row, t]:
                begin = t
            made = y[row, t]
            _convolve(made, x, row * row_step + t * step, step, weight, bias, past[row], t, begin, 0)
            if curved:
                for i in range(made.shape[0]):
                    made[i] = silu(made[i])[0]


def _backward(
    first, last, x, row_step, step, weight, bias, past, starts, dy, dx, dweight, dbias, dpast, curved
) -> None:  # fmt: skip
    """dweight [N K D] and dbias [N D] are summed over rows afterwards."""
    taps, length, width, reset = weight.shape[0], dy.shape[1], dy.shape[2], starts.shape[0] > 0
    blocks = (width + BLOCK - 1) // BLOCK
    room, plain = np.empty(BLOCK, dy.dtype), np.empty(BLOCK, dy.dtype)
    for task in range(first, last):
        row, low = task // blocks, (task % blocks) * BLOCK
        count = min(width - low, BLOCK)
        high = low + count
        dweight[row, :, low:high] = 0
        dpast[row, :, low:high] = 0
        of_shift, made, slopes = dbias[row, low:high], plain[:count], room[:count]
        of_shift[:] = 0
        begin = 1 - taps
        for t in range(length):
            if reset and starts[row, t]:
                begin = t
            at, given, of_x = row * row_step + t * step + low, dy[row, t, low:high], dx[row, t, low:high]
            if curved:
                _convolve(made, x, at, step, weight, bias, past[row], t, begin, low)
                for i in range(count):
                    slopes[i] = given[i] * silu(made[i])[1]
            else:
                for i in range(count):
                    slopes[i] = given[i]
            for i in range(count):
                of_x[i] = 0
                of_shift[i] += slopes[i]
            for j in range(taps):
                back = taps - 1 - j
                if t - back < begin:
                    continue
                tap, of_tap = weight[j, low:high], dweight[row, j, low:high]
                if t < back:
                    source, of_source = past[row, t + j, low:high], dpast[row, t + j, low:high]
                else:
                    source = x[at - back * step : at - back * step + count]
                    of_source = dx[row, t - back, low:high]
                for i in range(count):
                    of_source[i] += tap[i] * slopes[i]
                    of_tap[i] += source[i] * slopes[i]


FORWARD, BACKWARD = Kernel(_forward), Kernel(_backward)


def _marks(starts: Tensor | None) -> Tensor:
    return torch.empty(0, 0, dtype=torch.bool) if starts is None else starts.contiguous()


def forward(x: Tensor, weight: Tensor, bias: Tensor, past: Tensor, starts: Tensor | None, *, curved: bool) -> Tensor:
    """x [N L D], weight [K D], bias [D], past [N K-1 D], all of one dtype and contiguous but x -> y [N L D]."""
    y = x.new_empty(x.shape)
    if x.device.type != "meta":
        given = (t.detach().numpy() for t in (weight, bias, past, _marks(starts), y))
        tasks = x.shape[0] * -(-x.shape[1] // PLACES)
        FORWARD(tasks, flat(x), *x.stride()[:2], *given, curved, work=x.numel() * len(weight))
    return y


def backward(
    x: Tensor, weight: Tensor, bias: Tensor, past: Tensor, starts: Tensor | None, dy: Tensor, *, curved: bool
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """The gradients of x, weight, bias and past from that of y."""
    dx, dpast = x.new_empty(x.shape), torch.empty_like(past)
    dweight, dbias = x.new_empty(x.shape[0], *weight.shape), x.new_empty(x.shape[0], x.shape[2])
    if x.device.type != "meta":
        given = (weight, bias, past, _marks(starts), dy, dx, dweight, dbias, dpast)
        tasks = x.shape[0] * -(-x.shape[2] // BLOCK)
        arrays = (t.detach().numpy() for t in given)
        BACKWARD(tasks, flat(x), *x.stride()[:2], *arrays, curved, work=2 * x.numel() * len(weight))
    return dx, dweight.sum(0), dbias.sum(0), dpast
