"""A norm over rows in one compiled pass, and one back, where torch's operations make one pass each.

Legend: N rows, D width.
"""

from typing import Any

import numpy as np
import torch
from torch import Tensor

from jogak.ops._compiled import Kernel

ROWS = 16  # of one task
STEPS = 2  # of a loop, for each number

# ruff: noqa: ANN001, ANN202 (what numba compiles takes its types from the call)


def _forward(first, last, x, weight, y, inverse, eps, plus):
    """x, y [N D], weight [D], inverse [N]: 1 / sqrt(mean(x^2) + eps)."""
    rows, width = x.shape
    for task in range(first, last):
        low, high = task * ROWS, min(rows, task * ROWS + ROWS)
        factors = inverse[low:high]
        for n in range(len(factors)):
            given, made = x[low + n], y[low + n]
            total = np.float32(0)
            for i in range(width):
                total += given[i] * given[i]
            factor = np.float32(1) / np.sqrt(total / np.float32(width) + eps)
            factors[n] = factor
            for i in range(width):
                made[i] = given[i] * factor * (weight[i] + plus)


def _backward(first, last, x, weight, inverse, grad, dx, dw, plus):
    """grad [N D] gives dx [N D] and in dw [tasks D] each task's part of the weight's gradient."""
    rows, width = x.shape
    for task in range(first, last):
        part = dw[task]
        part[:] = 0
        for n in range(task * ROWS, min(rows, task * ROWS + ROWS)):
            given, slope, made, factor = x[n], grad[n], dx[n], inverse[n]
            total = np.float32(0)
            for i in range(width):
                total += slope[i] * (weight[i] + plus) * given[i]
            back = total * factor * factor * factor / np.float32(width)
            for i in range(width):
                part[i] += slope[i] * given[i] * factor
                made[i] = slope[i] * (weight[i] + plus) * factor - given[i] * back


_forward_kernel, _backward_kernel = Kernel(_forward, reorder=True), Kernel(_backward, reorder=True)


def normed(x: Tensor, weight: Tensor, eps: float, plus: float) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """What Normed gives, and what it needs on the way back: rows [N D], weight, inverse [N]."""
    rows, w = x.reshape(-1, x.shape[-1]).contiguous(), weight.contiguous()
    y, inverse = torch.empty_like(rows), rows.new_empty(len(rows))
    arrays = (rows.numpy(), w.numpy(), y.numpy(), inverse.numpy())
    _forward_kernel(-(-len(rows) // ROWS), *arrays, np.float32(eps), np.float32(plus), work=rows.numel() * STEPS)
    return y.view(x.shape), rows, w, inverse


class Normed(torch.autograd.Function):
    """(weight + plus) x / sqrt(mean(x^2) + eps) of x [... D] and weight [D] in float32."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, weight: Tensor, eps: float, plus: float) -> Tensor:  # noqa: ANN401  # autograd's
        y, *kept = normed(x.detach(), weight.detach(), eps, plus)
        ctx.save_for_backward(*kept)
        ctx.plus = np.float32(plus)
        return y

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(  # pyright: ignore[reportIncompatibleMethodOverride]  # the decorator hides the parameters' names
        ctx: Any,  # noqa: ANN401  # autograd's own context
        grad: Tensor,
    ) -> tuple[Tensor | None, ...]:
        rows, w, inverse = ctx.saved_tensors
        tasks = -(-len(rows) // ROWS)
        dx, dw = torch.empty_like(rows), rows.new_empty(tasks, rows.shape[1])
        arrays = (rows, w, inverse, grad.reshape(rows.shape).contiguous(), dx, dw)
        _backward_kernel(tasks, *(a.numpy() for a in arrays), ctx.plus, work=2 * rows.numel() * STEPS)
        return dx.view(grad.shape), dw.sum(0), None, None
