"""A block's step of decoding in one compiled loop, where the block is made of what the loop knows.

That is attention over all positions before and a feedforward, each behind a norm, in float32 on a CPU for a few rows
without padding. Everything else goes module by module. What a step costs beside reading the weights is the calling
of some thirty operations a block; here it is one.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache
from typing import Any, cast

import numpy as np
import torch
from torch import Tensor, nn

from jogak.layers.feedforward import ACTIVATIONS, GATED, FeedForward, GatedFeedForward
from jogak.layers.linear import Linear
from jogak.layers.norm import RMSNorm, RMSNormPlusOne
from jogak.layers.quantised import QuantisedLinear
from jogak.mixers import Context, State
from jogak.mixers.attention import Attention
from jogak.ops import quantised
from jogak.ops._compiled import AVAILABLE
from jogak.ops.quantised import Arrays, Form, Packed

LEAST = 1 << 19  # numbers of a block's matrices: with fewer nobody writes so much that numba's import is worth it
LOG2E = 1.4426950408889634
NAMES = {"silu": 0, "gelu_tanh": 1, "gelu": 2, "relu": 3, "swiglu": 0, "geglu_tanh": 1, "geglu": 2, "reglu": 3}
KINDS = {id(function): NAMES[name] for name, function in {**ACTIVATIONS, **GATED}.items() if name in NAMES}
Normed = nn.LayerNorm | RMSNorm | RMSNormPlusOne
# Of norms, whether they leave the mean as it is.
NORMS: dict[type[nn.Module], int] = {nn.LayerNorm: 0, RMSNorm: 1, RMSNormPlusOne: 1}
NOTHING = torch.empty(0)


@dataclass(frozen=True)
class _Form:
    """What a block is made of."""

    kind: Form
    mixer: Attention
    norms: tuple[Normed, ...]
    linears: tuple[Linear | QuantisedLinear, ...]  # of queries, keys and values; of the output; of the feedforward
    kinds: tuple[int, int, int, int]  # norm, activation, whether it is gated, inner width
    numbers: tuple[float, ...]  # scale of scores, what is added to a norm's weight, eps of both norms


class _Kept:
    """Modules and tensors that were found at their places, and whether they are still there."""

    def __init__(self, modules: Sequence[nn.Module]) -> None:
        self.children = [(m._modules, n, c) for m in modules for n, c in m._modules.items() if c is not None]
        inside = {id(m): m for m in [*modules, *(child for _, _, child in self.children)]}
        self.modules = list(inside.values())
        owned = [d for m in self.modules for d in (m._parameters, m._buffers)]
        self.tensors = [(d, n, 0 if t is None else t.data_ptr()) for d in owned for n, t in d.items()]

    def here(self) -> bool:
        """Nothing has been replaced or moved."""
        for owner, name, child in self.children:
            if owner.get(name) is not child:
                return False
        for owner, name, place in self.tensors:
            tensor = owner.get(name)
            if place != (0 if tensor is None else tensor.data_ptr()):
                return False
        return True

    def watched(self) -> bool:
        """Whether anyone wants to be told of what goes in or out."""
        for m in self.modules:  # noqa: SIM110 (a generator takes longer, and every block asks at every step)
            if m._forward_hooks or m._forward_pre_hooks:
                return True
        return False


class Step:
    """The step of one block; it finds out what the block is made of when that is new."""

    def __init__(self) -> None:
        self._parts: tuple[nn.Module | None, ...] = ()
        self._kept = _Kept(())
        self._form: _Form | None = None
        self._read: tuple[Any, ...] = ()  # what the loop reads of norms and linears

    def __deepcopy__(self, memo: dict[int, Any]) -> "Step":
        return Step()

    def __reduce__(self) -> tuple[type["Step"], tuple[()]]:
        return Step, ()

    def __call__(
        self, parts: tuple[nn.Module | None, ...], x: Tensor, state: State, context: Context
    ) -> tuple[Tensor, State] | None:
        """x [B 1 D] after the block, and the mixer's state; None where it must go module by module.

        parts: the mixer, the feedforward, and what is before each of them (`PreNorm`), in evaluation mode.
        """
        if parts != self._parts or not self._kept.here():
            self._look(parts)
        form = self._form
        if form is None or not _serves(form, x, state, context) or self._kept.watched():
            return None
        after = state.extend(state.seen + 1, 1, "k", "v")
        return _run(form, self._read, x, state.seen, after), after

    def _look(self, parts: tuple[nn.Module | None, ...]) -> None:
        self._parts, self._form = parts, _form(*parts)
        self._kept = _Kept([part for part in parts if part is not None])
        if self._form is not None:
            given = [(n.weight, n.bias if isinstance(n, nn.LayerNorm) else None) for n in self._form.norms]
            norms = [Arrays().of(Packed(weight, NOTHING), bias) for weight, bias in given]
            linears = (linear.arrays() for linear in self._form.linears)
            self._read = ((norms[0][0], norms[0][2], norms[1][0], norms[1][2]), *linears)


def _form(
    mixer: nn.Module | None, feedforward: nn.Module | None, first: nn.Module | None, second: nn.Module | None
) -> _Form | None:
    """What the block is made of, where the loop knows all of it."""
    if type(mixer) is not Attention or not isinstance(feedforward, FeedForward | GatedFeedForward):
        return None
    plain = mixer.window is None and mixer.score_bias is None and mixer.softcap is None and mixer.q_norm is None
    if not mixer.causal or not plain or mixer.backend != "auto" or mixer.head_dim % 16:
        return None
    linears = (mixer.qkv, mixer.out, feedforward.inner, feedforward.out)
    norms = tuple(cast(Normed, getattr(residual, "norm", None)) for residual in (first, second))
    activation = KINDS.get(id(feedforward.activation))
    kinds = {linear.kind if type(linear) in (Linear, QuantisedLinear) else None for linear in linears}
    if activation is None or len(kinds) > 1 or None in kinds or any(type(norm) not in NORMS for norm in norms):
        return None
    (kind,) = cast(set[Form], kinds)
    narrow = kind == "bfloat16" and type(mixer.qkv) is Linear  # which takes and gives bfloat16
    numbers = sum(linear.in_features * linear.out_features for linear in linears)
    whole = all(norm.weight.dtype == torch.float32 and norm.weight.device.type == "cpu" for norm in norms)
    if narrow or numbers < LEAST or not whole or type(norms[0]) is not type(norms[1]) or not _threads_found():
        return None
    gated = isinstance(feedforward, GatedFeedForward)
    return _Form(
        kind,
        mixer,
        norms,
        linears,
        (NORMS[type(norms[0])], activation, int(gated), feedforward.inner.out_features // (1 + gated)),
        (
            LOG2E * mixer.sharpen / mixer.head_dim**0.5,
            float(isinstance(norms[0], RMSNormPlusOne)),
            *(norm.eps for norm in norms),
        ),
    )


@cache
def _threads_found() -> bool:
    from jogak.ops import _threads

    return AVAILABLE and _threads.found()


def _serves(form: _Form, x: Tensor, state: State, context: Context) -> bool:
    """Whether the loop can take this step."""
    told = context.mask is not None or context.positions is not None or context.segments is not None
    if told or "k" not in state or "mask" in state or state.owner != "Attention":
        return False
    k = state["k"]
    fits = x.dim() == 3 and x.shape[2] == form.mixer.d_model and k.shape[0] == x.shape[0]
    if not fits or x.dtype != torch.float32 or k.dtype != torch.float32:
        return False
    return quantised.fuses(x, form.kind) and not torch.is_autocast_enabled("cpu")


def _run(form: _Form, read: tuple[Any, ...], x: Tensor, position: int, state: State) -> Tensor:
    """The block's output for the position; the state has room at its end, which is filled."""
    from jogak.ops import _numba_step

    mixer = form.mixer
    (k, room, begin), (v, _, _) = state.memory("k"), state.memory("v")
    y = x.clone(memory_format=torch.contiguous_format)
    cos, sin = (NOTHING, NOTHING) if mixer.rotary is None else mixer.rotary.counted(x, position)
    sizes = (len(x), mixer.heads, mixer.groups, mixer.head_dim, mixer.d_model)
    scratch = np.empty(_numba_step.space(*sizes, *form.kinds[2:]), np.float32)
    angles = (cos.view(-1).numpy(), sin.view(-1).numpy())
    places = (begin, state["k"].shape[1], room)
    _numba_step.KERNELS[form.kind](
        torch.get_num_threads(),
        y.view(-1).numpy(),
        scratch,
        k,
        v,
        *angles,
        *read,
        (*sizes, *places),
        form.kinds,
        form.numbers,
    )
    return y
