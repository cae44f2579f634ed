"""Multi-scale retention: linear attention whose past fades at a rate of its own in each head, read as one state.

Source: Sun et al. 2023 (2307.08621) section 2. Legend: B batch, T time, N rows, L length, D model width, H heads, K
key width, V value width.
"""

from typing import Literal

import torch
import torch.nn.functional as F
from torch import Tensor

from jogak.errors import UserError, nearest
from jogak.layers.linear import Linear
from jogak.layers.position import Rotary
from jogak.mixers.contract import EMPTY, Context, Mixer, State
from jogak.ops.documents import Documents
from jogak.ops.retention import FORMS

NORMS = ("layer", "rms")


class Retention(Mixer):
    """y = W_o (silu(W_g x) * norm_h(S_t^T q_t)) with S_t = g_h S_(t-1) + k_t v_t^T: [B T D] -> [B T D].

    q and k are turned by their positions (the angle of xPos; its scale is the decay) and g_h = 1 - 2^(-5-h). The norm
    over each head's values at each position has no parameters: 'layer' (the paper's group norm) or 'rms' (the authors'
    later code). The paper divides scores by sqrt(K), by the root of the decays' sum and by max(|sum of scores|, 1); the
    last two are one positive number for a head at a position, which the norm takes out again, and are left out.

    key_dim, value_dim: over all heads; d_model and 2 d_model. backend: a form of ops.retention. State: S in float32 or
    wider, and the position that comes next.

    Raises: UserError for sizes that do not fit.
    """

    causal_only = True
    wide = frozenset({"sum"})

    def __init__(
        self,
        d_model: int,
        heads: int = 4,
        *,
        key_dim: int | None = None,
        value_dim: int | None = None,
        rotary_base: float = 10000.0,
        norm: Literal["layer", "rms"] = "layer",
        norm_eps: float = 1e-6,
        backend: str = "auto",
    ) -> None:
        super().__init__(d_model)
        keys, values = key_dim or d_model, value_dim or 2 * d_model
        if heads < 1 or keys % heads or values % heads:
            raise UserError(
                f"retention: key_dim ({keys}) and value_dim ({values}) must be multiples of heads ({heads}), at least 1"
            )
        if backend not in FORMS:
            raise UserError(f"retention: there is no backend '{backend}'{nearest(backend, FORMS)}")
        if norm not in NORMS:
            raise UserError(f"retention: there is no norm '{norm}'{nearest(norm, NORMS)}")
        self.heads, self.keys, self.values = heads, keys, values
        self.norm, self.norm_eps, self.backend = norm, norm_eps, backend
        self.inner = Linear(d_model, 2 * keys + 2 * values, bias=False)  # query, key, value, gate
        self.out = Linear(values, d_model, bias=False)
        self.rotary = Rotary(keys // heads, rotary_base)

    @property
    def state_grows(self) -> bool:
        return False

    def init_state(
        self, batch: int, *, device: torch.device | str | None = None, dtype: torch.dtype | None = None
    ) -> State:
        wide = torch.promote_types(dtype or torch.get_default_dtype(), torch.float32)
        shape = (batch, self.heads, self.keys // self.heads, self.values // self.heads)
        tensors = {
            "sum": torch.zeros(shape, device=device, dtype=wide),
            "count": torch.zeros(batch, device=device, dtype=torch.int64),
            "segment": torch.zeros(batch, device=device, dtype=torch.int64),
        }
        return State(tensors, owner="Retention")

    def forward(self, x: Tensor, state: State | None = None, context: Context = EMPTY) -> tuple[Tensor, State]:
        self.check(x, state, context)
        state = self.init_state(x.shape[0], device=x.device, dtype=x.dtype) if state is None else state
        documents = Documents.in_place((x.shape[0], x.shape[1]), context.mask, context.segments, state["segment"])
        counted, count = documents.count(state["count"])
        positions = counted if context.positions is None else documents.take(context.positions)
        turned, v, gate = self.inner(documents.take(x)).split((2 * self.keys, self.values, self.values), dim=2)
        q, k = self.rotary(turned.unflatten(2, (2 * self.heads, -1)), positions).chunk(2, dim=2)
        k, v = k * k.shape[3] ** -0.5, v.unflatten(2, (self.heads, -1))
        form = FORMS[self.backend]
        y, after = form(q, k, v, self.decay(state["sum"]), state["sum"], documents.starts, documents.lengths)
        y = documents.put(self.out(F.silu(gate) * self._normed(y).flatten(2)))
        held = {"sum": after, "count": count, "segment": documents.segment}
        return y, State(held, seen=state.seen + x.shape[1], owner="Retention")

    def decay(self, like: Tensor) -> Tensor:
        """What a head keeps of its state from one position to the next: [H], of the dtype and on the device of like."""
        return 1 - torch.exp2(-5 - torch.arange(self.heads, device=like.device, dtype=like.dtype))

    def _normed(self, y: Tensor) -> Tensor:
        if self.norm == "rms":
            return F.rms_norm(y, y.shape[3:], eps=self.norm_eps)
        return F.layer_norm(y, y.shape[3:], eps=self.norm_eps)


MIXER = Retention
