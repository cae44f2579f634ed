"""Activations in one compiled pass, gated or not, and one back that works them out again.

Legend: N rows, F width.
"""

import math
from typing import Any

import numpy as np
import torch
from torch import Tensor

from jogak.ops import _vectors
from jogak.ops._compiled import Kernel, jit
from jogak.ops._vectors import LOG2E

exp2: Any = _vectors.exp2  # as numba calls it, without what its decorator is told
ROWS = 4096  # numbers of one task, or one row
STEPS = 8  # of a loop, for each number
TANH, CUBE = 2 * math.sqrt(2 / math.pi), 0.044715
# erf z = 1 - (A1 t + ... + A5 t^5) exp(-z^2), t = 1 / (1 + P z), z >= 0, within 1.5e-7: Abramowitz & Stegun 7.1.26.
P, A = 0.3275911, (0.254829592, -0.284496736, 1.421413741, -1.453152027, 1.061405429)
A1, A2, A3, A4, A5 = A

# ruff: noqa: ANN001, ANN202 (what numba compiles takes its types from the call)


@jit
def _sigmoid(x):
    return np.float32(1) / (np.float32(1) + exp2(min(x * np.float32(-LOG2E), np.float32(125))))


@jit
def _normal(x, bell):
    """The chance that a normal number is below x."""
    z = abs(x) * np.float32(math.sqrt(0.5))
    t = np.float32(1) / (np.float32(1) + np.float32(P) * z)
    series = np.float32(A5)
    series = series * t + np.float32(A4)
    series = series * t + np.float32(A3)
    series = series * t + np.float32(A2)
    series = series * t + np.float32(A1)
    above = np.float32(0.5) * series * t * bell
    return np.float32(1) - above if x > np.float32(0) else above


# Each gives f(x) and f'(x).
@jit
def silu(x):
    s = _sigmoid(x)
    return x * s, s * (np.float32(1) + x * (np.float32(1) - s))


@jit
def gelu_tanh(x):
    s = _sigmoid(np.float32(TANH) * (x + np.float32(CUBE) * x * x * x))
    inner = np.float32(TANH) * (np.float32(1) + np.float32(3 * CUBE) * x * x)
    return x * s, s * (np.float32(1) + x * (np.float32(1) - s) * inner)


@jit
def gelu(x):
    bell = exp2(x * x * np.float32(-LOG2E / 2))  # exp(-x^2 / 2)
    below = _normal(x, bell)
    return x * below, below + x * bell * np.float32(1 / math.sqrt(2 * math.pi))


@jit
def softplus(x):
    """log(1 + e^x) = max(x, 0) + 2 artanh(t / (2 + t)), t = e^-|x|, the series to the 13th power."""
    t = exp2(-abs(x) * np.float32(LOG2E))
    s = t / (np.float32(2) + t)
    square, total = s * s, np.float32(1 / 13)
    total = total * square + np.float32(1 / 11)
    total = total * square + np.float32(1 / 9)
    total = total * square + np.float32(1 / 7)
    total = total * square + np.float32(1 / 5)
    total = total * square + np.float32(1 / 3)
    total = total * square + np.float32(1)
    slope = (np.float32(1) if x > np.float32(0) else t) / (np.float32(1) + t)
    return max(x, np.float32(0)) + np.float32(2) * s * total, slope


def _plain(first, last, x, y, rows):
    """x, y [N F]; tasks are of so many rows."""
    for task in range(first, last):
        for n in range(task * rows, min(len(y), task * rows + rows)):
            given, made = x[n], y[n]
            for i in range(len(made)):
                made[i] = gelu_tanh(given[i])[0]


def _plain_back(first, last, x, grad, dx, rows):
    for task in range(first, last):
        for n in range(task * rows, min(len(dx), task * rows + rows)):
            given, slope, made = x[n], grad[n], dx[n]
            for i in range(len(made)):
                made[i] = gelu_tanh(given[i])[1] * slope[i]


def _gated(first, last, x, y, kind, rows):
    """x [N 2F], y [N F]. A loop for each kind: one with a branch inside is no vector instruction."""
    count, width = y.shape
    for task in range(first, last):
        for n in range(task * rows, min(count, task * rows + rows)):
            a, b, made = x[n, :width], x[n, width:], y[n]
            if kind == 0:
                for i in range(width):
                    made[i] = silu(a[i])[0] * b[i]
            elif kind == 1:
                for i in range(width):
                    made[i] = gelu_tanh(a[i])[0] * b[i]
            elif kind == 2:
                for i in range(width):
                    made[i] = gelu(a[i])[0] * b[i]
            else:
                for i in range(width):
                    made[i] = max(a[i], np.float32(0)) * b[i]


def _gated_back(first, last, x, grad, dx, kind, rows):
    count, width = grad.shape
    for task in range(first, last):
        for n in range(task * rows, min(count, task * rows + rows)):
            a, b, slope, da, db = x[n, :width], x[n, width:], grad[n], dx[n, :width], dx[n, width:]
            if kind == 0:
                for i in range(width):
                    value, steep = silu(a[i])
                    da[i], db[i] = slope[i] * b[i] * steep, slope[i] * value
            elif kind == 1:
                for i in range(width):
                    value, steep = gelu_tanh(a[i])
                    da[i], db[i] = slope[i] * b[i] * steep, slope[i] * value
            elif kind == 2:
                for i in range(width):
                    value, steep = gelu(a[i])
                    da[i], db[i] = slope[i] * b[i] * steep, slope[i] * value
            else:
                for i in range(width):
                    da[i] = slope[i] * b[i] if a[i] > np.float32(0) else np.float32(0)
                    db[i] = slope[i] * max(a[i], np.float32(0))


_plain_kernel, _plain_back_kernel, _gated_kernel, _gated_back_kernel = map(
    Kernel, (_plain, _plain_back, _gated, _gated_back)
)


def _tasks(y: Tensor) -> tuple[int, int, int]:
    """Of y [N F]: rows of one task, how many tasks, and the steps of all."""
    rows = max(1, ROWS // max(1, y.shape[1]))
    return rows, -(-len(y) // rows), y.numel() * STEPS


def activated(x: Tensor, kind: int | None) -> tuple[Tensor, Tensor]:
    """What Activated gives, and the rows of x, which it needs on the way back."""
    given = x.reshape(-1, x.shape[-1]).contiguous()
    width = given.shape[1] if kind is None else given.shape[1] // 2
    y = given.new_empty(len(given), width)
    rows, tasks, work = _tasks(y)
    if kind is None:
        _plain_kernel(tasks, given.numpy(), y.numpy(), rows, work=work)
    else:
        _gated_kernel(tasks, given.numpy(), y.numpy(), kind, rows, work=work)
    return y.view(*x.shape[:-1], width), given


class Activated(torch.autograd.Function):
    """GELU in its tanh form of x [... F], or where a kind is given f(a) b [... F] of x = (a, b) [... 2F]; float32."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, kind: int | None) -> Tensor:  # noqa: ANN401  # autograd's own context
        y, given = activated(x.detach(), kind)
        ctx.save_for_backward(given)
        ctx.kind = kind
        return y

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(  # pyright: ignore[reportIncompatibleMethodOverride]  # the decorator hides the parameters' names
        ctx: Any,  # noqa: ANN401  # autograd's own context
        grad: Tensor,
    ) -> tuple[Tensor | None, ...]:
        (given,) = ctx.saved_tensors
        slopes, dx = grad.reshape(len(given), -1).contiguous(), torch.empty_like(given)
        rows, tasks, work = _tasks(slopes)
        arrays = (given.numpy(), slopes.numpy(), dx.numpy())
        if ctx.kind is None:
            _plain_back_kernel(tasks, *arrays, rows, work=2 * work)
        else:
            _gated_back_kernel(tasks, *arrays, ctx.kind, rows, work=2 * work)
        return dx.view(*grad.shape[:-1], given.shape[1]), None
