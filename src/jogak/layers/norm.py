"""Normalisation over the model's width, chosen by name."""

from typing import Literal, get_args

import torch
from torch import Tensor, nn

from jogak.errors import UserError, nearest
from jogak.ops import rms_norm

Norm = Literal["layer", "rms", "rms_plus_one", "batch"]


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


class BatchNorm(nn.Module):
    """y = w (x - mean) / sqrt(var + eps) + b, each of the D numbers over all else: x [... D] -> [... D].

    While training mean and variance are the batch's, in which every row then has a part, and padding too; otherwise the
    running ones that are kept beside the weights. Source: Ioffe & Szegedy 2015 (1502.03167).
    """

    def __init__(self, width: int, eps: float) -> None:
        super().__init__()
        self.norm = nn.BatchNorm1d(width, eps=eps)

    def forward(self, x: Tensor) -> Tensor:
        return self.norm(x.reshape(-1, x.shape[-1])).view(x.shape)


def build_norm(kind: Norm, width: int, eps: float, *, bias: bool = True) -> nn.Module:
    """LayerNorm (Ba et al. 2016, 1607.06450), RMSNorm and others over [... D].

    Raises: UserError for an unknown name.
    """
    if kind == "layer":
        return nn.LayerNorm(width, eps=eps, bias=bias)
    if kind == "rms":
        return RMSNorm(width, eps)
    if kind not in ("rms_plus_one", "batch"):
        raise UserError(f"there is no norm '{kind}'{nearest(kind, get_args(Norm))}")
    return RMSNormPlusOne(width, eps) if kind == "rms_plus_one" else BatchNorm(width, eps)
