"""Telling a model where a position is: added to the embedding, turned into queries and keys, or added to scores.

Legend: B batch, T queries, S keys, H heads, K key width, D model width.
"""

import math
from collections.abc import Mapping
from dataclasses import dataclass
from functools import lru_cache

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from jogak.errors import UserError
from jogak.layers import rotary_scaling
from jogak.ops import positions as counting
from jogak.ops import rotary


class Sinusoidal(nn.Module):
    """PE(p, 2i) = sin(p / 10000^(2i/D)), PE(p, 2i+1) = cos(the same): positions [B T] -> [B T D].

    halves: all sines before all cosines, as Marian lays them out. inclusive: i / (D/2 - 1) instead of 2i / D, so that
    the slowest turns by exactly 1 / 10000, as fairseq and tensor2tensor have it; an odd width's last number is zero.
    Source: Vaswani et al. 2017 (1706.03762) section 3.5. Has no parameters and no largest position.
    """

    def __init__(self, d_model: int, *, halves: bool = False, inclusive: bool = False) -> None:
        super().__init__()
        if inclusive and d_model < 4:
            raise UserError(f"positions 'sinusoidal_inclusive' need a width of at least 4, got {d_model}")
        self.d_model, self.halves, self.inclusive = d_model, halves, inclusive

    def forward(self, positions: Tensor, dtype: torch.dtype = torch.float32) -> Tensor:
        if self.inclusive:
            index = torch.arange(self.d_model // 2, device=positions.device, dtype=torch.float32)
            angle = positions.unsqueeze(-1) * torch.exp(index * (-math.log(10000.0) / (self.d_model // 2 - 1)))
            return F.pad(torch.cat([angle.sin(), angle.cos()], dim=-1), (0, self.d_model % 2)).to(dtype)
        even = torch.arange(0, self.d_model, 2, device=positions.device, dtype=torch.float32)
        angle = positions.unsqueeze(-1) * torch.exp(even * (-math.log(10000.0) / self.d_model))
        if self.halves:
            return torch.cat([angle.sin(), angle.cos()[..., : self.d_model // 2]], dim=-1).to(dtype)
        pairs = torch.stack([angle.sin(), angle.cos()], dim=-1).flatten(-2)
        return pairs[..., : self.d_model].to(dtype)


class Learned(nn.Module):
    """One learned vector for each position: positions [B T] -> [B T D].

    Raises: UserError for a position that the table does not have.
    """

    def __init__(self, d_model: int, max_length: int) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.empty(max_length, d_model))
        nn.init.normal_(self.weight, std=0.02)

    def forward(self, positions: Tensor, dtype: torch.dtype = torch.float32) -> Tensor:
        table = self.weight.shape[0]
        known = not torch.compiler.is_compiling() and positions.device.type != "meta" and positions.numel()
        if known and int(positions.max()) >= table:
            raise UserError(
                f"position {int(positions.max())} is beyond the learned table of {table}; "
                "shorten the input or raise model.max_length"
            )
        return self.weight[positions].to(dtype)


class Rotary(nn.Module):
    """Turn each pair (i, i + R/2) of a query or key by the angle p * base^(-2i/R): x [B T H K] -> [B T H K].

    The score of two turned vectors then depends on the distance between their positions alone. turned: R, the first
    numbers of a head that are turned; all K where not given.
    scaling: how the angles are stretched for longer texts than were trained on, see layers.rotary_scaling. kept: the
    powers of the base are kept beside the weights, as a checkpoint has them, rounding included.
    Source: Su et al. 2021 (2104.09864) section 3.2; pairs split in halves, as GPT-NeoX and Llama lay them out.
    """

    def __init__(
        self,
        head_dim: int,
        base: float = 10000.0,
        turned: int | None = None,
        scaling: Mapping[str, str | float | bool] | None = None,
        *,
        kept: bool = False,
    ) -> None:
        super().__init__()
        if turned is None and head_dim % 2:
            raise UserError(f"rotary positions need an even head width, got {head_dim}; change heads or head_dim")
        if turned is not None and (turned % 2 or not 0 < turned <= head_dim):
            raise UserError(f"rotary positions turn an even part of the head width {head_dim}, got {turned}")
        self.head_dim, self.turned = head_dim, turned or head_dim
        self.what = Turning(base, self.turned, None if scaling is None else tuple(scaling.items()))
        self.amplitude = rotary_scaling.amplitude(scaling)
        self.register_buffer("kept", self.what.speed(None) if kept else None)
        self.kept: Tensor | None

    def forward(self, x: Tensor, positions: Tensor) -> Tensor:
        return rotary.auto(x, *self.angles(positions))[0]

    def angles(self, positions: Tensor) -> tuple[Tensor, Tensor]:
        """Cosines and sines of positions [B T], times the scaling's amplitude: [B T R/2]."""
        speed = self.what.speed(positions.device) if self.kept is None else self.kept.float()
        return _angles(positions, speed, self.amplitude)

    def counted(self, x: Tensor, before: int) -> tuple[Tensor, Tensor]:
        """The angles of x [B T ...] where the positions of every row are before, before + 1, ...: [1 T R/2]."""
        real = type(x) is Tensor and not x.is_meta and not torch.compiler.is_compiling()
        if real and self.kept is None:
            return _counted(self.what, self.amplitude, before, x.shape[1], x.device)
        return self.angles(counting.count((1, x.shape[1]), x.device, before=before))


@dataclass(frozen=True)
class Turning:
    """How fast pairs turn; layers that turn alike have equal ones. scaling: as items."""

    base: float
    turned: int
    scaling: tuple[tuple[str, str | float | bool], ...] | None

    def speed(self, device: torch.device | None) -> Tensor:
        """The angle of each pair at position 1, [R/2]."""
        half = torch.arange(0, self.turned, 2, device=device, dtype=torch.float32)
        speed = self.base ** (-half / self.turned)
        if self.scaling is None:
            return speed
        return rotary_scaling.stretch(speed, self.base, self.turned, dict(self.scaling))


@lru_cache(maxsize=2)  # the layers of a model ask one after another, for one speed or two
def _counted(what: Turning, amplitude: float, before: int, length: int, device: torch.device) -> tuple[Tensor, Tensor]:
    with torch.inference_mode(False), torch.no_grad():  # so that training may use them too
        return _angles(counting.count((1, length), device, before=before), what.speed(device), amplitude)


def _angles(positions: Tensor, speed: Tensor, amplitude: float) -> tuple[Tensor, Tensor]:
    angle = positions.unsqueeze(-1) * speed
    if amplitude == 1:
        return angle.cos(), angle.sin()
    return angle.cos() * amplitude, angle.sin() * amplitude


class Alibi(nn.Module):
    """Add -m_h |p_q - p_k| to each score, with slopes m_h = 2^(-8h/H): nothing is learned.

    Source: Press et al. 2021 (2108.12409) section 3; for H not a power of two, the slopes of the next power are
    interleaved, as in the authors' construction.
    """

    parameter: Tensor | None = None

    def __init__(self, heads: int) -> None:
        super().__init__()
        self.heads = heads

    def slopes(self, device: torch.device) -> Tensor:
        """[H]."""
        power = 2 ** math.floor(math.log2(self.heads))
        found = [2 ** (-8 * (h + 1) / power) for h in range(power)]
        finer = [2 ** (-4 * (h + 1) / power) for h in range(2 * power)]
        found += finer[0::2][: self.heads - power]
        return torch.tensor(found, device=device, dtype=torch.float32)

    def tile(self, parameter: Tensor | None, q_positions: Tensor, k_positions: Tensor) -> Tensor:
        distance = (q_positions.unsqueeze(2) - k_positions.unsqueeze(1)).abs().unsqueeze(1)
        return -self.slopes(distance.device).view(1, -1, 1, 1) * distance

    def gradient(self, parameter: Tensor, q_positions: Tensor, k_positions: Tensor, grad: Tensor) -> Tensor:
        raise NotImplementedError("ALiBi learns nothing")


class T5Bias(nn.Module):
    """Add a learned number for each head and bucket of distances: buckets are exact when near, logarithmic when far.

    Source: Raffel et al. 2020 (1910.10683) section 2.1. bidirectional: half of the buckets for keys ahead.
    """

    def __init__(self, heads: int, *, bidirectional: bool, buckets: int = 32, max_distance: int = 128) -> None:
        super().__init__()
        self.bidirectional, self.buckets, self.max_distance = bidirectional, buckets, max_distance
        self.table = nn.Parameter(torch.empty(buckets, heads))
        nn.init.normal_(self.table, std=0.02)

    @property
    def parameter(self) -> Tensor | None:
        return self.table

    def tile(self, parameter: Tensor | None, q_positions: Tensor, k_positions: Tensor) -> Tensor:
        assert parameter is not None
        ahead = k_positions.unsqueeze(1) - q_positions.unsqueeze(2)
        # In float32: many distances share a bucket, and their gradients are added up.
        return parameter.to(torch.promote_types(parameter.dtype, torch.float32))[self.bucket(ahead)].permute(0, 3, 1, 2)

    def gradient(self, parameter: Tensor, q_positions: Tensor, k_positions: Tensor, grad: Tensor) -> Tensor:
        bucket = self.bucket(k_positions.unsqueeze(1) - q_positions.unsqueeze(2))
        rows = grad.sum_to_size(bucket.shape[0], *grad.shape[1:]).permute(0, 2, 3, 1).flatten(0, 2)  # [N H]
        return torch.zeros_like(parameter).index_add_(0, bucket.flatten(), rows.to(parameter.dtype))

    def bucket(self, ahead: Tensor) -> Tensor:
        """The bucket of a key that lies `ahead` positions after its query."""
        buckets, offset = self.buckets, torch.zeros_like(ahead)
        if self.bidirectional:
            buckets //= 2
            offset = (ahead > 0).long() * buckets
            distance = ahead.abs()
        else:
            distance = (-ahead).clamp_min(0)
        exact = buckets // 2
        ratio = (distance.clamp_min(1).float() / exact).log() / math.log(self.max_distance / exact)
        far = (exact + (ratio * (buckets - exact)).long()).clamp_max(buckets - 1)
        return offset + torch.where(distance < exact, distance, far)
