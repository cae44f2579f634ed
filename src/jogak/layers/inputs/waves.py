"""Samples of sound, many of which make one position.

Legend: B batch, L samples, C channels of a convolution, T positions, D model width, K taps.
"""

from collections.abc import Sequence
from typing import Literal, TypeVar

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from jogak.errors import UserError
from jogak.layers.dropout import Dropout
from jogak.layers.feedforward import ACTIVATIONS
from jogak.layers.linear import Linear

Size = TypeVar("Size", int, Tensor)
CHANNELS, KERNELS, STRIDES = (512,) * 7, (10, 3, 3, 3, 3, 2, 2), (5, 2, 2, 2, 2, 2, 2)


class Waves(nn.Module):
    """y = W norm(convolutions(x)) + b; y + f(position(y)): samples [B L] -> [B T D].

    channels, kernels, strides: of each convolution, behind which the activation f stands. norm: 'layer', one over the
    channels behind each convolution; 'group', one over time behind the first, for each channel, of real places only.
    taps, groups: of the convolution that tells positions. norm_behind: a LayerNorm over the sum. hidden: in training
    so many of the positions are hidden behind a learned vector, in spans of hidden_length; None: there is no vector.

    Padding stands behind the samples and changes nothing.

    Raises: UserError for sizes that do not fit, or a sound too short for one position.
    Source: Baevski et al. 2020 (2006.11477) section 2; spans as in Park et al. 2019 (1904.08779).
    """

    rows, padded = 1, True

    def __init__(
        self,
        d_model: int,
        channels: Sequence[int] = CHANNELS,
        kernels: Sequence[int] = KERNELS,
        strides: Sequence[int] = STRIDES,
        *,
        norm: Literal["group", "layer"] = "group",
        bias: bool = False,
        activation: str = "gelu",
        taps: int = 128,
        groups: int = 16,
        norm_eps: float = 1e-5,
        norm_behind: bool = True,
        hidden: float | None = None,
        hidden_length: int = 10,
        dropout: float = 0.0,
    ) -> None:
        super().__init__()
        _check(channels, kernels, strides, d_model, groups)
        self.kernels, self.strides = tuple(kernels), tuple(strides)
        self.each = norm == "layer"
        before = (1, *channels[:-1])
        self.convolutions = nn.ModuleList(
            nn.Conv1d(i, o, k, s, bias=bias) for i, o, k, s in zip(before, channels, kernels, strides, strict=True)
        )
        for convolution in self.convolutions:
            nn.init.kaiming_normal_(convolution.weight)  # pyright: ignore[reportArgumentType]  # a list of modules
        normed = channels if self.each else channels[:1]
        self.norms = nn.ModuleList(nn.LayerNorm(c) if self.each else nn.GroupNorm(c, c) for c in normed)
        self.activation = ACTIVATIONS[activation]
        self.feature_norm = nn.LayerNorm(channels[-1], eps=norm_eps)
        self.projection = Linear(channels[-1], d_model)
        self.position = PositionConvolution(d_model, taps, groups)
        self.norm = nn.LayerNorm(d_model, eps=norm_eps) if norm_behind else None
        self.hidden = None if hidden is None else nn.Parameter(torch.rand(d_model))
        self.hidden_rate, self.hidden_length = hidden or 0.0, hidden_length
        self.dropout = Dropout(dropout)

    def forward(self, x: Tensor, mask: Tensor | None = None) -> Tensor:
        if x.dim() != 2 or not x.is_floating_point() or self.lengths(x.shape[1]) < 1:
            raise UserError(
                f"sound must be samples [batch, length] that make at least one position, got {x.dtype} {list(x.shape)}"
            )
        real = None if mask is None else mask.sum(1)
        y = (x if mask is None else x.masked_fill(~mask, 0)).unsqueeze(1)
        for index, convolution in enumerate(self.convolutions):
            y = convolution(y)
            if self.each:
                y = self.norms[index](y.transpose(1, 2)).transpose(1, 2)
            elif index == 0:
                y = self._over_time(y, None if real is None else self.lengths(real, 1))
            y = self.activation(y)
        y = self.projection(self.feature_norm(y.transpose(1, 2)))
        if self.training and self.hidden is not None and self.hidden_rate > 0:
            y = torch.where(self._spans(y), self.hidden.to(y.dtype), y)
        places = self.mask(mask)
        if places is not None:
            y = y.masked_fill(~places.unsqueeze(-1), 0)
        y = y + self.activation(self.position(y))
        return self.dropout(y if self.norm is None else self.norm(y))

    def example(self, batch: int) -> Tensor:
        length = 24
        for kernel, stride in zip(reversed(self.kernels), reversed(self.strides), strict=True):
            length = (length - 1) * stride + kernel
        return torch.randn(batch, length)

    def mask(self, mask: Tensor | None) -> Tensor | None:
        """A position is real where all of its samples are: bool [B L] -> bool [B T]."""
        if mask is None:
            return None
        places = torch.arange(int(self.lengths(mask.shape[1])), device=mask.device)
        return places < self.lengths(mask.sum(1)).unsqueeze(1)

    def lengths(self, samples: Size, layers: int | None = None) -> Size:
        """How many places so many samples make, after so many of the convolutions; None: after all."""
        for kernel, stride in list(zip(self.kernels, self.strides, strict=True))[:layers]:
            samples = (samples - kernel) // stride + 1
        return samples

    def _over_time(self, y: Tensor, lengths: Tensor | None) -> Tensor:
        """Each channel normed over its real places: y [B C T]."""
        norm = self.norms[0]
        assert isinstance(norm, nn.GroupNorm)
        if lengths is None:
            return norm(y)
        real = (torch.arange(y.shape[2], device=y.device) < lengths.unsqueeze(1)).unsqueeze(1)
        wide = y.to(torch.promote_types(y.dtype, torch.float32)).masked_fill(~real, 0)
        count = real.sum(2, keepdim=True).clamp_min(1)
        mean = wide.sum(2, keepdim=True) / count
        centred = (wide - mean).masked_fill(~real, 0)
        normed = centred * (centred.square().sum(2, keepdim=True) / count + norm.eps).rsqrt()
        return (normed * norm.weight.unsqueeze(1) + norm.bias.unsqueeze(1)).masked_fill(~real, 0).to(y.dtype)

    def _spans(self, y: Tensor) -> Tensor:
        """Which positions are hidden: bool [B T 1]."""
        begins = torch.rand(y.shape[:2], device=y.device) < self.hidden_rate / self.hidden_length
        reached = F.pad(begins.float().unsqueeze(1), (self.hidden_length - 1, 0))
        return (F.max_pool1d(reached, self.hidden_length, 1) > 0).transpose(1, 2)


class PositionConvolution(nn.Module):
    """W * x + b over K places around each, W_k = g_k V_k / |V_k| for each tap k: [B T D] -> [B T D].

    Source: Baevski et al. 2020 (2006.11477) section 2; weight norm, Salimans & Kingma 2016 (1602.07868).
    """

    def __init__(self, d_model: int, taps: int, groups: int) -> None:
        super().__init__()
        self.taps, self.groups = taps, groups
        self.direction = nn.Parameter(torch.empty(d_model, d_model // groups, taps))
        nn.init.normal_(self.direction, std=2 * (1 / (taps * d_model)) ** 0.5)
        self.size = nn.Parameter(self.direction.detach().norm(dim=(0, 1), keepdim=True))
        self.bias = nn.Parameter(torch.zeros(d_model))

    def forward(self, x: Tensor) -> Tensor:
        weight = self.size * self.direction / self.direction.norm(dim=(0, 1), keepdim=True)
        y = F.conv1d(x.transpose(1, 2), weight, self.bias, padding=self.taps // 2, groups=self.groups)
        return y[..., : x.shape[1]].transpose(1, 2)


def _check(channels: Sequence[int], kernels: Sequence[int], strides: Sequence[int], d_model: int, groups: int) -> None:
    if not channels or not len(channels) == len(kernels) == len(strides) or min(*channels, *kernels, *strides) < 1:
        raise UserError(
            f"model.input: channels, kernels and strides must be as many numbers above 0, got {list(channels)}, "
            f"{list(kernels)} and {list(strides)}"
        )
    if groups < 1 or d_model % groups:
        raise UserError(f"model.input: the width {d_model} must be a multiple of groups, got {groups}")


INPUT = Waves
