"""The first-order linear recurrence on a CPU: one pass over memory, channels innermost, real or complex.

Legend: B batch, T time, C channels.
"""

import torch
from torch import Tensor

from jogak.ops._compiled import Kernel

BLOCK = 128  # channels of a task


def _forward(first, last, a, b, h0, h, end) -> None:  # noqa: ANN001 (compiled)
    width = b.shape[2]
    blocks = (width + 127) // 128
    for task in range(first, last):
        row, low = task // blocks, (task % blocks) * 128
        high = min(width, low + 128)
        for c in range(low, high):
            end[row, c] = h0[row, c]
        for t in range(b.shape[1]):
            for c in range(low, high):
                value = a[row, t, c] * end[row, c] + b[row, t, c]
                end[row, c] = value
                h[row, t, c] = value


def _backward(first, last, a, h, h0, dh, da, db, carried) -> None:  # noqa: ANN001 (compiled)
    """a and h conjugate; carried [B C] is the gradient of the last state and becomes that of h0."""
    width = h.shape[2]
    blocks = (width + 127) // 128
    for task in range(first, last):
        row, low = task // blocks, (task % blocks) * 128
        high = min(width, low + 128)
        for t in range(h.shape[1] - 1, 0, -1):
            for c in range(low, high):
                value = carried[row, c] + dh[row, t, c]
                db[row, t, c] = value
                da[row, t, c] = value * h[row, t - 1, c]
                carried[row, c] = value * a[row, t, c]
        for c in range(low, high):
            value = carried[row, c] + dh[row, 0, c]
            db[row, 0, c] = value
            da[row, 0, c] = value * h0[row, c]
            carried[row, c] = value * a[row, 0, c]


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
