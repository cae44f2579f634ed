"""Dropout: each number is kept with probability 1 - p and scaled by 1 / (1 - p), or becomes zero.

Source: Srivastava et al. 2014.
"""

import torch
import torch.nn.functional as F
from torch import Tensor

from jogak.ops._compiled import AVAILABLE

PLACES = 1 << 32  # elements that a hash tells apart


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


def hashed(x: Tensor, p: float, onto: Tensor | None = None) -> Tensor:
    """The same with a hash of each element's place for its random number, and the addition in the same pass.

    In float32 on a CPU; the mask is not kept but drawn again on the way back.
    """
    from jogak.ops._numba_dropout import Dropped

    return Dropped.apply(x.float(), p, onto)  # pyright: ignore[reportReturnType]  # apply is untyped


def dropout(x: Tensor, p: float, onto: Tensor | None = None) -> Tensor:
    """onto + dropout(x), or without onto dropout(x), in the form that is fast on x's device.

    p too small for a byte takes torch's own where it cannot be hashed.
    """
    cpu = x.device.type == "cpu"
    kind, shape = (x.dtype, x.shape) if onto is None else (onto.dtype, onto.shape)
    hashes = cpu and kind == torch.float32 and shape == x.shape and x.numel() < PLACES and AVAILABLE
    if hashes and not torch.compiler.is_compiling():
        return hashed(x, p, onto)
    y = from_bytes(x, p) if cpu and round(p * 256) > 0 else reference(x, p)
    return y if onto is None else onto + y
