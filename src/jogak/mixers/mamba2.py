"""Mamba-2: Mamba with one decay a head, whose scan is matrix products, and a norm behind the gate.

Source: Dao & Gu 2024 (2405.21060) section 7. Legend: B batch, T time, D model width, E inner width, H heads, P head
width, G groups, N state, K taps of the convolution.
"""

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from jogak.errors import UserError, nearest
from jogak.layers.linear import Linear
from jogak.mixers.contract import EMPTY, Context, Mixer, State
from jogak.mixers.mamba import check_sizes, check_steps, convolution_parameters, step_bias
from jogak.ops import convolution
from jogak.ops.documents import Documents
from jogak.ops.selective_scan import Rows
from jogak.ops.ssd import FORMS, ssd


class GatedNorm(nn.Module):
    """w v / sqrt(mean v^2 + eps) with v = x silu(z), the mean within each group of channels: [... E]."""

    def __init__(self, width: int, groups: int, eps: float) -> None:
        super().__init__()
        self.groups, self.eps = groups, eps
        self.weight = nn.Parameter(torch.ones(width))

    def forward(self, x: Tensor, z: Tensor) -> Tensor:
        wide = torch.promote_types(x.dtype, torch.float32)
        v = (x.to(wide) * F.silu(z.to(wide))).unflatten(-1, (self.groups, -1))
        v = v * torch.rsqrt(v.square().mean(-1, keepdim=True) + self.eps)
        return (v.flatten(-2) * self.weight).to(z.dtype)


class Mamba2(Mixer):
    """y = W_out norm(SSD(u, B, C) silu(z)) with z, v, r = W_in x and u, B, C = silu(conv(v)): [B T D] -> [B T D].

    SSD: in each head h_t = exp(dt_t A) h_(t-1) + dt_t u_t B_t^T, h_t C_t + D u_t, with dt_t = softplus(r_t + bias).
    head_dim: P, which divides E. groups: G, heads of one group share B and C. state: N. expand: E / D. conv: K.
    dt_min, dt_max: between them, on a logarithmic scale, dt is drawn at first. dt_limit: the least and the most that dt
    may be; None: no bound. a_min, a_max: -A is drawn between them. norm_eps: of the norm behind the gate. backend: a
    form of ops.ssd. State: the last K - 1 inputs of the convolution, and h.

    Raises: UserError for sizes that do not fit.
    """

    causal_only = True
    undecayed = frozenset({"a_log", "dt_bias", "d"})
    wide = frozenset({"scan"})

    def __init__(
        self,
        d_model: int,
        state: int = 128,
        head_dim: int = 64,
        groups: int = 1,
        expand: float = 2,
        conv: int = 4,
        *,
        dt_min: float = 0.001,
        dt_max: float = 0.1,
        dt_limit: tuple[float, float | None] = (0.0, None),
        a_min: float = 1.0,
        a_max: float = 16.0,
        norm_eps: float = 1e-5,
        bias: bool = False,
        conv_bias: bool = True,
        backend: str = "auto",
    ) -> None:
        super().__init__(d_model)
        self.width, self.head_dim, self.groups, self.state = round(expand * d_model), head_dim, groups, state
        check_sizes("mamba2", state=state, head_dim=head_dim, groups=groups, conv=conv, expand=self.width)
        check_steps("mamba2", dt_min, dt_max)
        least, most = dt_limit
        if least < 0 or (most is not None and most < least):
            raise UserError(f"mamba2: dt_limit must be a least of at least 0 and a most above it, got {least}, {most}")
        self.dt_limit = None if least == 0 and most is None else (least, most)
        if self.width % head_dim:
            raise UserError(f"mamba2: expand * d_model ({self.width}) must be a multiple of head_dim ({head_dim})")
        self.heads = self.width // head_dim
        if self.heads % groups:
            raise UserError(f"mamba2: heads ({self.heads}) must be a multiple of groups ({groups})")
        if not 0 < a_min <= a_max:
            raise UserError(f"mamba2: a_min must be above 0 and at most a_max, got {a_min} and {a_max}")
        if backend not in FORMS:
            raise UserError(f"mamba2: there is no backend '{backend}'{nearest(backend, FORMS)}")
        self.taps, self.backend = conv, backend
        self.sizes = (self.width, groups * state, groups * state)
        self.inner = Linear(d_model, self.width + sum(self.sizes) + self.heads, bias=bias)
        self.conv_weight, self.conv_bias = convolution_parameters(sum(self.sizes), conv, bias=conv_bias)
        self.dt_bias = step_bias(self.heads, dt_min, dt_max)
        self.a_log = nn.Parameter(torch.empty(self.heads).uniform_(a_min, a_max).log())
        self.d = nn.Parameter(torch.ones(self.heads))
        self.norm = GatedNorm(self.width, groups, norm_eps)
        self.out = Linear(self.width, d_model, bias=bias)

    @property
    def state_grows(self) -> bool:
        return False

    def init_state(
        self, batch: int, *, device: torch.device | str | None = None, dtype: torch.dtype | None = None
    ) -> State:
        dtype = torch.get_default_dtype() if dtype is None else dtype
        wide = torch.promote_types(dtype, torch.float32)
        held = {
            "conv": torch.zeros(batch, self.taps - 1, sum(self.sizes), device=device, dtype=dtype),
            "scan": torch.zeros(batch, self.heads, self.head_dim, self.state, device=device, dtype=wide),
            "segment": torch.zeros(batch, device=device, dtype=torch.int64),
        }
        return State(held, owner="Mamba2")

    def forward(self, x: Tensor, state: State | None = None, context: Context = EMPTY) -> tuple[Tensor, State]:
        self.check(x, state, context)
        state = self.init_state(x.shape[0], device=x.device, dtype=x.dtype) if state is None else state
        shape = (x.shape[0], x.shape[1])
        documents = Documents.in_place(shape, context.mask, context.segments, state["segment"])
        z, u, r = self.inner(documents.take(x)).split((self.width, sum(self.sizes), self.heads), dim=2)
        starts, lengths = documents.starts, documents.lengths
        u, past = convolution.causal(u, self.conv_weight, self.conv_bias, state["conv"], starts, lengths, silu=True)
        y, h = self._scan(u, r, state["scan"], Rows(starts, lengths))
        held = {"conv": past.to(state["conv"].dtype), "scan": h, "segment": documents.segment}
        y = documents.put(self.out(self.norm(y, z)))
        return y, State(held, seen=state.seen + shape[1], owner="Mamba2")

    def _scan(self, u: Tensor, r: Tensor, h: Tensor, rows: Rows) -> tuple[Tensor, Tensor]:
        """u [B T E+2GN], r [B T H], h [B H P N] -> y [B T E], in float32 at least, and the last state."""
        wide = torch.promote_types(u.dtype, torch.float32)
        u, b, c = u.to(wide).split(self.sizes, dim=2)
        dt = F.softplus(r.to(wide) + self.dt_bias.to(wide))
        dt = dt if self.dt_limit is None else dt.clamp(*self.dt_limit)
        u = u.unflatten(2, (self.heads, self.head_dim))
        b, c = (t.unflatten(2, (self.groups, self.state)) for t in (b, c))
        y, h = ssd(u, dt, -self.a_log.to(wide).exp(), b, c, self.d, h, rows, backend=self.backend)
        return y.flatten(2), h


MIXER = Mamba2
