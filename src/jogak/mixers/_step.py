"""Steps of mixers in one compiled loop: x + mixer(norm(x)), by `Mixer.in_one`."""

import math
from typing import TYPE_CHECKING, cast

import numpy as np
import torch
from torch import Tensor

from jogak.layers.linear import Linear
from jogak.layers.step import NOTHING, NormBefore, kind_of_all
from jogak.mixers.contract import State
from jogak.ops.quantised import Form

if TYPE_CHECKING:
    from jogak.mixers.attention import Attention
    from jogak.mixers.mamba import Mamba

LOG2E = math.log2(math.e)


class AttentionStep:
    """x + attention(norm(x))."""

    def __init__(self, mixer: "Attention", norm: NormBefore, kind: Form) -> None:
        self.kind: Form = kind
        self.mixer, self.norm = mixer, norm
        self.matrices = (cast(Linear, mixer.qkv).arrays(), cast(Linear, mixer.out).arrays())
        self.sizes, self.width = (mixer.heads, mixer.groups, mixer.head_dim, mixer.d_model), mixer.d_model
        self.numbers = (*norm.numbers, LOG2E * mixer.sharpen / mixer.head_dim**0.5)

    @classmethod
    def of(cls, mixer: "Attention", norm: NormBefore) -> "AttentionStep | None":
        plain = mixer.window is None and mixer.score_bias is None and mixer.softcap is None and mixer.q_norm is None
        kind = kind_of_all((mixer.qkv, mixer.out))
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


class MambaStep:
    """x + mamba(norm(x))."""

    def __init__(self, mixer: "Mamba", norm: NormBefore, kind: Form) -> None:
        self.kind: Form = kind
        self.norm = norm
        self.matrices = tuple(cast(Linear, part).arrays() for part in (mixer.inner, mixer.select, mixer.out))
        self.width = mixer.d_model
        self.sizes = (mixer.d_model, mixer.width, mixer.sizes[1], mixer.taps, mixer.sizes[0])
        with torch.no_grad():
            taps, rate = mixer.conv_weight.t(), -LOG2E * mixer.a_log.exp().t()
            bias = NOTHING if mixer.conv_bias is None else mixer.conv_bias
            own = (taps, bias, mixer.dt_weight, mixer.dt_bias, rate, mixer.d)
            self.own = tuple(t.detach().contiguous().view(-1).numpy() for t in own)

    @classmethod
    def of(cls, mixer: "Mamba", norm: NormBefore) -> "MambaStep | None":
        if mixer.norms is not None or mixer.backend != "auto":
            return None
        kind = kind_of_all((mixer.inner, mixer.select, mixer.out))
        own = list(mixer._parameters.values())
        # The loop reads copies of some, laid out otherwise: a change that is not counted would not be seen.
        whole = all(t is None or (t.dtype == torch.float32 and not t.is_inference()) for t in own)
        return cls(mixer, norm, kind) if kind is not None and whole else None

    def serves(self, x: Tensor, state: State) -> bool:
        if state.owner != "Mamba":
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
