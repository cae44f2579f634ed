# ruff: noqa: ANN001 (what numba compiles takes its types from the call)
"""The short causal convolution on a CPU: one pass over memory in each direction, channels innermost.

Legend: N rows, L length, D channels, K taps.
"""

import torch
from torch import Tensor

from jogak.ops._compiled import Kernel

BLOCK = 128  # channels of a task


def _forward(first, last, x, weight, bias, past, starts, y) -> None:
    taps, width, reset = weight.shape[0], x.shape[2], starts.shape[0] > 0
    blocks = (width + 127) // 128
    for task in range(first, last):
        row, low = task // blocks, (task % blocks) * 128
        high = min(width, low + 128)
        begin = 1 - taps  # of the open document; before 0 is the past
        for t in range(x.shape[1]):
            if reset and starts[row, t]:
                begin = t
            if taps == 4 and t >= max(begin, 0) + 3:  # the usual case, in one pass
                for i in range(low, high):
                    near = weight[2, i] * x[row, t - 1, i] + weight[3, i] * x[row, t, i]
                    far = weight[0, i] * x[row, t - 3, i] + weight[1, i] * x[row, t - 2, i]
                    y[row, t, i] = bias[i] + far + near
                continue
            for i in range(low, high):
                y[row, t, i] = bias[i]
            for j in range(taps):
                source = t - taps + 1 + j
                if source < begin:
                    continue
                if source < 0:
                    for i in range(low, high):
                        y[row, t, i] += weight[j, i] * past[row, source + taps - 1, i]
                else:
                    for i in range(low, high):
                        y[row, t, i] += weight[j, i] * x[row, source, i]


def _backward(first, last, x, weight, past, starts, dy, dx, dweight, dbias, dpast) -> None:
    """dweight [N K D] and dbias [N D] are summed over rows afterwards."""
    taps, width, reset = weight.shape[0], x.shape[2], starts.shape[0] > 0
    blocks = (width + 127) // 128
    for task in range(first, last):
        row, low = task // blocks, (task % blocks) * 128
        high = min(width, low + 128)
        dweight[row, :, low:high] = 0
        dbias[row, low:high] = 0
        dpast[row, :, low:high] = 0
        begin = 1 - taps
        for t in range(x.shape[1]):
            if reset and starts[row, t]:
                begin = t
            for i in range(low, high):
                dx[row, t, i] = 0
                dbias[row, i] += dy[row, t, i]
            for j in range(taps):
                source = t - taps + 1 + j
                if source < begin:
                    continue
                if source < 0:
                    for i in range(low, high):
                        dpast[row, source + taps - 1, i] += weight[j, i] * dy[row, t, i]
                        dweight[row, j, i] += past[row, source + taps - 1, i] * dy[row, t, i]
                else:
                    for i in range(low, high):
                        dx[row, source, i] += weight[j, i] * dy[row, t, i]
                        dweight[row, j, i] += x[row, source, i] * dy[row, t, i]


FORWARD, BACKWARD = Kernel(_forward), Kernel(_backward)


def _tasks(x: Tensor) -> int:
    return x.shape[0] * -(-x.shape[2] // BLOCK)


def _marks(starts: Tensor | None) -> Tensor:
    return torch.empty(0, 0, dtype=torch.bool) if starts is None else starts.contiguous()


def forward(x: Tensor, weight: Tensor, bias: Tensor, past: Tensor, starts: Tensor | None) -> Tensor:
    """x [N L D], weight [K D], bias [D], past [N K-1 D], contiguous and of one dtype -> y [N L D]."""
    y = torch.empty_like(x)
    if x.device.type != "meta":
        given = (x, weight, bias, past, _marks(starts), y)
        FORWARD(_tasks(x), *(t.detach().numpy() for t in given), work=x.numel() * len(weight))
    return y


def backward(
    x: Tensor, weight: Tensor, past: Tensor, starts: Tensor | None, dy: Tensor
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """The gradients of x, weight, bias and past from that of y."""
    dx, dpast = torch.empty_like(x), torch.empty_like(past)
    dweight, dbias = x.new_empty(x.shape[0], *weight.shape), x.new_empty(x.shape[0], x.shape[2])
    if x.device.type != "meta":
        given = (x, weight, past, _marks(starts), dy, dx, dweight, dbias, dpast)
        BACKWARD(_tasks(x), *(t.detach().numpy() for t in given), work=2 * x.numel() * len(weight))
    return dx, dweight.sum(0), dbias.sum(0), dpast
