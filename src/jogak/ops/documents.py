"""Where a recurrent mixer's positions really are: padding taken out of its way, and the bounds of packed documents.

Every mixer that carries a state reads its input in two steps: `Documents` moves the real places to the front of
rows, and the recurrence runs over rows whose padding, if any, stands behind their end. `in_place` keeps one row for
each row of the batch and says where a document starts; `apart` gives every document a row of its own.

Legend: B batch, T time, N rows (B, or as many as there are documents), L length of the rows.
"""

from dataclasses import dataclass

import torch
from torch import Tensor


@dataclass(frozen=True, eq=False)
class Documents:
    """How the places [B T] of a call are laid out in rows [N L]; what is None needs nothing done.

    lengths: int64 [N], real places of each row; None: all L. starts: bool [N L], True where a document begins that
    the places before it, and the state, do not belong to; None: nowhere. segment: int64 [B], the document that is
    open afterwards.
    """

    shape: tuple[int, int]  # B, T
    segment: Tensor
    lengths: Tensor | None = None
    starts: Tensor | None = None
    _source: Tensor | None = None  # int64 [N L]: the place b T + t that stands there
    _target: Tensor | None = None  # int64 [B T]: the place n L + l where it stands
    _real: Tensor | None = None  # bool [N L]
    _mask: Tensor | None = None  # bool [B T]
    _owner: Tensor | None = None  # int64 [N]: the row of the batch; only where documents are apart
    _goes_on: Tensor | None = None  # bool [N]: whether the row's document began before this call
    _last: Tensor | None = None  # int64 [B]: the row of the document that is open afterwards

    @classmethod
    def in_place(
        cls, shape: tuple[int, int], mask: Tensor | None, segments: Tensor | None, open_: Tensor
    ) -> "Documents":
        """Rows of the batch, real places first; mask, segments [B T] as in a Context, open_ [B] the open document."""
        if mask is None:
            if segments is None:
                return cls(shape, open_)
            return cls(shape, segments[:, -1], starts=_starts(segments, open_))
        source, target, lengths = _compact(mask)
        real = torch.arange(shape[1], device=mask.device) < lengths.unsqueeze(1)
        starts, segment = None, open_
        if segments is not None:
            moved = segments.flatten()[source]
            starts = _starts(moved, open_) & real
            end = moved.gather(1, (lengths - 1).clamp_min(0).unsqueeze(1)).squeeze(1)
            segment = end.where(lengths > 0, open_)
        return cls(shape, segment, lengths, starts, source, target, real, mask)

    @classmethod
    def apart(cls, shape: tuple[int, int], mask: Tensor | None, segments: Tensor | None, open_: Tensor) -> "Documents":
        """One row a document, with the open document of each row of the batch first, of no length where it ended.

        How many rows that are is known from the numbers alone, so that compile and export cannot follow it; without
        segments it is `in_place`.
        """
        flat = cls.in_place(shape, mask, segments, open_)
        if flat.starts is None:
            return flat
        batch, time = shape
        device = flat.starts.device
        counted = flat.starts.long().cumsum(1)  # which document of its row a place belongs to: 0 is the open one
        rows = counted[:, -1] + 1
        first_row = rows.cumsum(0) - rows
        row = counted + first_row.unsqueeze(1)
        at = torch.arange(time, device=device).expand(batch, time)
        begin = torch.where(flat.starts, at, 0).cummax(1).values
        place = at - begin
        real = torch.ones_like(flat.starts) if flat._real is None else flat._real
        count = int(rows.sum())
        lengths = torch.zeros(count, dtype=torch.int64, device=device).index_add_(0, row[real], real[real].long())
        length = max(1, int(lengths.max()))
        target = row * length + place
        origin = torch.arange(batch * time, device=device).view(batch, time) if flat._source is None else flat._source
        source = torch.zeros(count * length, dtype=torch.int64, device=device)
        source[target[real]] = origin[real]
        inverse = torch.zeros(batch * time, dtype=torch.int64, device=device)
        inverse[origin[real]] = target[real]
        owner = torch.repeat_interleave(torch.arange(batch, device=device), rows)
        return cls(
            shape,
            flat.segment,
            lengths,
            None,
            source.view(count, length),
            inverse.view(batch, time),
            torch.arange(length, device=device) < lengths.unsqueeze(1),
            torch.ones(shape, dtype=torch.bool, device=device) if mask is None else mask,
            owner,
            torch.zeros(count, dtype=torch.bool, device=device).index_fill_(0, first_row, True),
            first_row + rows - 1,
        )

    @property
    def real(self) -> Tensor | None:
        """bool [N L], True = a real place; None: all of them."""
        return self._real

    def take(self, x: Tensor) -> Tensor:
        """x [B T ...] laid out in rows [N L ...], zeros where nothing stands, whatever the padding held."""
        if self._source is None or self._real is None:
            return x
        return x.flatten(0, 1)[self._source].masked_fill(~_like(self._real, x), 0)

    def put(self, y: Tensor) -> Tensor:
        """The inverse of `take`: y [N L ...] back in its places [B T ...], zeros in padded ones."""
        if self._target is None or self._mask is None:
            return y
        return y.flatten(0, 1)[self._target].masked_fill(~_like(self._mask, y), 0)

    def count(self, before: Tensor) -> tuple[Tensor, Tensor]:
        """The position of each place in its document [N L], and how many the open document has afterwards [B].

        before: int64 [B], positions of the open document before this call. Only for documents in place.
        """
        step = torch.arange(self.shape[1], device=before.device).unsqueeze(0)
        before = before.unsqueeze(1)
        origin = -before if self.starts is None else torch.where(self.starts, step, -before).cummax(1).values
        at = step - origin
        if self.lengths is None:
            return at, at[:, -1] + 1
        last = at.gather(1, (self.lengths - 1).clamp_min(0).unsqueeze(1)) + 1
        return at, last.where(self.lengths.unsqueeze(1) > 0, before).squeeze(1)

    def begin(self, held: Tensor, fresh: Tensor | float = 0.0) -> Tensor:
        """What each row starts with [N ...]: its row's `held` [B ...] where its document goes on, else `fresh`."""
        if self._owner is None or self._goes_on is None:
            return held
        mine = held[self._owner]
        new = torch.as_tensor(fresh, dtype=held.dtype, device=held.device).expand_as(mine)
        return torch.where(_like(self._goes_on, mine), mine, new)

    def end(self, left: Tensor) -> Tensor:
        """What each row of the batch goes on with [B ...]: what its open document left behind, of left [N ...]."""
        return left if self._last is None else left[self._last]


def _starts(segments: Tensor, open_: Tensor) -> Tensor:
    """bool [B T]: a place whose document is not that of the place before it."""
    return segments != torch.cat([open_.unsqueeze(1), segments[:, :-1]], dim=1)


def _compact(mask: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """The places b T + t, real ones first [B T]; where each of them went [B T]; how many are real [B]."""
    batch, time = mask.shape
    row = torch.arange(batch, device=mask.device).unsqueeze(1) * time
    order = (~mask).to(torch.int8).argsort(dim=1, stable=True)
    return order + row, mask.long().cumsum(1).sub(1).clamp_min(0) + row, mask.sum(1)


def _like(mask: Tensor, x: Tensor) -> Tensor:
    """mask with dimensions of 1 behind its own, as many as x has."""
    return mask.view(*mask.shape, *[1] * (x.dim() - mask.dim()))
