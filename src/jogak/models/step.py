"""A block's step of decoding in one or two compiled loops, where the block is made of what the loops know.

That is attention over all positions before, or Mamba, and a feedforward, each behind a norm, in float32 on a CPU for a
few rows without padding. Everything else goes module by module. What a step costs beside reading the weights is the
calling of some thirty operations a block; here it is one for each half of the block.
"""

from collections.abc import Iterable, Sequence
from functools import cache
from typing import Any, cast

import numpy as np
import torch
from torch import Tensor, nn

from jogak.layers.feedforward import ACTIVATIONS, GATED, FeedForward, GatedFeedForward
from jogak.layers.linear import Linear
from jogak.layers.norm import RMSNorm, RMSNormPlusOne
from jogak.layers.quantised import QuantisedLinear
from jogak.mixers import Context, Mixer, State
from jogak.mixers.attention import Attention
from jogak.mixers.mamba import Mamba
from jogak.ops import quantised
from jogak.ops._compiled import AVAILABLE
from jogak.ops.quantised import Arrays, Form, Packed

LEAST = 1 << 19  # numbers of a block's matrices: with fewer nobody writes so much that numba's import is worth it
LOG2E = 1.4426950408889634
NAMES = {"silu": 0, "gelu_tanh": 1, "gelu": 2, "relu": 3, "swiglu": 0, "geglu_tanh": 1, "geglu": 2, "reglu": 3}
KINDS = {id(function): NAMES[name] for name, function in {**ACTIVATIONS, **GATED}.items() if name in NAMES}
# Of norms, whether they leave the mean as it is.
NORMS: dict[type[nn.Module], int] = {nn.LayerNorm: 0, RMSNorm: 1, RMSNormPlusOne: 1}
NOTHING = torch.empty(0)


class _Norm:
    """What a loop needs of the norm before it."""

    def __init__(self, norm: nn.LayerNorm | RMSNorm | RMSNormPlusOne) -> None:
        self.kind = NORMS[type(norm)]
        bias = norm.bias if isinstance(norm, nn.LayerNorm) else None
        weight, _, added = Arrays().of(Packed(norm.weight, NOTHING), bias)
        self.arrays = (weight, added)
        self.numbers = (float(isinstance(norm, RMSNormPlusOne)), norm.eps)  # what is added to its weight


def _norm(residual: nn.Module) -> _Norm | None:
    found = getattr(residual, "norm", None)
    if type(found) not in NORMS:
        return None
    norm = cast(nn.LayerNorm | RMSNorm | RMSNormPlusOne, found)
    return _Norm(norm) if norm.weight.dtype == torch.float32 and norm.weight.device.type == "cpu" else None


def _kind(linears: Iterable[nn.Module]) -> Form | None:
    """What all of some matrices are kept in, where one loop can read them."""
    linears = list(linears)
    kinds: set[Form | None] = {p.kind if isinstance(p, Linear | QuantisedLinear) else None for p in linears}
    if len(kinds) > 1 or any(type(part) not in (Linear, QuantisedLinear) for part in linears):
        return None
    (kind,) = kinds
    # A plain matrix of bfloat16 takes and gives bfloat16.
    return None if kind == "bfloat16" and isinstance(linears[0], Linear) else kind


class _Attention:
    """x + attention(norm(x))."""

    def __init__(self, mixer: Attention, norm: _Norm, kind: Form) -> None:
        self.kind: Form = kind
        self.mixer, self.norm = mixer, norm
        self.matrices = (cast(Linear, mixer.qkv).arrays(), cast(Linear, mixer.out).arrays())
        self.sizes, self.width = (mixer.heads, mixer.groups, mixer.head_dim, mixer.d_model), mixer.d_model
        self.numbers = (*norm.numbers, LOG2E * mixer.sharpen / mixer.head_dim**0.5)

    @classmethod
    def of(cls, mixer: Mixer, norm: _Norm) -> "_Attention | None":
        if type(mixer) is not Attention:
            return None
        plain = mixer.window is None and mixer.score_bias is None and mixer.softcap is None and mixer.q_norm is None
        kind = _kind((mixer.qkv, mixer.out))
        if not mixer.causal or not plain or mixer.backend != "auto" or mixer.head_dim % 16 or kind is None:
            return None
        return cls(mixer, norm, kind)

    def serves(self, x: Tensor, state: State) -> bool:
        if "k" not in state or "mask" in state or state.owner != "Attention":
            return False
        k = state["k"]
        return k.shape[0] == x.shape[0] and k.dtype == torch.float32

    def __call__(self, y: Tensor, state: State) -> State:
        """Add to y [M 1 D], and give the state after it."""
        from jogak.ops import _numba_step

        after = state.extend(state.seen + 1, 1, "k", "v")
        (k, room, begin), (v, _, _) = after.memory("k"), after.memory("v")
        rotary, rows = self.mixer.rotary, len(y)
        cos, sin = (NOTHING, NOTHING) if rotary is None else rotary.counted(y, state.seen)
        _numba_step.ATTENTION[self.kind](
            torch.get_num_threads(),
            y.view(-1).numpy(),
            np.empty(_numba_step.attention_room(rows, *self.sizes), np.float32),
            k,
            v,
            cos.view(-1).numpy(),
            sin.view(-1).numpy(),
            *self.norm.arrays,
            *self.matrices,
            (rows, *self.sizes, begin, after["k"].shape[1], room),
            self.norm.kind,
            self.numbers,
        )
        return after


class _Mamba:
    """x + mamba(norm(x))."""

    def __init__(self, mixer: Mamba, norm: _Norm, kind: Form) -> None:
        self.kind: Form = kind
        self.norm = norm
        self.matrices = tuple(cast(Linear, part).arrays() for part in (mixer.inner, mixer.select, mixer.out))
        self.width = mixer.d_model
        self.sizes = (mixer.d_model, mixer.width, mixer.sizes[1], mixer.taps, mixer.sizes[0])
        with torch.no_grad():  # these two are copies, which is why changes to what they are made of must be seen
            taps, rate = mixer.conv_weight.t().contiguous(), (-LOG2E * mixer.a_log.exp()).t().contiguous()
            self.changes = [(t, t._version) for t in (mixer.conv_weight, mixer.a_log)]
            bias = NOTHING if mixer.conv_bias is None else mixer.conv_bias
            own = (taps, bias, mixer.dt_weight, mixer.dt_bias, rate, mixer.d)
            self.own = tuple(t.detach().contiguous().view(-1).numpy() for t in own)

    @classmethod
    def of(cls, mixer: Mixer, norm: _Norm) -> "_Mamba | None":
        if type(mixer) is not Mamba or mixer.norms is not None or mixer.backend != "auto":
            return None
        kind = _kind((mixer.inner, mixer.select, mixer.out))
        own = list(mixer._parameters.values())
        whole = all(t is None or (t.dtype == torch.float32 and t.is_contiguous() and not t.is_inference()) for t in own)
        return cls(mixer, norm, kind) if kind is not None and whole else None

    def serves(self, x: Tensor, state: State) -> bool:
        if state.owner != "Mamba" or any(tensor._version != version for tensor, version in self.changes):
            return False
        past, h = state["conv"], state["scan"]
        return past.shape[0] == x.shape[0] == h.shape[0] and past.dtype == h.dtype == torch.float32

    def __call__(self, y: Tensor, state: State) -> State:
        from jogak.ops import _numba_step

        past, h = state["conv"].contiguous(), state["scan"].contiguous()
        held = {"conv": torch.empty_like(past), "scan": torch.empty_like(h), "segment": state["segment"]}
        rows = len(y)
        _numba_step.MAMBA[self.kind](
            torch.get_num_threads(),
            y.view(-1).numpy(),
            np.empty(_numba_step.mamba_room(rows, *self.sizes), np.float32),
            *(t.view(-1).numpy() for t in (past, held["conv"], h, held["scan"])),
            *self.norm.arrays,
            self.matrices,
            self.own,
            (rows, *self.sizes),
            self.norm.kind,
            self.norm.numbers,
        )
        return State(held, seen=state.seen + 1, owner="Mamba")


class _FeedForward:
    """x + feedforward(norm(x))."""

    def __init__(self, module: FeedForward | GatedFeedForward, norm: _Norm, kind: Form) -> None:
        self.kind: Form = kind
        self.norm = norm
        self.matrices = (cast(Linear, module.inner).arrays(), cast(Linear, module.out).arrays())
        gated = int(isinstance(module, GatedFeedForward))
        self.sizes = (module.inner.in_features, module.inner.out_features // (1 + gated))
        self.kinds = (norm.kind, KINDS[id(module.activation)], gated)

    @classmethod
    def of(cls, module: nn.Module, norm: _Norm) -> "_FeedForward | None":
        if not isinstance(module, FeedForward | GatedFeedForward) or id(module.activation) not in KINDS:
            return None
        kind = _kind((module.inner, module.out))
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
        self._parts: tuple[nn.Module, ...] = ()
        self._kept = _Kept(())
        self._mixer: _Attention | _Mamba | None = None
        self._feedforward: _FeedForward | None = None

    def __deepcopy__(self, memo: dict[int, Any]) -> "Step":
        return Step()

    def __reduce__(self) -> tuple[type["Step"], tuple[()]]:
        return Step, ()

    @property
    def knows(self) -> bool:
        """Whether the block that it was last asked for is made of what the loops know."""
        return self._mixer is not None

    def __call__(
        self, parts: tuple[nn.Module, ...], x: Tensor, state: State, context: Context
    ) -> tuple[Tensor, State] | None:
        """x [B 1 D] after the block, and the mixer's state; None where it must go module by module.

        parts: the mixer and what is before it (`PreNorm`), then the feedforward and what is before that, if there is
        one; in evaluation mode.
        """
        if parts != self._parts or not self._kept.here():
            self._look(parts)
        mixer = self._mixer
        if mixer is None or not _plain(x, mixer.kind, context) or self._kept.watched():
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
        norms = [_norm(residual) for residual in parts[1::2]]
        linears = [part for part in self._kept.modules if isinstance(part, Linear | QuantisedLinear)]
        numbers = sum(part.in_features * part.out_features for part in linears)
        if None in norms or numbers < LEAST or not _threads_found():
            return
        if len(parts) > 2:
            self._feedforward = _FeedForward.of(parts[2], cast(_Norm, norms[1]))
            if self._feedforward is None:
                return
        self._mixer = _Attention.of(mixer, cast(_Norm, norms[0])) or _Mamba.of(mixer, cast(_Norm, norms[0]))


@cache
def _threads_found() -> bool:
    if not AVAILABLE:
        return False
    from jogak.ops import _threads

    return _threads.found()


def _plain(x: Tensor, kind: Form, context: Context) -> bool:
    """Whether x is of a few rows in float32 of which nothing is told, and nobody computes otherwise."""
    told = context.mask is not None or context.positions is not None or context.segments is not None
    plain = x.dim() == 3 and x.dtype == torch.float32 and not told and not torch.is_autocast_enabled("cpu")
    return plain and quantised.fuses(x, kind)
