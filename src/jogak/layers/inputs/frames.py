"""Frames of a spectrogram, two of which make one position.

Legend: B batch, C channels (mel bands), T frames, D model width.
"""

import math

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from jogak.errors import UserError
from jogak.layers.dropout import Dropout


class Frames(nn.Module):
    """gelu(conv2(gelu(conv1(x)))) + position: frames [B C T] -> [B T/2 D]; the second convolution takes every other.

    max_length: positions at most. Positions are sines before cosines at first, and are kept with the weights.

    Raises: UserError for frames of another height, or more than fit.
    Source: Radford et al. 2022 (2212.04356) section 2.2.
    """

    rows, padded = 1, True

    def __init__(self, d_model: int, channels: int = 80, max_length: int = 1500, dropout: float = 0.0) -> None:
        super().__init__()
        if d_model % 2 or d_model < 4:
            raise UserError(f"model.input: sines and cosines need an even width of at least 4, got {d_model}")
        self.channels, self.max_length = channels, max_length
        self.conv1 = nn.Conv1d(channels, d_model, 3, padding=1)
        self.conv2 = nn.Conv1d(d_model, d_model, 3, stride=2, padding=1)
        self.position = nn.Parameter(_sines(max_length, d_model), requires_grad=False)
        self.dropout = Dropout(dropout)

    def forward(self, x: Tensor, mask: Tensor | None = None) -> Tensor:
        if x.dim() != 3 or x.shape[1] != self.channels or not 0 < x.shape[2] <= 2 * self.max_length:
            wanted = f"[batch, {self.channels}, at most {2 * self.max_length}]"
            raise UserError(f"frames must be {wanted}, got {list(x.shape)}; cut the sound into parts")
        if mask is not None:
            x = x.masked_fill(~mask.unsqueeze(1), 0)
        y = F.gelu(self.conv2(F.gelu(self.conv1(x)))).transpose(1, 2)
        return self.dropout(y + self.position[: y.shape[1]])

    def example(self, batch: int) -> Tensor:
        return torch.randn(batch, self.channels, 2 * self.max_length)

    def mask(self, mask: Tensor | None) -> Tensor | None:
        """A position is real where the frame in its middle is: bool [B T] -> bool [B T/2]."""
        return None if mask is None else mask[:, ::2]


def _sines(length: int, width: int) -> Tensor:
    speed = torch.exp(-math.log(10000.0) / (width // 2 - 1) * torch.arange(width // 2))
    angle = torch.arange(length).unsqueeze(1) * speed
    return torch.cat([angle.sin(), angle.cos()], dim=1)


INPUT = Frames
