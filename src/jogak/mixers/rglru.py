"""The recurrent block of Griffin and Hawk: a short convolution and a gated linear recurrence, beside a gate branch.

"Griffin" is a pattern, `[rglru, rglru, {name: attention, window: ...}]`; "Hawk" is `rglru` alone.

Source: De et al. 2024 (2402.19427) sections 2.3 and 2.4. Legend: B batch, T time, N rows, L length, D model width, W
recurrent width, G blocks of the gates' weights, K taps.
"""

import math

import torch
from torch import Tensor, nn

from jogak.errors import UserError, nearest
from jogak.layers.feedforward import ACTIVATIONS
from jogak.layers.linear import Linear
from jogak.mixers.contract import EMPTY, Context, Mixer, State
from jogak.ops import scan
from jogak.ops.convolution import causal
from jogak.ops.documents import Documents

SLOWNESS = 8.0  # c of equation 4
SMALLEST = 1e-12  # of 1 - a^2, so that its root has a gradient where the gate is shut


class RGLRU(Mixer):
    """y = W_o (gelu(W_g x) * h) with h_t = a_t h_(t-1) + sqrt(1 - a_t^2) (i_t u_t): [B T D] -> [B T D].

    u is the short convolution of W_u x; i_t = sigmoid(W_i u_t + b_i), r_t = sigmoid(W_r u_t + b_r) with W_i and W_r
    block-diagonal; a_t = sigmoid(Lambda)^(8 r_t). A document's first position counts in full (its factor is 1, not the
    root), as in the authors' code.

    width: W, D where not given. blocks: G. taps: K. activation: of the gate branch. backend: a form of ops.scan.
    State: h in float32 or wider, the last K - 1 inputs of the convolution, and the position that comes next.

    Raises: UserError for sizes that do not fit.
    """

    causal_only = True
    undecayed = frozenset({"rate", "gate_bias"})
    wide = frozenset({"h"})

    def __init__(
        self,
        d_model: int,
        width: int | None = None,
        blocks: int = 16,
        taps: int = 4,
        *,
        activation: str = "gelu_tanh",
        backend: str = "auto",
    ) -> None:
        super().__init__(d_model)
        self.width = width or d_model
        if blocks < 1 or self.width % blocks:
            raise UserError(f"rglru: width ({self.width}) must be a multiple of blocks ({blocks}), at least 1")
        if taps < 1:
            raise UserError(f"rglru: taps must be at least 1, got {taps}")
        if activation not in ACTIVATIONS:
            raise UserError(f"rglru: there is no activation '{activation}'{nearest(activation, ACTIVATIONS)}")
        if backend not in scan.FORMS:
            raise UserError(f"rglru: there is no backend '{backend}'{nearest(backend, scan.FORMS)}")
        self.blocks, self.taps, self.backend = blocks, taps, backend
        self.activation = ACTIVATIONS[activation]
        block = self.width // blocks
        self.inner = Linear(d_model, 2 * self.width)  # recurrent branch, gate branch
        self.out = Linear(self.width, d_model)
        self.conv_weight = nn.Parameter(torch.empty(self.width, taps).uniform_(-1, 1) / math.sqrt(taps))
        self.conv_bias = nn.Parameter(torch.zeros(self.width))
        # of each block [block 2 block]: the input gate's weights, then the recurrence gate's
        self.gate_weight = nn.Parameter(torch.randn(blocks, block, 2 * block) / math.sqrt(block))
        self.gate_bias = nn.Parameter(torch.zeros(blocks, 2 * block))
        # Lambda, such that sigmoid(Lambda)^8 is uniform between 0.9 and 0.999 (section 2.4)
        self.rate = nn.Parameter(torch.logit(torch.empty(self.width).uniform_(0.9, 0.999) ** (1 / SLOWNESS)))

    @property
    def state_grows(self) -> bool:
        return False

    def init_state(
        self, batch: int, *, device: torch.device | str | None = None, dtype: torch.dtype | None = None
    ) -> State:
        wide = torch.promote_types(dtype or torch.get_default_dtype(), torch.float32)
        tensors = {
            "h": torch.zeros(batch, self.width, device=device, dtype=wide),
            "past": torch.zeros(batch, self.taps - 1, self.width, device=device, dtype=dtype),
            "count": torch.zeros(batch, device=device, dtype=torch.int64),
            "segment": torch.zeros(batch, device=device, dtype=torch.int64),
        }
        return State(tensors, owner="RGLRU")

    def forward(self, x: Tensor, state: State | None = None, context: Context = EMPTY) -> tuple[Tensor, State]:
        self.check(x, state, context)
        state = self.init_state(x.shape[0], device=x.device, dtype=x.dtype) if state is None else state
        documents = Documents.in_place((x.shape[0], x.shape[1]), context.mask, context.segments, state["segment"])
        starts, lengths = documents.starts, documents.lengths
        at, count = documents.count(state["count"])
        u, gate = self.inner(documents.take(x)).chunk(2, dim=2)
        u, past = causal(u, self.conv_weight, self.conv_bias, state["past"], starts, lengths)
        a, b = self._recurrence(u, at == 0, state["h"].dtype)
        h, last = scan.scan(a, b, state["h"], starts=starts, lengths=lengths, backend=self.backend)
        y = documents.put(self.out(self.activation(gate) * h.to(gate.dtype)))
        held = {"h": last, "past": past, "count": count, "segment": documents.segment}
        return y, State(held, seen=state.seen + x.shape[1], owner="RGLRU")

    def _recurrence(self, u: Tensor, first: Tensor, dtype: torch.dtype) -> tuple[Tensor, Tensor]:
        """a_t and what is added at t, each [N L W], of u [N L W]; first: bool [N or 1, L], a document's first place."""
        blocks = u.unflatten(2, (self.blocks, -1)).flatten(0, 1).transpose(0, 1)  # [G N L, W / G]
        gates = torch.baddbmm(self.gate_bias.unsqueeze(1), blocks, self.gate_weight).transpose(0, 1)
        gates = gates.to(dtype).sigmoid().unflatten(0, u.shape[:2])
        let_in, forget = (g.flatten(2) for g in gates.chunk(2, dim=3))
        log_a = -SLOWNESS * forget * nn.functional.softplus(-self.rate.to(dtype))
        scale = (-torch.expm1(2 * log_a)).clamp_min(SMALLEST).sqrt()
        return log_a.exp(), u.to(dtype) * let_in * scale.masked_fill(first.unsqueeze(2), 1)


MIXER = RGLRU
