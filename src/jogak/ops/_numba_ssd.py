# ruff: noqa: ANN001 (what numba compiles takes its types from the call)
"""One place of state space duality on a CPU: every state is read once and written once.

Legend: B batch, H heads, P head width, G groups, N state.
"""

import torch
from torch import Tensor

from jogak.ops._compiled import Kernel


def _step(first, last, x, put, decay, b, c, d, h, y, after) -> None:
    """put = dt x [B H P], decay [B H]; a task is a head of a row."""
    heads, width, states = h.shape[1], h.shape[2], h.shape[3]
    each = heads // b.shape[1]
    for task in range(first, last):
        row, head = task // heads, task % heads
        group, kept = head // each, decay[row, head]
        for p in range(width):
            value, total = put[row, head, p], y[row, head, p] * 0
            for n in range(states):
                new = kept * h[row, head, p, n] + value * b[row, group, n]
                after[row, head, p, n] = new
                total += new * c[row, group, n]
            y[row, head, p] = total + d[head] * x[row, head, p]


STEP = Kernel(_step, reorder=True)


def step(x: Tensor, dt: Tensor, a: Tensor, b: Tensor, c: Tensor, d: Tensor, h: Tensor) -> tuple[Tensor, Tensor]:
    """x [B H P], dt [B H], a [H], b, c [B G N], d [H], h [B H P N] of one float dtype -> y [B H P], the next h."""
    y, after = torch.zeros_like(x), torch.empty_like(h, memory_format=torch.contiguous_format)
    given = (x, dt.unsqueeze(2) * x, torch.exp(dt * a), b, c, d, h)
    STEP(h.shape[0] * h.shape[1], *(t.detach().contiguous().numpy() for t in (*given, y, after)), work=h.numel())
    return y, after
