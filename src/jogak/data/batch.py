"""What the data gives and a model reads: padded or packed sequences, and what is to be predicted.

Legend: B batch, T time.
"""

from dataclasses import dataclass, field, replace

import torch
from torch import Tensor

from jogak.errors import UserError

IGNORE = -100  # a target that does not count, as torch's cross_entropy has it


@dataclass(frozen=True, eq=False)
class Units:
    """A padded batch of sequences.

    ids: int64 [B T]. mask: bool [B T], True = real; None where every place is real. segments: int64 [B T],
    the number of the packed document within its row, from 1; 0 at padding; None where nothing is packed.
    """

    ids: Tensor
    mask: Tensor | None = None
    segments: Tensor | None = None

    def __post_init__(self) -> None:
        for name in ("mask", "segments"):
            tensor: Tensor | None = getattr(self, name)
            if tensor is not None and tensor.shape != self.ids.shape:
                raise UserError(f"Units: {name} must be {list(self.ids.shape)}, got {list(tensor.shape)}")

    def to(self, device: torch.device | str) -> "Units":
        """The same units on `device`."""
        ids = self.ids.to(device, non_blocking=True)
        return Units(ids, _move(self.mask, device), _move(self.segments, device))

    def in_a_row(self, documents: Tensor) -> "Units":
        """The real places only, one row behind another [1 N]; documents: a number for each place [B T]."""
        if self.mask is None:
            return Units(self.ids.view(1, -1), None, documents.reshape(1, -1))
        return Units(self.ids[self.mask].unsqueeze(0), None, documents[self.mask].unsqueeze(0))


@dataclass(frozen=True, eq=False)
class Batch:
    """One batch of examples.

    units: what the decoder, or the encoder of an encoder-only model, reads. targets: int64 [B T], IGNORE
    where there is nothing to predict. source: what the encoder of an encoder-decoder reads. rows: which
    examples these are. real_targets: number of targets that count, kept so that no device is ever waited for.
    """

    units: Units
    targets: Tensor
    source: Units | None = None
    rows: tuple[int, ...] = ()
    real_targets: int = field(default=-1)

    def __post_init__(self) -> None:
        if self.targets.shape != self.units.ids.shape:
            raise UserError(f"Batch: targets must be {list(self.units.ids.shape)}, got {list(self.targets.shape)}")
        if self.real_targets < 0:
            object.__setattr__(self, "real_targets", int((self.targets != IGNORE).sum()))

    @property
    def positions(self) -> int:
        """Padded positions of source and units together."""
        return self.units.ids.numel() + (0 if self.source is None else self.source.ids.numel())

    @property
    def longest(self) -> int:
        """Places of a row, of the source or the units."""
        return max(self.units.ids.shape[1], 0 if self.source is None else self.source.ids.shape[1])

    @property
    def padded(self) -> bool:
        return self.units.mask is not None or (self.source is not None and self.source.mask is not None)

    def in_a_row(self) -> "Batch":
        """The same examples without padding: one row, in which each document is a segment of its own."""
        sides = [self.units] if self.source is None else [self.units, self.source]
        rows = torch.arange(len(self.targets), device=self.targets.device).unsqueeze(1)
        packed = [side.segments for side in sides if side.segments is not None]
        if packed:  # a source and its target keep one number
            rows = rows * (1 + max(int(s.max()) for s in packed))
        laid = [s.in_a_row(1 + rows.expand_as(s.ids) + (0 if s.segments is None else s.segments)) for s in sides]
        mask = self.units.mask
        targets = self.targets.view(-1) if mask is None else self.targets[mask]
        source = None if self.source is None else laid[1]
        return replace(self, units=laid[0], targets=targets.unsqueeze(0), source=source)

    def to(self, device: torch.device | str) -> "Batch":
        """The same batch on `device`; from pinned memory the copies do not wait."""
        return replace(
            self,
            units=self.units.to(device),
            targets=self.targets.to(device, non_blocking=True),
            source=None if self.source is None else self.source.to(device),
        )


def _move(tensor: Tensor | None, device: torch.device | str) -> Tensor | None:
    return None if tensor is None else tensor.to(device, non_blocking=True)
