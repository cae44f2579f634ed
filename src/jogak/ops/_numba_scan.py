# ruff: noqa: ANN001 (what numba compiles takes its types from the call)
"""The first-order linear recurrence on a CPU: one pass over memory, channels innermost, real or complex.

Legend: B batch, T time, C channels.
"""

import torch
from torch import Tensor

from jogak.ops._compiled import Kernel

BLOCK = 128  # channels of a task


def _forward(first, last, a, b, h0, h, end) -> None:
    length, width = b.shape[1], b.shape[2]
    blocks = (width + BLOCK - 1) // BLOCK
    for task in range(first, last):
        row, low = task // blocks, (task % blocks) * BLOCK
        high = min(width, low + BLOCK)
        held = end[row, low:high]
        held[:] = h0[row, low:high]
        for t in range(length):
            decay, given, made = a[row, t, low:high], b[row, t, low:high], h[row, t, low:high]
            for c in range(len(held)):
                value = decay[c] * held[c] + given[c]
                held[c] = value
                made[c] = value


def _backward(first, last, a, h, h0, dh, da, db, carried) -> None:
    """a and h conjugate; carried [B C] is the gradient of the last state and becomes that of h0."""
    length, width = h.shape[1], h.shape[2]
    blocks = (width + BLOCK - 1) // BLOCK
    for task in range(first, last):
        row, low = task // blocks, (task % blocks) * BLOCK
        high = min(width, low + BLOCK)
        held = carried[row, low:high]
        for t in range(length - 1, -1, -1):
            before = h[row, t - 1, low:high] if t else h0[row, low:high]
            decay, slope = a[row, t, low:high], dh[row, t, low:high]
            of_decay, of_given = da[row, t, low:high], db[row, t, low:high]
            for c in range(len(held)):
                value = held[c] + slope[c]
                of_given[c] = value
                of_decay[c] = value * before[c]
                held[c] = value * decay[c]


FORWARD, BACKWARD = Kernel(_forward), Kernel(_backward)


def _tasks(b: Tensor) -> int:
    return b.shape[0] * -(-b.shape[2] // BLOCK)


def forward(a: Tensor, b: Tensor, h0: Tensor) -> tuple[Tensor, Tensor]:
    """a, b [B T C], h0 [B C], contiguous -> h [B T C], the last of them [B C]."""
    h, end = torch.empty_like(b), torch.empty_like(h0)
    if b.device.type != "meta":
        FORWARD(_tasks(b), *(x.detach().numpy() for x in (a, b, h0, h, end)), work=b.numel())
    return h, end


def backward(a: Tensor, h: Tensor, h0: Tensor, dh: Tensor, dend: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """The gradients of a, b [B T C] and h0 [B C] from those of h [B T C] and of the last state [B C]."""
    da, db, carried = torch.empty_like(h), torch.empty_like(h), dend.clone()
    if h.is_complex():
        a, h, h0 = (x.conj().resolve_conj() for x in (a, h, h0))
    if h.device.type != "meta":
        BACKWARD(_tasks(h), *(x.detach().numpy() for x in (a, h, h0, dh, da, db, carried)), work=h.numel())
    return da, db, carried
