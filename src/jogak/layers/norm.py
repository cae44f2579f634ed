"""Normalisation over the model's width, chosen by name."""

from typing import Literal

import torch
from torch import Tensor, nn

from jogak.ops import rms_norm

Norm = Literal["layer", "rms", "rms_plus_one"]


class RMSNorm(nn.Module):
    """y = w x / sqrt(mean(x^2) + eps): x [... D] -> [... D]. Source: Zhang & Sennrich 2019 (1910.07467)."""

    def __init__(self, width: int, eps: float) -> None:
        super().__init__()
        self.eps = eps
        self.weight = nn.Parameter(torch.ones(width))

    def forward(self, x: Tensor) -> Tensor:
        return rms_norm.auto(x, self.weight, self.eps)


class RMSNormPlusOne(nn.Module):
    """y = (1 + w) x / sqrt(mean(x^2) + eps), worked out in float32: x [... D] -> [... D]; w starts at zero.

    Source: Gemma Team 2024 (2403.08295), whose published code adds one to the weight.
    """

    def __init__(self, width: int, eps: float) -> None:
        super().__init__()
        self.eps = eps
        self.weight = nn.Parameter(torch.zeros(width))

    def forward(self, x: Tensor) -> Tensor:
        return rms_norm.auto(x, self.weight, self.eps, 1.0)


def build_norm(kind: Norm, width: int, eps: float, *, bias: bool = True) -> nn.Module:
    """LayerNorm (Ba et al. 2016, 1607.06450) or RMSNorm, whose weight may have one added, over [... D]."""
    if kind == "layer":
        return nn.LayerNorm(width, eps=eps, bias=bias)
    return RMSNorm(width, eps) if kind == "rms" else RMSNormPlusOne(width, eps)
