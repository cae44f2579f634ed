"""The first-order linear recurrence on a GPU: one pass over memory, a block of channels a program.

Imported only where a tensor is on such a device. Legend: B batch, T time, C channels.
"""

from typing import Any

import torch
import triton
import triton.language as tl
from torch import Tensor

BLOCK = 128  # channels of a program


@triton.jit
def _forward(a, b, h0, h, end, time, width, BLOCK: tl.constexpr):  # noqa: ANN001, ANN202 (Triton's language)
    channels = tl.program_id(1) * BLOCK + tl.arange(0, BLOCK)
    inside = channels < width
    row = tl.program_id(0).to(tl.int64)
    state = tl.load(h0 + row * width + channels, mask=inside, other=0.0)
    at = row * time * width + channels
    for _ in range(time):
        state = tl.load(a + at, mask=inside, other=0.0) * state + tl.load(b + at, mask=inside, other=0.0)
        tl.store(h + at, state, mask=inside)
        at += width
    tl.store(end + row * width + channels, state, mask=inside)


def forward(a: Tensor, b: Tensor, h0: Tensor) -> tuple[Tensor, Tensor]:
    """a, b [B T C], h0 [B C], real -> h [B T C], the last of them [B C]."""
    a, b, h0 = (x.contiguous() for x in (a, b, h0))
    h, end = torch.empty_like(b), torch.empty_like(h0)
    rows, time, width = b.shape
    launch: Any = _forward[(rows, triton.cdiv(width, BLOCK))]
    launch(a, b, h0, h, end, time, width, BLOCK=BLOCK)
    return h, end
