"""Pictures cut into patches.

Legend: B batch, C channels, H W height and width in pixels, P patch size, M marks, T positions, D model width.
"""

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from jogak.errors import UserError
from jogak.layers.dropout import Dropout


class Patches(nn.Module):
    """norm([marks; W patch] + position): pixels [B C H W] -> [B T D], T = M + (H / P) (W / P), rows first.

    marks: learned vectors before the patches, of which a classifier reads the first. image_size, patch_size: one
    number, or height and width. norm_eps: adds a LayerNorm behind the sum.

    Raises: UserError for sizes that leave no patch, or pixels of another size.
    Source: Dosovitskiy et al. 2021 (2010.11929) section 3.1.
    """

    rows, padded = 1, False

    def __init__(
        self,
        d_model: int,
        image_size: int | Sequence[int] = 224,
        patch_size: int | Sequence[int] = 16,
        *,
        channels: int = 3,
        marks: int = 1,
        bias: bool = True,
        norm_eps: float | None = None,
        dropout: float = 0.0,
    ) -> None:
        super().__init__()
        self.size, self.patch = _pair("image_size", image_size), _pair("patch_size", patch_size)
        self.channels = channels
        rows, columns = self.size[0] // self.patch[0], self.size[1] // self.patch[1]
        if not rows * columns:
            raise UserError(f"model.input: pictures of {list(self.size)} hold no patch of {list(self.patch)}")
        if channels < 1 or marks < 0:
            raise UserError(f"model.input: channels must be above 0 and marks at least 0, got {channels} and {marks}")
        self.projection = nn.Conv2d(channels, d_model, self.patch, self.patch, bias=bias)
        self.marks = nn.Parameter(torch.zeros(marks, d_model)) if marks else None
        self.position = nn.Parameter(torch.empty(marks + rows * columns, d_model))
        nn.init.normal_(self.position, std=0.02)
        self.norm = None if norm_eps is None else nn.LayerNorm(d_model, eps=norm_eps)
        self.dropout = Dropout(dropout)

    def forward(self, x: Tensor, mask: Tensor | None = None) -> Tensor:
        if x.dim() != 4 or tuple(x.shape[1:]) != (self.channels, *self.size):
            wanted = ["batch", self.channels, *self.size]
            raise UserError(f"pictures must be {wanted}, got {list(x.shape)}; resize and crop them first")
        y = self.projection(x).flatten(2).transpose(1, 2)
        if self.marks is not None:
            y = torch.cat([self.marks.expand(y.shape[0], -1, -1), y], dim=1)
        y = y + self.position
        return self.dropout(y if self.norm is None else self.norm(y))

    def example(self, batch: int) -> Tensor:
        return torch.randn(batch, self.channels, *self.size)

    def mask(self, mask: Tensor | None) -> Tensor | None:
        """Pictures have one size and no padding."""
        return None


def _pair(name: str, given: int | Sequence[int]) -> tuple[int, int]:
    sizes = (given, given) if isinstance(given, int) else tuple(given)
    if len(sizes) != 2 or min(sizes) < 1:
        raise UserError(f"model.input: {name} must be one number or height and width, got {given}")
    return sizes[0], sizes[1]


INPUT = Patches
