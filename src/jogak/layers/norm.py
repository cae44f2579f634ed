"""Normalisation over the model's width, chosen by name."""

from typing import Literal

from torch import nn


def build_norm(kind: Literal["layer", "rms"], width: int, eps: float) -> nn.Module:
    """LayerNorm (Ba et al. 2016, 1607.06450) or RMSNorm (Zhang & Sennrich 2019, 1910.07467) over [... D]."""
    return nn.LayerNorm(width, eps=eps) if kind == "layer" else nn.RMSNorm(width, eps=eps)
