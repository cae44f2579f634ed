"""Attention whose scores are products of features, so that its past is one matrix: looking back, or both ways.

Source: Katharopoulos et al. 2020 (2006.16236). Legend: B batch, T time, N rows, L length, D model width, H heads, K
head width.
"""

import torch
from torch import Tensor

from jogak.errors import UserError, nearest
from jogak.layers.linear import Linear
from jogak.mixers.contract import EMPTY, Context, Mixer, State
from jogak.ops.documents import Documents
from jogak.ops.linear_attention import FEATURES, FORMS, full


class LinearAttention(Mixer):
    """y_t = W_o concat_h (sum_s (f(q_t) . f(k_s)) v_s / sum_s f(q_t) . f(k_s)), s <= t if causal: [B T D] -> [B T D].

    feature: f by name, a key of ops.linear_attention.FEATURES ('elu': elu(x) + 1). backend: a form of
    ops.linear_attention, for causal use; what looks both ways is two matrix products. State, for causal use: the sums
    of f(k) v^T and of f(k), in float32 or wider.

    Raises: UserError for sizes that do not fit.
    """

    wide = frozenset({"sum"})

    def __init__(
        self,
        d_model: int,
        heads: int = 8,
        head_dim: int | None = None,
        *,
        causal: bool = False,
        feature: str = "elu",
        bias: bool = True,
        backend: str = "auto",
    ) -> None:
        super().__init__(d_model)
        if heads < 1 or (head_dim is None and d_model % heads):
            raise UserError(
                f"linear_attention: d_model ({d_model}) must be a multiple of heads ({heads}), at least 1, or give "
                "head_dim"
            )
        if feature not in FEATURES:
            raise UserError(f"linear_attention: there is no feature '{feature}'{nearest(feature, FEATURES)}")
        if backend not in FORMS:
            raise UserError(f"linear_attention: there is no backend '{backend}'{nearest(backend, FORMS)}")
        self.heads, self.head_dim = heads, head_dim or d_model // heads
        self.is_causal, self.feature, self.backend = causal, feature, backend
        self.qkv = Linear(d_model, 3 * heads * self.head_dim, bias=bias)
        self.out = Linear(heads * self.head_dim, d_model, bias=bias)

    @property
    def causal(self) -> bool:
        return self.is_causal

    @property
    def state_grows(self) -> bool:
        return False

    def init_state(
        self, batch: int, *, device: torch.device | str | None = None, dtype: torch.dtype | None = None
    ) -> State:
        if not self.causal:
            raise UserError("linear_attention: only when causal has it a state; build it with causal=True")
        wide = torch.promote_types(dtype or torch.get_default_dtype(), torch.float32)
        tensors = {
            "sum": torch.zeros(batch, self.heads, self.head_dim, self.head_dim + 1, device=device, dtype=wide),
            "segment": torch.zeros(batch, device=device, dtype=torch.int64),
        }
        return State(tensors, owner="LinearAttention")

    def forward(self, x: Tensor, state: State | None = None, context: Context = EMPTY) -> tuple[Tensor, State]:
        self.check(x, state, context)
        if self.causal:
            return self._look_back(x, state, context)
        if state is not None:
            raise UserError(
                "linear_attention: looks ahead, so its input cannot come in parts; build it with causal=True"
            )
        open_ = torch.zeros(x.shape[0], device=x.device, dtype=torch.int64)
        documents = Documents.apart((x.shape[0], x.shape[1]), context.mask, context.segments, open_)
        y = full(*self._project(documents.take(x)), documents.real)
        return documents.put(self.out(y.flatten(2))), State({}, seen=x.shape[1], owner="LinearAttention")

    def _look_back(self, x: Tensor, state: State | None, context: Context) -> tuple[Tensor, State]:
        state = self.init_state(x.shape[0], device=x.device, dtype=x.dtype) if state is None else state
        documents = Documents.in_place((x.shape[0], x.shape[1]), context.mask, context.segments, state["segment"])
        q, k, v = self._project(documents.take(x))
        y, after = FORMS[self.backend](q, k, v, state["sum"], documents.starts, documents.lengths)
        held = {"sum": after, "segment": documents.segment}
        new = State(held, seen=state.seen + x.shape[1], owner="LinearAttention")
        return documents.put(self.out(y.flatten(2))), new

    def _project(self, x: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """The features of queries and keys, and the values, of x [N L D]: each [N L H K]."""
        q, k, v = self.qkv(x).unflatten(2, (3, self.heads, self.head_dim)).unbind(2)
        feature = FEATURES[self.feature]
        return feature(q), feature(k), v


MIXER = LinearAttention
