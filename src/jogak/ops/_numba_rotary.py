"""Pairs turned in one compiled pass, and turned back by the opposite angle.

Legend: B batch, T time, H heads, K head width, R numbers turned.
"""

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor

from jogak.ops._compiled import Kernel, flat

STEPS = 4  # of a loop, for each number

# ruff: noqa: ANN001, ANN202 (what numba compiles takes its types from the call)


def _turn(first, last, x, y, steps_x, steps_y, sizes, cos, sin, sign):
    """Tasks are places. x, y: flat, with their steps between rows, places and heads; cos, sin [B or 1, T, R/2]."""
    length, heads, width = sizes
    half = cos.shape[2]
    for task in range(first, last):
        row, t = task // length, task % length
        c, s = cos[row % cos.shape[0], t], sin[row % cos.shape[0], t]
        for head in range(heads):
            at = row * steps_x[0] + t * steps_x[1] + head * steps_x[2]
            to = row * steps_y[0] + t * steps_y[1] + head * steps_y[2]
            a, b, rest = x[at : at + half], x[at + half : at + 2 * half], x[at + 2 * half : at + width]
            low, high, kept = y[to : to + half], y[to + half : to + 2 * half], y[to + 2 * half : to + width]
            for i in range(half):
                low[i] = a[i] * c[i] - b[i] * (s[i] * sign)
                high[i] = b[i] * c[i] + a[i] * (s[i] * sign)
            for i in range(len(kept)):
                kept[i] = rest[i]


_turn_kernel = Kernel(_turn)


class Turned(torch.autograd.Function):
    """x [B T H K] turned by cos, sin [B or 1, T, R/2] in float32, its heads in parts of the given sizes."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, cos: Tensor, sin: Tensor, parts: Sequence[int]) -> tuple[Tensor, ...]:  # noqa: ANN401
        ctx.save_for_backward(cos, sin)
        ctx.parts = parts
        return turn(x.detach(), cos, sin, parts)

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(  # pyright: ignore[reportIncompatibleMethodOverride]  # the decorator hides the parameters' names
        ctx: Any,  # noqa: ANN401  # autograd's own context
        *grads: Tensor,
    ) -> tuple[Tensor | None, ...]:
        batch, length, _, width = grads[0].shape
        cos, sin = ctx.saved_tensors
        dx = grads[0].new_empty(batch, length, sum(ctx.parts), width)
        for grad, place in zip(grads, dx.split(ctx.parts, dim=2), strict=True):
            _run(grad, place, cos, sin, -1)
        return dx, None, None, None


def turn(x: Tensor, cos: Tensor, sin: Tensor, parts: Sequence[int]) -> tuple[Tensor, ...]:
    """What Turned gives, of what needs no gradient."""
    found = tuple(x.new_empty(x.shape[0], x.shape[1], heads, x.shape[3]) for heads in parts)
    for part, y in zip(x.split(list(parts), dim=2), found, strict=True):
        _run(part, y, cos, sin, 1)
    return found


def _run(x: Tensor, y: Tensor, cos: Tensor, sin: Tensor, sign: int) -> None:
    x = x if x.stride(3) == 1 else x.contiguous()
    steps, sizes = (t.stride()[:3] for t in (x, y)), tuple(x.shape[1:])
    angles = (t.detach().contiguous().numpy() for t in (cos, sin))
    arrays = (flat(x), flat(y), *steps, sizes, *angles, np.float32(sign))
    _turn_kernel(x.shape[0] * x.shape[1], *arrays, work=x.numel() * STEPS)
