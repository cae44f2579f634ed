"""One vector for a whole sequence, padding left out.

Legend: B batch, T time, D model width, C channels.
"""

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from jogak.errors import UserError
from jogak.layers.linear import Linear


def _real(x: Tensor, mask: Tensor | None) -> Tensor:
    """bool [B T], True = a real position."""
    return torch.ones(x.shape[:2], dtype=torch.bool, device=x.device) if mask is None else mask


class Mean(nn.Module):
    """The mean of the real positions: x [B T D] -> [B D]; zeros where there is none."""

    def __init__(self, d_model: int) -> None:
        super().__init__()
        self.width = d_model

    def forward(self, x: Tensor, mask: Tensor | None = None) -> Tensor:
        real = _real(x, mask).unsqueeze(-1)
        return x.masked_fill(~real, 0).sum(1) / real.sum(1).clamp_min(1)


class Max(Mean):
    """The largest of the real positions in each channel: x [B T D] -> [B D]; zeros where there is none."""

    def forward(self, x: Tensor, mask: Tensor | None = None) -> Tensor:
        real = _real(x, mask).unsqueeze(-1)
        found = x.masked_fill(~real, -torch.inf).amax(1)
        return found.masked_fill(~real.any(1), 0)


class First(Mean):
    """The first real position: x [B T D] -> [B D]."""

    def forward(self, x: Tensor, mask: Tensor | None = None) -> Tensor:
        return _at(x, _real(x, mask).int().argmax(1), mask)


class Last(Mean):
    """The last real position: x [B T D] -> [B D]; the one that has seen everything, in a decoder."""

    def forward(self, x: Tensor, mask: Tensor | None = None) -> Tensor:
        place = torch.arange(x.shape[1], device=x.device)
        return _at(x, (_real(x, mask) * place).amax(1), mask)


class AtUnit(nn.Module):
    """The first position that holds a unit: x [B T D], ids [B T] -> [B D]; unit None: the one of the highest number.

    A sequence without that unit gives its first position. Source: Radford et al. 2021 (2103.00020) section 2.4.
    """

    def __init__(self, unit: int | None) -> None:
        super().__init__()
        self.unit = unit

    def forward(self, x: Tensor, ids: Tensor) -> Tensor:
        place = ids.argmax(1) if self.unit is None else (ids == self.unit).int().argmax(1)
        return x.gather(1, place.view(-1, 1, 1).expand(-1, 1, x.shape[2])).squeeze(1)


def _at(x: Tensor, place: Tensor, mask: Tensor | None) -> Tensor:
    found = x.gather(1, place.view(-1, 1, 1).expand(-1, 1, x.shape[2])).squeeze(1)
    return found.masked_fill(~_real(x, mask).any(1, keepdim=True), 0)


class Convolutions(nn.Module):
    """max_t relu(W_h x_(t - h + 1 : t) + b_h) for every width h, side by side: x [B T D] -> [B C * widths].

    Windows reach over both ends, as wide as they are, and hold at least one real position; what is padding counts as
    zeros. Source: Kim 2014 (1408.5882) section 2, max-over-time pooling after Collobert et al. 2011.

    Raises: UserError for widths or channels below 1.
    """

    def __init__(self, d_model: int, widths: Sequence[int] = (3, 4, 5), channels: int = 100) -> None:
        super().__init__()
        if not widths or min(*widths, channels) < 1:
            raise UserError(f"convolutions: widths {list(widths)} and channels {channels} must be at least 1")
        self.widths, self.width = tuple(widths), channels * len(widths)
        # A linear map of the window is what a convolution is; drawn with the model's other linear maps.
        self.windows = nn.ModuleList(Linear(h * d_model, channels) for h in widths)

    def forward(self, x: Tensor, mask: Tensor | None = None) -> Tensor:
        real = _real(x, mask)
        x = x.masked_fill(~real.unsqueeze(-1), 0)
        return torch.cat([self._one(x, real, *pair) for pair in zip(self.widths, self.windows, strict=True)], dim=-1)

    def _one(self, x: Tensor, real: Tensor, width: int, window: nn.Module) -> Tensor:
        assert isinstance(window, nn.Linear)
        weight = window.weight.view(len(window.weight), width, x.shape[2]).transpose(1, 2)  # [C D h]
        y = F.conv1d(x.transpose(1, 2), weight, window.bias, padding=width - 1)  # [B C T + h - 1]
        touched = F.max_pool1d(F.pad(real.to(x.dtype).unsqueeze(1), (width - 1, width - 1)), width, stride=1) > 0
        return y.relu().masked_fill(~touched, 0).amax(2)  # relu gives no less than the zeros


POOLS: dict[str, type[Mean]] = {"mean": Mean, "max": Max, "first": First, "last": Last}
