"""What one half of a block needs so that its step of decoding is one compiled loop: its norm, and its matrices.

The loops are in ops._numba_step; which mixers have one, they say themselves (`Mixer.in_one`).
"""

from collections.abc import Iterable
from functools import partial
from typing import cast

import numpy as np
import torch
from torch import Tensor, nn

from jogak.layers.feedforward import ACTIVATIONS, GATED, FeedForward, GatedFeedForward
from jogak.layers.linear import Linear
from jogak.layers.norm import RMSNorm, RMSNormPlusOne
from jogak.layers.quantised import QuantisedLinear
from jogak.ops.activation import NUMBERS
from jogak.ops.quantised import Arrays, Form, Packed

KINDS = {id(function): NUMBERS[name] for name, function in ACTIVATIONS.items() if name in NUMBERS}
KINDS |= {id(function): NUMBERS[cast(partial[Tensor], function).keywords["kind"]] for function in GATED.values()}
# Of norms, whether they leave the mean as it is.
NORMS: dict[type[nn.Module], int] = {nn.LayerNorm: 0, RMSNorm: 1, RMSNormPlusOne: 1}
NOTHING = torch.empty(0)


class NormBefore:
    """What a loop needs of the norm before it."""

    def __init__(self, norm: nn.LayerNorm | RMSNorm | RMSNormPlusOne) -> None:
        self.kind = NORMS[type(norm)]
        bias = norm.bias if isinstance(norm, nn.LayerNorm) else None
        weight, _, added = Arrays().of(Packed(norm.weight, NOTHING), bias)
        self.arrays = (weight, added)
        self.numbers = (float(isinstance(norm, RMSNormPlusOne)), norm.eps)  # what is added to its weight


def norm_before(found: nn.Module | None) -> NormBefore | None:
    """The norm as a loop takes it; None: no loop does."""
    if type(found) not in NORMS:
        return None
    norm = cast(nn.LayerNorm | RMSNorm | RMSNormPlusOne, found)
    return NormBefore(norm) if norm.weight.dtype == torch.float32 and norm.weight.device.type == "cpu" else None


def kind_of_all(linears: Iterable[nn.Module]) -> Form | None:
    """What all of some matrices are kept in, where one loop can read them."""
    linears = list(linears)
    kinds: set[Form | None] = {p.kind if isinstance(p, Linear | QuantisedLinear) else None for p in linears}
    if len(kinds) > 1 or any(type(part) not in (Linear, QuantisedLinear) for part in linears):
        return None
    (kind,) = kinds
    # A plain matrix of bfloat16 takes and gives bfloat16.
    return None if kind == "bfloat16" and isinstance(linears[0], Linear) else kind


class FeedForwardStep:
    """x + feedforward(norm(x))."""

    def __init__(self, module: FeedForward | GatedFeedForward, norm: NormBefore, kind: Form) -> None:
        self.kind: Form = kind
        self.norm = norm
        self.matrices = (cast(Linear, module.inner).arrays(), cast(Linear, module.out).arrays())
        gated = int(isinstance(module, GatedFeedForward))
        self.sizes = (module.inner.in_features, module.inner.out_features // (1 + gated))
        self.kinds = (norm.kind, KINDS[id(module.activation)], gated)

    @classmethod
    def of(cls, module: nn.Module, norm: NormBefore) -> "FeedForwardStep | None":
        if not isinstance(module, FeedForward | GatedFeedForward) or id(module.activation) not in KINDS:
            return None
        kind = kind_of_all((module.inner, module.out))
        return None if kind is None else cls(module, norm, kind)

    def __call__(self, y: Tensor) -> None:
        from jogak.ops import _numba_step

        rows, gated = len(y), self.kinds[2]
        _numba_step.FEEDFORWARD[self.kind](
            torch.get_num_threads(),
            y.view(-1).numpy(),
            np.empty(_numba_step.feedforward_room(rows, *self.sizes, gated), np.float32),
            *self.norm.arrays,
            *self.matrices,
            (rows, *self.sizes),
            self.kinds,
            self.norm.numbers,
        )
