"""Counting positions: padding takes none, and each packed document starts again at zero.

Legend: B batch, T time.
"""

import torch
from torch import Tensor


def count(
    shape: tuple[int, int],
    device: torch.device,
    *,
    mask: Tensor | None = None,
    segments: Tensor | None = None,
    before: Tensor | int = 0,
    last_segment: Tensor | None = None,
) -> Tensor:
    """The position of each place among the real places of its document: int64 [B T], or [1 T] where all rows agree.

    p_t = (real places up to t) - 1 - (real places before the document's start).

    mask: bool [B T], True = real. segments: int64 [B T]. before: how many real positions the current document had
    before this call, int or [B]. last_segment: [B], the document that the call before ended in; without it, a
    document starts at the first place unless `before` says otherwise. Padded places get a number without meaning.
    """
    batch, length = shape
    if mask is None and segments is None:
        steps = torch.arange(length, device=device).unsqueeze(0)
        return steps + (before if isinstance(before, int) else before.unsqueeze(1))
    real = torch.ones(shape, dtype=torch.int64, device=device) if mask is None else mask.long()
    index = real.cumsum(1) - real  # real places before each place
    carried = torch.as_tensor(before, device=device, dtype=torch.int64).expand(batch)
    if segments is None:
        return index + carried.unsqueeze(1)
    first = segments[:, :1] if last_segment is None else last_segment.unsqueeze(1)
    starts = segments != torch.cat([first, segments[:, :-1]], dim=1)
    # the index at which the current document started: the largest so far, since index never falls
    origin = torch.where(starts, index, -carried.unsqueeze(1)).cummax(1).values
    return index - origin
