"""Hidden units in an embedding: zero, and what is left scaled up as in dropout.

Legend: B batch, T time, D model width.
"""

import torch
from torch import Tensor, nn

TRAINED = 0.15 * 0.8  # the share of hidden units in training: 15 % are chosen, and 80 % of those are hidden


class HiddenAsZero(nn.Module):
    """x * (1 - 0.12) / (1 - share of hidden units in the sequence), hidden units zero: x [B T D] -> [B T D].

    hidden: the id of what stands for a hidden unit. A sequence without any is scaled too, by 1 - 0.12.
    Source: Lin et al. 2023 (ESM-2), its published code ("token dropout"); Rives et al. 2021 (ESM-1b).
    """

    def __init__(self, hidden: int) -> None:
        super().__init__()
        self.hidden = hidden

    def forward(self, x: Tensor, ids: Tensor, mask: Tensor | None = None, segments: Tensor | None = None) -> Tensor:
        """ids, segments int64 [B T], mask bool [B T]: the share is counted over real places, of one document each."""
        real = torch.ones_like(ids, dtype=torch.bool) if mask is None else mask
        hidden = ids == self.hidden
        left = real & ~hidden
        if segments is None:
            every, seen = (t.sum(1, keepdim=True).float() for t in (real, left))
        else:
            same = (segments.unsqueeze(2) == segments.unsqueeze(1)).float()
            every, seen = ((same @ t.float().unsqueeze(2)).squeeze(2) for t in (real, left))
        # Where all are hidden, all are zero, whatever they are scaled by.
        scale = (1 - TRAINED) * every / seen.clamp_min(1)
        wide = torch.promote_types(x.dtype, torch.float32)
        return (x.masked_fill(hidden.unsqueeze(2), 0).to(wide) * scale.unsqueeze(2)).to(x.dtype)
