"""Series of numbers cut into patches, each channel for itself.

Legend: B batch, L values, C channels, P patch length, M marks, T positions, D model width.
"""

import math
from typing import Literal

import torch
from torch import Tensor, nn

from jogak.errors import UserError
from jogak.layers.dropout import Dropout

LEAST = {"std": 1e-5, "mean": 1e-10, "none": 0.0}


class Series(nn.Module):
    """[marks; W patch + b] + position of (x - loc) / scale: values [B L C] -> [B C, T, D]; each channel is a row.

    length: L. patch, stride: values of a patch, and from one to the next; the first values are left out where they make
    no whole patch. scale: 'std', loc the mean and scale sqrt(variance + least); 'mean', scale the mean of |x|, at least
    `least`; 'none'. shared: one W for all channels. marks: learned vectors before the patches. position: 'sines', which
    are kept with the weights, or 'learned'.

    NaN, or False in the mask [B L] or [B L C], is a missing value: it is left out of loc and scale, and is zero.

    Raises: UserError for sizes that leave no patch, or values of another size.
    Source: Nie et al. 2023 (2211.14730) section 3.1; scales after Kim et al. 2022 (RevIN, ICLR).
    """

    padded = False

    def __init__(
        self,
        d_model: int,
        length: int = 512,
        channels: int = 1,
        patch: int = 16,
        stride: int | None = None,
        *,
        scale: Literal["std", "mean", "none"] = "std",
        least: float | None = None,
        shared: bool = True,
        marks: int = 0,
        position: Literal["sines", "learned"] = "sines",
        dropout: float = 0.0,
    ) -> None:
        super().__init__()
        self.length, self.rows, self.patch, self.stride = length, channels, patch, patch if stride is None else stride
        if min(length, channels, patch, self.stride) < 1 or patch > length or marks < 0:
            raise UserError(
                f"model.input: a series of {length} values in {channels} channels holds no patch of {patch} with a "
                f"stride of {self.stride}"
            )
        if scale not in LEAST or position not in ("sines", "learned"):
            raise UserError(
                f"model.input: scale must be std, mean or none, position sines or learned, got {scale} and {position}"
            )
        self.scale, self.least = scale, LEAST[scale] if least is None else least
        self.patches = (length - patch) // self.stride + 1
        self.positions = marks + self.patches
        self.weight = nn.Parameter(torch.empty(1 if shared else channels, d_model, patch))
        nn.init.uniform_(self.weight, -(patch**-0.5), patch**-0.5)
        self.bias = nn.Parameter(torch.zeros(1 if shared else channels, d_model))
        self.marks = nn.Parameter(torch.zeros(marks, d_model)) if marks else None
        table = torch.empty(self.positions, d_model)
        if position == "learned":
            nn.init.normal_(table, std=0.02)
        elif not table.is_meta:
            table = _sines(self.positions, d_model)
        self.position = nn.Parameter(table, requires_grad=position == "learned")
        self.dropout = Dropout(dropout)

    def forward(self, x: Tensor, mask: Tensor | None = None) -> Tensor:
        loc, scale = self.measure(x, mask)
        y = (self._whole(x, mask)[0] - loc) / scale
        left_out = self.length - self.patch - self.stride * (self.patches - 1)
        y = y[:, left_out:].unfold(1, self.patch, self.stride).transpose(1, 2)  # [B C patches P]
        y = y.to(self.weight.dtype) @ self.weight.mT + self.bias.unsqueeze(1)
        if self.marks is not None:
            y = torch.cat([self.marks.expand(*y.shape[:2], -1, -1), y], dim=2)
        return self.dropout(y + self.position).flatten(0, 1)

    def measure(self, x: Tensor, mask: Tensor | None = None) -> tuple[Tensor, Tensor]:
        """What is subtracted from each channel's values and what they are divided by: loc and scale [B 1 C]."""
        x, real = self._whole(x, mask)
        count = real.sum(1, keepdim=True)
        if self.scale == "none":
            return x.new_zeros(count.shape), x.new_ones(count.shape)
        if self.scale == "mean":
            scale = torch.where(count > 0, x.abs().sum(1, keepdim=True) / count.clamp_min(1), 1)
            return torch.zeros_like(scale), scale.clamp_min(self.least)
        loc = x.sum(1, keepdim=True) / count.clamp_min(1)
        variance = (x - loc).masked_fill(~real, 0).square().sum(1, keepdim=True) / count.clamp_min(1)
        return loc, (variance + self.least).sqrt()

    def example(self, batch: int) -> Tensor:
        return torch.randn(batch, self.length, self.rows)

    def mask(self, mask: Tensor | None) -> Tensor | None:
        """All patches are there, also those whose values are missing."""
        return None

    def _whole(self, x: Tensor, mask: Tensor | None) -> tuple[Tensor, Tensor]:
        """The values with zeros where they are missing, float32 at least, and which are there, [B L C]."""
        if x.dim() != 3 or tuple(x.shape[1:]) != (self.length, self.rows) or not x.is_floating_point():
            wanted = ["batch", self.length, self.rows]
            raise UserError(f"a series must be values {wanted}, got {x.dtype} {list(x.shape)}; take the last ones")
        real = ~x.isnan()
        if mask is not None:
            real = real & (mask if mask.dim() == 3 else mask.unsqueeze(-1))
        return x.to(torch.promote_types(x.dtype, torch.float32)).masked_fill(~real, 0), real


def _sines(length: int, width: int) -> Tensor:
    """Sines and cosines side by side, their mean taken away and their spread brought to a tenth."""
    speed = torch.exp(torch.arange(0, width, 2) * -(math.log(10000.0) / width))
    angle = torch.arange(length).unsqueeze(1) * speed
    table = torch.stack([angle.sin(), angle.cos()], dim=-1).flatten(1)[:, :width]
    table = table - table.mean()
    return table / (table.std() * 10)


INPUT = Series
