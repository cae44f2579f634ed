"""A block's step of decoding in one or two compiled loops, where the block is made of what the loops know.

That is a mixer that has a loop (attention over all positions before, Mamba) and a feedforward, each behind a norm, in
float32 on a CPU for a few rows without padding. Everything else goes module by module. What a step costs beside reading
the weights is the calling of some thirty operations a block; here it is one for each half of the block.
"""

from collections.abc import Sequence
from functools import cache
from typing import Any, cast

import torch
from torch import Tensor, nn

from jogak.layers.linear import Linear
from jogak.layers.quantised import QuantisedLinear
from jogak.layers.step import FeedForwardStep, NormBefore, norm_before
from jogak.mixers import Context, InOne, Mixer, State
from jogak.ops import quantised
from jogak.ops._compiled import AVAILABLE

LEAST = 1 << 19  # numbers of a block's matrices: with fewer nobody writes so much that numba's import is worth it


class _Kept:
    """Modules and tensors that were found at their places, and whether they are still there."""

    def __init__(self, modules: Sequence[nn.Module]) -> None:
        self.children = [(m._modules, n, c) for m in modules for n, c in m._modules.items() if c is not None]
        inside = {id(m): m for m in [*modules, *(child for _, _, child in self.children)]}
        self.modules = list(inside.values())
        owned = [d for m in self.modules for d in (m._parameters, m._buffers)]
        self.tensors = [(d, n, _mark(t)) for d in owned for n, t in d.items()]

    def here(self) -> bool:
        """Nothing has been replaced, moved or changed."""
        for owner, name, child in self.children:
            if owner.get(name) is not child:
                return False
        for owner, name, mark in self.tensors:  # noqa: SIM110 (as below)
            if mark != _mark(owner.get(name)):
                return False
        return True

    def watched(self) -> bool:
        """Whether anyone wants to be told of what goes in or out."""
        for m in self.modules:  # noqa: SIM110 (a generator takes longer, and every block asks at every step)
            if m._forward_hooks or m._forward_pre_hooks:
                return True
        return False


def _mark(tensor: Tensor | None) -> tuple[int, int]:
    """Where a tensor lies, and how often it was changed in place, which inference tensors do not count."""
    return (0, 0) if tensor is None else (tensor.data_ptr(), 0 if tensor.is_inference() else tensor._version)


class Step:
    """The step of one block; it finds out what the block is made of when that is new."""

    def __init__(self) -> None:
        self._parts: tuple[nn.Module, ...] = ()
        self._kept = _Kept(())
        self._mixer: InOne | None = None
        self._feedforward: FeedForwardStep | None = None

    def __deepcopy__(self, memo: dict[int, Any]) -> "Step":
        return Step()

    def __reduce__(self) -> tuple[type["Step"], tuple[()]]:
        return Step, ()

    def __call__(
        self, parts: tuple[nn.Module, ...], x: Tensor, state: State, context: Context
    ) -> tuple[Tensor, State] | None:
        """x [B 1 D] after the block, and the mixer's state; None where it must go module by module.

        parts: the mixer and what is before it (`PreNorm`), then the feedforward and what is before that, if there is
        one; in evaluation mode.
        """
        if not _plain(x, context):  # before anything is asked of tensors that may have no memory
            return None
        if parts != self._parts or not self._kept.here():
            self._look(parts)
        mixer = self._mixer
        if mixer is None or not quantised.fuses(x, mixer.kind) or self._kept.watched():
            return None
        if x.shape[2] != mixer.width or not mixer.serves(x, state):
            return None
        y = x.clone(memory_format=torch.contiguous_format)
        after = mixer(y, state)
        if self._feedforward is not None:
            self._feedforward(y)
        return y, after

    def _look(self, parts: tuple[nn.Module, ...]) -> None:
        mixer = cast(Mixer, parts[0])
        self._parts, self._kept = parts, _Kept(parts)
        self._mixer, self._feedforward = None, None
        norms = [norm_before(cast(nn.Module | None, getattr(before, "norm", None))) for before in parts[1::2]]
        linears = [part for part in self._kept.modules if isinstance(part, Linear | QuantisedLinear)]
        numbers = sum(part.in_features * part.out_features for part in linears)
        if None in norms or numbers < LEAST or not _threads_found():
            return
        if len(parts) > 2:
            self._feedforward = FeedForwardStep.of(parts[2], cast(NormBefore, norms[1]))
            if self._feedforward is None:
                return
        self._mixer = mixer.in_one(cast(NormBefore, norms[0]))


@cache
def _threads_found() -> bool:
    if not AVAILABLE:
        return False
    from jogak.ops import _threads

    return _threads.found()


def _plain(x: Tensor, context: Context) -> bool:
    """Whether x is in float32, nothing is told of it, and nobody computes otherwise."""
    told = context.mask is not None or context.positions is not None or context.segments is not None
    plain = x.dim() == 3 and x.dtype == torch.float32 and not told and not torch.is_autocast_enabled("cpu")
    return plain and quantised.free(x)
