"""Which places of a sequence touch each other, read from an encoder's attention.

Legend: B batch, T time, D model width, N heads of all blocks together.
"""

from typing import Protocol, runtime_checkable

import torch
from torch import Tensor, nn

from jogak.errors import UserError
from jogak.layers.linear import Linear
from jogak.mixers import Context
from jogak.models.block import Block, Stack


@runtime_checkable
class _Weighing(Protocol):
    """A mixer that can say how much each position takes from each other one."""

    heads: int

    def weights(self, x: Tensor, context: Context = ...) -> Tensor:
        """x [B T D] -> [B H T T]."""
        ...


class Contacts(nn.Module):
    """A logistic regression on all blocks' attention, made symmetric and freed of what rows and columns explain.

    p_ij = sigmoid(w . (s_ij - s_i* s_*j / s_**) + b), s = a + a^T, over a [B N T T] without the first and the last
    place and without the id `end`: -> [B T-2 T-2]. Source: Rao et al. 2021, section 3.3 and appendix A.

    Raises: UserError where a block's mixer has no such weights.
    """

    def __init__(self, stack: Stack, end: int) -> None:
        super().__init__()
        mixers = [block.mixer for block in stack.blocks]
        if any(not isinstance(mixer, _Weighing) for mixer in mixers):
            raise UserError("model.contacts_end: contacts are read from attention; give every block such a mixer")
        self.end = end
        self.regression = Linear(sum(m.heads for m in mixers if isinstance(m, _Weighing)), 1)

    def forward(self, weights: Tensor, ids: Tensor, mask: Tensor | None = None) -> Tensor:
        """weights [B N T T] of ids [B T]; mask bool [B T], True = a real place."""
        kept = ids != self.end if mask is None else mask & (ids != self.end)
        pairs = (kept.unsqueeze(1) & kept.unsqueeze(2)).unsqueeze(1)
        a = weights.masked_fill(~pairs, 0)[..., 1:-1, 1:-1]
        s = a + a.mT
        rows, columns, whole = s.sum(-1, keepdim=True), s.sum(-2, keepdim=True), s.sum((-1, -2), keepdim=True)
        free = (s - rows * columns / whole).movedim(1, -1)
        return self.regression(free.to(self.regression.weight.dtype)).squeeze(-1).sigmoid()


def attention_of(stack: Stack, x: Tensor, context: Context) -> Tensor:
    """The weights of every head of every block, [B N T T], for what goes into the stack, x [B T D].

    Raises: UserError for blocks whose mixers do not say them.
    """
    found: list[Tensor] = []
    for block in stack.blocks:
        if not isinstance(block, Block) or not isinstance(block.mixer, _Weighing):
            raise UserError("contacts are read from attention in blocks one part after another; this model has others")
        found.append(block.mixer.weights(block.mixer_residual.inside(x), context))
        x, _ = block(x, None, context)
    return torch.cat(found, dim=1)
