"""Dropout: each number is kept with probability 1 - p and scaled by 1 / (1 - p), or becomes zero.

Source: Srivastava et al. 2014.
"""

import torch
import torch.nn.functional as F
from torch import Tensor


def reference(x: Tensor, p: float) -> Tensor:
    """torch's own dropout, one random number for each element."""
    return F.dropout(x, p)


def from_bytes(x: Tensor, p: float) -> Tensor:
    """The same with one random byte for each element, for CPUs, where drawing numbers is most of dropout's time.

    A CPU draws from one serial generator, 64 bits a call; eight elements share them. p is rounded to n / 256, and
    the scale is that of the rounded p, so that the expectation is x exactly.
    """
    kept = 256 - round(p * 256)
    words = torch.empty((x.numel() + 7) // 8, dtype=torch.int64, device=x.device).random_(-(2**63), None)
    draws = words.view(torch.uint8)[: x.numel()].view(x.shape)
    return x * (draws < kept).to(x.dtype).mul_(256 / kept)


def dropout(x: Tensor, p: float) -> Tensor:
    """The form that is fast on x's device; p too small for a byte takes torch's own."""
    return from_bytes(x, p) if x.device.type == "cpu" and round(p * 256) > 0 else reference(x, p)
