"""Pairs turned in one compiled pass, and turned back by the opposite angle.

Legend: B batch, T time, H heads, K head width, R numbers turned.
"""

from typing import Any

import numpy as np
import torch
from torch import Tensor

from jogak.ops._compiled import Kernel

STEPS = 4  # of a loop, for each number

# ruff: noqa: ANN001, ANN202 (what numba compiles takes its types from the call)


def _turn(first, last, x, steps, cos, sin, y, sign):
    """Tasks are places. x: flat, with the steps between rows, places and heads; cos, sin [B or 1, T, R/2]."""
    _, length, heads, width = y.shape
    half = cos.shape[2]
    for task in range(first, last):
        row, t = task // length, task % length
        c, s = cos[row % cos.shape[0], t], sin[row % cos.shape[0], t]
        for head in range(heads):
            at = row * steps[0] + t * steps[1] + head * steps[2]
            a, b, rest = x[at : at + half], x[at + half : at + 2 * half], x[at + 2 * half : at + width]
            made = y[row, t, head]
            low, high, kept = made[:half], made[half : 2 * half], made[2 * half :]
            for i in range(half):
                low[i] = a[i] * c[i] - b[i] * (s[i] * sign)
                high[i] = b[i] * c[i] + a[i] * (s[i] * sign)
            for i in range(len(kept)):
                kept[i] = rest[i]


_turn_kernel = Kernel(_turn)


class Turned(torch.autograd.Function):
    """x [B T H K] turned by cos, sin [B or 1, T, R/2] in float32."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, cos: Tensor, sin: Tensor) -> Tensor:  # noqa: ANN401  # autograd's own context
        cos, sin = cos.detach().contiguous(), sin.detach().contiguous()
        ctx.save_for_backward(cos, sin)
        return _run(x.detach(), cos, sin, 1)

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(  # pyright: ignore[reportIncompatibleMethodOverride]  # the decorator hides the parameters' names
        ctx: Any,  # noqa: ANN401  # autograd's own context
        grad: Tensor,
    ) -> tuple[Tensor | None, ...]:
        return _run(grad, *ctx.saved_tensors, -1), None, None


def _run(x: Tensor, cos: Tensor, sin: Tensor, sign: int) -> Tensor:
    x = x if x.stride(3) == 1 or x.shape[3] == 1 else x.contiguous()
    y = x.new_empty(x.shape)
    size = 1 + sum((n - 1) * step for n, step in zip(x.shape, x.stride(), strict=True))
    flat = x.as_strided((max(size, 0),), (1,)).numpy()  # all from the first number to the last, other heads' too
    arrays = (flat, np.array(x.stride()[:3]), cos.numpy(), sin.numpy(), y.numpy())
    _turn_kernel(x.shape[0] * x.shape[1], *arrays, np.float32(sign), work=x.numel() * STEPS)
    return y
