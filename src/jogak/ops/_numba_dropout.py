"""Dropout and the addition behind it in one pass, its mask drawn again on the way back instead of kept.

Which numbers go is a hash of their place and of two seeds, which are drawn from torch's generator: 2 multiplications a
number in vectors, where a serial generator is most of dropout's time.
"""

from typing import Any

import numpy as np
import torch
from torch import Tensor

from jogak.ops._compiled import Kernel, jit
from jogak.ops.dropout import PLACES

BLOCK = 1 << 13  # numbers of one task
STEPS = 2  # of a loop, for each number

# ruff: noqa: ANN001, ANN202 (what numba compiles takes its types from the call)


@jit
def _draw(place, first, second):
    """A random uint32 for a place: two rounds of multiplications and shifts, a seed before each."""
    z = np.uint32(np.uint32(place) * np.uint32(0x9E3779B9)) ^ first
    z = np.uint32(np.uint32(z ^ (z >> np.uint32(16))) * np.uint32(0x7FEB352D))
    z = np.uint32(np.uint32(z ^ (z >> np.uint32(15))) + second)
    z = np.uint32(z * np.uint32(0x846CA68B))
    return np.uint32(z ^ (z >> np.uint32(16)))


def _drop(begin, end, x, out, first, second, limit, scale):
    for task in range(begin, end):
        start = task * BLOCK
        given, made = x[start : start + BLOCK], out[start : start + BLOCK]
        for i in range(len(given)):
            value = given[i] * scale  # by itself, for a branch that hides a load is no vector instruction
            made[i] = value if _draw(start + i, first, second) >= limit else np.float32(0)


def _drop_onto(begin, end, x, onto, out, first, second, limit, scale):
    for task in range(begin, end):
        start = task * BLOCK
        given, below, made = x[start : start + BLOCK], onto[start : start + BLOCK], out[start : start + BLOCK]
        for i in range(len(given)):
            value = given[i] * scale
            made[i] = below[i] + (value if _draw(start + i, first, second) >= limit else np.float32(0))


_drop_kernel, _drop_onto_kernel = Kernel(_drop), Kernel(_drop_onto)


class Dropped(torch.autograd.Function):
    """x [...] float32, each number kept at a chance of 1 - p and scaled by 1 / (1 - p), onto `onto` if given."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, p: float, onto: Tensor | None) -> Tensor:  # noqa: ANN401  # autograd's
        seeds = torch.empty(2, dtype=torch.int64).random_(PLACES).tolist()
        ctx.given = (*map(np.uint32, seeds), np.uint32(min(round(p * PLACES), PLACES - 1)), np.float32(1 / (1 - p)))
        return _run(x.detach(), None if onto is None else onto.detach(), ctx.given)

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(  # pyright: ignore[reportIncompatibleMethodOverride]  # the decorator hides the parameters' names
        ctx: Any,  # noqa: ANN401  # autograd's own context
        grad: Tensor,
    ) -> tuple[Tensor | None, ...]:
        dx = _run(grad, None, ctx.given) if ctx.needs_input_grad[0] else None
        return dx, None, grad if ctx.needs_input_grad[2] else None


def _run(x: Tensor, onto: Tensor | None, given: tuple[Any, ...]) -> Tensor:
    x = x.contiguous()
    out, tasks, work = torch.empty_like(x), -(-x.numel() // BLOCK), x.numel() * STEPS
    flat, written = x.view(-1).numpy(), out.view(-1).numpy()
    if onto is None:
        _drop_kernel(tasks, flat, written, *given, work=work)
    else:
        _drop_onto_kernel(tasks, flat, onto.contiguous().view(-1).numpy(), written, *given, work=work)
    return out
