"""Multi-head attention over the sequence itself (Attention) or over a memory (CrossAttention).

Source: Vaswani et al. 2017 (1706.03762) section 3.2. Legend: B batch, T time, S keys, D model width, H query heads,
G key/value heads, K head width, M rows of memory.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor

from jogak.errors import UserError, nearest
from jogak.layers.linear import Linear
from jogak.layers.norm import Norm, build_norm
from jogak.layers.position import Alibi, Rotary, T5Bias
from jogak.layers.step import NormBefore
from jogak.mixers import _memory
from jogak.mixers._step import AttentionStep
from jogak.mixers.contract import EMPTY, Context, Mixer, State, silence
from jogak.ops import positions as counting
from jogak.ops.attention import ALL, FORMS, Visible, in_a_row, weights
from jogak.ops.rotary import auto as turn

Position = Literal["none", "rotary", "alibi", "t5"]


def _head_sizes(name: str, d_model: int, heads: int, kv_heads: int | None, head_dim: int | None) -> tuple[int, int]:
    groups = heads if kv_heads is None else kv_heads
    if heads < 1 or groups < 1 or heads % groups:
        raise UserError(f"{name}: heads ({heads}) must be a multiple of kv_heads ({groups}), both at least 1")
    if head_dim is None and d_model % heads:
        raise UserError(f"{name}: d_model ({d_model}) must be a multiple of heads ({heads}), or give head_dim")
    return groups, head_dim or d_model // heads


def _sharpen(name: str, scale: float | None, head_dim: int) -> float:
    """What queries are multiplied by so that scores of 1 / sqrt(K) become scores of `scale`."""
    if scale is not None and not scale > 0:
        raise UserError(f"{name}: scale must be above 0, got {scale}")
    return 1.0 if scale is None else scale * head_dim**0.5


def _form(name: str, backend: str) -> str:
    if backend not in FORMS:
        raise UserError(f"{name}: there is no backend '{backend}'{nearest(backend, FORMS)}")
    return backend


@dataclass(frozen=True, eq=False)
class _Places:
    """What is known of each place where padding, packing or given positions make places and positions differ."""

    mask: Tensor  # bool [B T]
    positions: Tensor  # int64 [B T]
    segments: Tensor  # int64 [B T]
    count: Tensor  # int64 [B], real positions of the document that is being read


class Attention(Mixer):
    """y = concat_h(softmax(q_h k_h^T / sqrt(K)) v_h) W_o with q, k, v = x W_q, x W_k, x W_v: [B T D] -> [B T D].

    heads, kv_heads: query heads and key/value heads (kv_heads=1: multi-query; between: grouped). window: see only
    positions less than so far away. position: 'rotary' turns queries and keys (rotary_dim: so many numbers of a head,
    all where not given), 'alibi' and 't5' add to the scores; positions that are added to embeddings are the model's.
    rotary_scaling: see layers.rotary_scaling. rotary_kept: the angles are kept with the weights. bias: of the
    projections; out_bias: of W_o, like bias where not given. qk_norm: a norm of layers.norm over each query and key,
    before it is turned. scale: instead of 1 / sqrt(K). softcap: c in c tanh(score / c), before positions are added and
    places hidden. backend: a form of ops.attention. State: keys and values of the positions seen, of the last
    window - 1 where there is a window.

    Raises: UserError for sizes that do not fit.
    """

    def __init__(
        self,
        d_model: int,
        heads: int = 8,
        kv_heads: int | None = None,
        head_dim: int | None = None,
        *,
        causal: bool = False,
        window: int | None = None,
        position: Position = "none",
        rotary_base: float = 10000.0,
        rotary_dim: int | None = None,
        rotary_scaling: Mapping[str, str | float | bool] | None = None,
        rotary_kept: bool = False,
        buckets: int = 32,
        max_distance: int = 128,
        bias: bool = True,
        out_bias: bool | None = None,
        qk_norm: Norm | None = None,
        norm_eps: float = 1e-6,
        scale: float | None = None,
        softcap: float | None = None,
        backend: str = "auto",
    ) -> None:
        super().__init__(d_model)
        self.heads = heads
        self.groups, self.head_dim = _head_sizes("attention", d_model, heads, kv_heads, head_dim)
        self.sharpen, self.softcap = _sharpen("attention", scale, self.head_dim), softcap
        if window is not None and window < 1:
            raise UserError(f"attention: window must be at least 1, got {window}")
        self.is_causal, self.window = causal, window
        self.backend = _form("attention", backend)
        self.qkv = Linear(d_model, (heads + 2 * self.groups) * self.head_dim, bias=bias)
        self.out = Linear(heads * self.head_dim, d_model, bias=bias if out_bias is None else out_bias)
        if qk_norm == "batch":
            raise UserError("attention: qk_norm 'batch' would mix positions; use layer, rms or rms_plus_one")
        self.q_norm = None if qk_norm is None else build_norm(qk_norm, self.head_dim, norm_eps)
        self.k_norm = None if qk_norm is None else build_norm(qk_norm, self.head_dim, norm_eps)
        self.rotary: Rotary | None = None
        if position == "rotary":
            self.rotary = Rotary(self.head_dim, rotary_base, rotary_dim, rotary_scaling, kept=rotary_kept)
        self.score_bias: Alibi | T5Bias | None = None
        if position == "alibi":
            self.score_bias = Alibi(heads)
        elif position == "t5":
            self.score_bias = T5Bias(heads, bidirectional=not causal, buckets=buckets, max_distance=max_distance)
        elif position not in ("none", "rotary"):
            known = ("none", "rotary", "alibi", "t5")
            raise UserError(f"attention: there is no position '{position}'{nearest(position, known)}")

    @property
    def causal(self) -> bool:
        return self.is_causal

    @property
    def state_grows(self) -> bool:
        return self.causal and self.window is None

    def in_a_row(self, longest: int) -> bool:
        plain = self.window is None and self.score_bias is None and self.softcap is None
        return self.backend == "auto" and plain and in_a_row(longest, self.head_dim)

    def init_state(
        self, batch: int, *, device: torch.device | str | None = None, dtype: torch.dtype | None = None
    ) -> State:
        if not self.causal:
            raise UserError("attention: only causal attention has a state; build it with causal=True")
        empty = torch.empty(batch, 0, self.groups, self.head_dim, device=device, dtype=dtype)
        return State({"k": empty, "v": empty}, owner="Attention")

    def in_one(self, norm: NormBefore) -> AttentionStep | None:
        return AttentionStep.of(self, norm) if type(self) is Attention else None

    def forward(self, x: Tensor, state: State | None = None, context: Context = EMPTY) -> tuple[Tensor, State]:
        self.check(x, state, context)
        if state is not None and not self.causal:
            raise UserError("attention: looks ahead, so its input cannot come in parts; build it with causal=True")
        state = State({}, owner="Attention") if state is None else state
        places = self._places(x, state, context)
        q, k, v = self._project(x, state, places, context)
        grown = _extend(state, k, v, places)
        visible = self._visible(grown, places, q, context)
        y = FORMS[self.backend](q, grown["k"], grown["v"], visible, self.score_bias, self.softcap)
        y = silence(self.out(y.flatten(2)), context.mask)
        return y, self._trim(grown)

    def weights(self, x: Tensor, context: Context = EMPTY, rows: slice = ALL) -> Tensor:
        """The attention weights of x [B T D], made on demand: float64 [B H t T] for the queries in `rows`."""
        state = State({}, owner="Attention")
        places = self._places(x, state, context)
        q, k, v = self._project(x, state, places, context)
        visible = self._visible(_extend(state, k, v, places), places, q, context)
        return weights(q, k, visible, self.score_bias, rows=rows, softcap=self.softcap)

    def _project(
        self, x: Tensor, state: State, places: _Places | None, context: Context
    ) -> tuple[Tensor, Tensor, Tensor]:
        """q [B T H K], k and v [B T G K], turned to their positions."""
        heads = self.qkv(silence(x, context.mask)).unflatten(-1, (-1, self.head_dim))
        q, k, v = heads.split((self.heads, self.groups, self.groups), dim=2)
        if self.q_norm is not None and self.k_norm is not None:
            q, k = self.q_norm(q), self.k_norm(k)
        if self.rotary is not None:
            angles = self.rotary.counted(x, state.seen) if places is None else self.rotary.angles(places.positions)
            if self.q_norm is not None:
                (q,), (k,) = turn(q, *angles), turn(k, *angles)
            else:  # both in one go, as they lie
                q, k = turn(heads[:, :, : -self.groups], *angles, (self.heads, self.groups))
        return (q if self.sharpen == 1 else q * self.sharpen), k, v

    def _places(self, x: Tensor, state: State, context: Context) -> _Places | None:
        """Counted positions, where anything here depends on them."""
        needed = self.causal or self.window is not None or self.rotary is not None or self.score_bias is not None
        return _places(x, state, context) if needed else None

    def _visible(self, grown: State, places: _Places | None, q: Tensor, context: Context) -> Visible:
        keys = grown["k"].shape[1]
        if places is None:
            return Visible(
                q.shape[1],
                keys,
                causal=self.causal,
                window=self.window,
                mask=context.mask,
                q_segments=context.segments,
                k_segments=context.segments,
            )
        return Visible(
            q.shape[1],
            keys,
            causal=self.causal,
            window=self.window,
            mask=grown["mask"],
            q_segments=places.segments,
            k_segments=grown["segments"],
            q_positions=places.positions,
            k_positions=grown["positions"],
        )

    def _trim(self, grown: State) -> State:
        """What later calls can still need."""
        if not self.causal:
            return State({}, seen=grown.seen, owner=grown.owner)
        if self.window is None:
            return grown
        names = [n for n in ("k", "v", "mask", "positions", "segments") if n in grown]
        if "mask" not in grown or grown["k"].shape[1] < self.window:
            return grown.last(self.window - 1, *names)
        # The last real places, wherever padding lies between them; sorting False before True keeps their order.
        latest = grown["mask"].int().argsort(dim=1, stable=True)[:, grown["k"].shape[1] - self.window + 1 :]
        kept = {n: grown[n].gather(1, _index_like(latest, grown[n])) for n in names}
        return grown.put(**kept)


def _index_like(index: Tensor, tensor: Tensor) -> Tensor:
    """index [B n] spread over the further dimensions of tensor [B N ...], for gather."""
    return index.view(*index.shape, *[1] * (tensor.dim() - 2)).expand(-1, -1, *tensor.shape[2:])


def _places(x: Tensor, state: State, context: Context) -> _Places | None:
    """Masks, positions and segments of x's places [B T ...], or None where every place is a position."""
    given = (context.mask, context.positions, context.segments)
    if all(g is None for g in given) and "mask" not in state:
        return None
    shape = (x.shape[0], x.shape[1])
    mask = context.mask if context.mask is not None else torch.ones(shape, dtype=torch.bool, device=x.device)
    before: Tensor | int = state.get("count", state.seen)
    last = state.get("segment")
    segments = context.segments
    if segments is None:
        segments = x.new_zeros(shape, dtype=torch.int64) if last is None else last.unsqueeze(1).expand(shape)
    at = counting.count(shape, x.device, mask=mask, segments=segments, before=before, last_segment=last)
    count = at[:, -1] + mask[:, -1].long()
    return _Places(mask, at if context.positions is None else context.positions, segments, count)


def _extend(state: State, k: Tensor, v: Tensor, places: _Places | None) -> State:
    """The state with this call's keys and values behind those that it holds."""
    seen = state.seen + k.shape[1]
    if places is None:
        return state.append(seen, k=k, v=v)
    if "mask" not in state and "k" in state:
        # Nothing was masked so far: every place held is a position of one document.
        rows, held = state["k"].shape[:2]
        at = torch.arange(state.seen - held, state.seen, device=k.device).expand(rows, held)
        known = {
            "mask": torch.ones(rows, held, dtype=torch.bool, device=k.device),
            "positions": at,
            "segments": places.segments[:, :1].expand(rows, held),
        }
        state = state.put(**known)
    parts = {"mask": places.mask, "positions": places.positions, "segments": places.segments}
    return state.append(seen, k=k, v=v, **parts).put(count=places.count, segment=places.segments[:, -1])


class CrossAttention(Mixer):
    """Attention from x [B T D] to a memory [M S D_memory], without order among the queries.

    B is a multiple of M: rows b of x read memory row b // (B / M), so that the beams of one sentence share one
    memory. State: the memory's keys and values, computed at the first call; later calls read those and need no
    context.memory. A row whose memory is all padding gets zeros before the output projection.
    """

    supports_cross = True

    def __init__(
        self,
        d_model: int,
        heads: int = 8,
        kv_heads: int | None = None,
        head_dim: int | None = None,
        *,
        d_memory: int | None = None,
        bias: bool = True,
        out_bias: bool | None = None,
        scale: float | None = None,
        backend: str = "auto",
    ) -> None:
        super().__init__(d_model)
        self.heads = heads
        self.groups, self.head_dim = _head_sizes("cross-attention", d_model, heads, kv_heads, head_dim)
        self.backend = _form("cross-attention", backend)
        self.d_memory = d_memory or d_model
        self.q = Linear(d_model, heads * self.head_dim, bias=bias)
        self.kv = Linear(self.d_memory, 2 * self.groups * self.head_dim, bias=bias)
        self.out = Linear(heads * self.head_dim, d_model, bias=bias if out_bias is None else out_bias)
        self.sharpen = _sharpen("cross-attention", scale, self.head_dim)

    @property
    def causal(self) -> bool:
        return True

    @property
    def state_grows(self) -> bool:
        return False

    def in_a_row(self, longest: int) -> bool:
        return self.backend == "auto" and in_a_row(longest, self.head_dim)

    def init_state(
        self, batch: int, *, device: torch.device | str | None = None, dtype: torch.dtype | None = None
    ) -> State:
        return State({}, owner="CrossAttention")

    def check_state(self, x: Tensor, state: State) -> None:
        _memory.check_rows(self, x, state)

    def forward(self, x: Tensor, state: State | None = None, context: Context = EMPTY) -> tuple[Tensor, State]:
        self.check(x, state, context)
        state = self._read(x, state, context)
        q, visible = self._ask(x, state, context)
        y = FORMS[self.backend](q, state["k"], state["v"], visible, None)
        y = y.reshape(x.shape[0], x.shape[1], -1)
        return silence(self.out(y), context.mask), state

    def weights(self, x: Tensor, context: Context = EMPTY, rows: slice = ALL) -> Tensor:
        """The attention weights of x [B T D] over the memory, made on demand: float64 [B H t S]."""
        state = self._read(x, None, context)
        q, visible = self._ask(x, state, context)
        return _memory.per_row(weights(q, state["k"], visible), x, rows)

    def _read(self, x: Tensor, state: State | None, context: Context) -> State:
        """The state with the memory's keys and values in it."""

        def project(memory: Tensor) -> dict[str, Tensor]:
            k, v = self.kv(memory).unflatten(-1, (-1, self.head_dim)).chunk(2, dim=2)
            return {"k": k, "v": v}

        return _memory.read(self, x, state, context, self.d_memory, project)

    def _ask(self, x: Tensor, state: State, context: Context) -> tuple[Tensor, Visible]:
        """Queries [M (B/M * T) H K], those that share a memory row in a row, and what they may see."""
        q = self.q(silence(x, context.mask)).reshape(state["k"].shape[0], -1, self.heads, self.head_dim)
        q = q if self.sharpen == 1 else q * self.sharpen
        return q, _memory.visible(self, x, state, context)


MIXER = Attention
CROSS_MIXER = CrossAttention
