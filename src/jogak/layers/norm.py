"""Normalisation over the model's width, chosen by name."""

from typing import Literal

import torch
import torch.nn.functional as F
from torch import Tensor, nn

Norm = Literal["layer", "rms", "rms_plus_one"]


class RMSNormPlusOne(nn.Module):
    """y = (1 + w) x / sqrt(mean(x^2) + eps), worked out in float32: x [... D] -> [... D]; w starts at zero.

    Source: Gemma Team 2024 (2403.08295), whose published code adds one to the weight.
    """

    def __init__(self, width: int, eps: float) -> None:
        super().__init__()
        self.eps = eps
        self.weight = nn.Parameter(torch.zeros(width))

    def forward(self, x: Tensor) -> Tensor:
        wide = torch.promote_types(x.dtype, torch.float32)
        return F.rms_norm(x.to(wide), self.weight.shape, 1 + self.weight.to(wide), self.eps).to(x.dtype)


def build_norm(kind: Norm, width: int, eps: float, *, bias: bool = True) -> nn.Module:
    """LayerNorm (Ba et al. 2016, 1607.06450) or RMSNorm (Zhang & Sennrich 2019, 1910.07467) over [... D]."""
    if kind == "layer":
        return nn.LayerNorm(width, eps=eps, bias=bias)
    return nn.RMSNorm(width, eps=eps) if kind == "rms" else RMSNormPlusOne(width, eps)
