"""Mamba: a short convolution, a selective scan whose step, input and output the input chooses, and a gate.

Source: Gu & Dao 2023 (2312.00752) section 3. Legend: B batch, T time, D model width, E inner width, N state, R rank
of the step size, K taps of the convolution.
"""

import math
from collections.abc import Sequence
from typing import cast

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from jogak.errors import UserError, nearest
from jogak.layers.linear import Linear
from jogak.layers.step import NormBefore
from jogak.mixers._step import MambaStep
from jogak.mixers.contract import EMPTY, Context, Mixer, State
from jogak.ops import convolution
from jogak.ops.documents import Documents
from jogak.ops.selective_scan import FORMS, Rows, selective_scan

NORMS = ("none", "plain", "learned")


class Mamba(Mixer):
    """y = W_out (S6(silu(conv(u))) * silu(z)) with u, z = W_in x: [B T D] -> [B T D].

    S6: h_t = exp(dt_t A) h_(t-1) + dt_t B_t u_t, C_t h_t + D u_t, where B_t, C_t and r_t are linear in u_t, and
    dt_t = softplus(W r_t + bias). state: N. expand: E / D. conv: K. dt_rank: R, the width of r (None: D / 16,
    rounded up). dt_min, dt_max: between them, on a logarithmic scale, dt is drawn at first. norms: of r_t, B_t and
    C_t each, v / sqrt(mean v^2 + norm_eps), and times a weight where 'learned' (Lieber et al. 2024, Jamba,
    2403.19887, section 6.4; 'plain' in Falcon Mamba, Zuo et al. 2024, 2410.05355). bias, conv_bias: of the two
    projections and of the convolution. backend: a form of ops.selective_scan. State: the last K - 1 inputs of the
    convolution, and h.

    Raises: UserError for sizes that do not fit.
    """

    causal_only = True
    undecayed = frozenset({"a_log", "dt_bias", "d"})
    wide = frozenset({"scan"})

    def __init__(
        self,
        d_model: int,
        state: int = 16,
        expand: float = 2,
        conv: int = 4,
        dt_rank: int | None = None,
        *,
        dt_min: float = 0.001,
        dt_max: float = 0.1,
        norms: str = "none",
        norm_eps: float = 1e-6,
        bias: bool = False,
        conv_bias: bool = True,
        backend: str = "auto",
    ) -> None:
        super().__init__(d_model)
        self.width = round(expand * d_model)
        rank = -(-d_model // 16) if dt_rank is None else dt_rank
        check_sizes("mamba", state=state, conv=conv, dt_rank=rank, expand=self.width)
        check_steps("mamba", dt_min, dt_max)
        if norms not in NORMS:
            raise UserError(f"mamba: there is no norms '{norms}'{nearest(norms, NORMS)}")
        if backend not in FORMS:
            raise UserError(f"mamba: there is no backend '{backend}'{nearest(backend, FORMS)}")
        self.sizes, self.taps, self.backend = (rank, state, state), conv, backend
        self.inner = Linear(d_model, 2 * self.width, bias=bias)
        self.conv_weight, self.conv_bias = convolution_parameters(self.width, conv, bias=conv_bias)
        self.select = Linear(self.width, rank + 2 * state, bias=False)
        self.norms = None if norms == "none" else _norms(self.sizes, norm_eps, learned=norms == "learned")
        self.dt_weight = nn.Parameter(torch.empty(self.width, rank).uniform_(-(rank**-0.5), rank**-0.5))
        self.dt_bias = step_bias(self.width, dt_min, dt_max)
        # S4D-real (Gu et al. 2022, 2206.11893): A = -1 ... -N in every channel.
        self.a_log = nn.Parameter(torch.arange(1.0, state + 1).log().repeat(self.width, 1))
        self.d = nn.Parameter(torch.ones(self.width))
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
            "conv": torch.zeros(batch, self.taps - 1, self.width, device=device, dtype=dtype),
            "scan": torch.zeros(batch, self.sizes[1], self.width, device=device, dtype=wide),
            "segment": torch.zeros(batch, device=device, dtype=torch.int64),
        }
        return State(held, owner="Mamba")

    def in_one(self, norm: NormBefore) -> MambaStep | None:
        return MambaStep.of(self, norm) if type(self) is Mamba else None

    def forward(self, x: Tensor, state: State | None = None, context: Context = EMPTY) -> tuple[Tensor, State]:
        self.check(x, state, context)
        state = self.init_state(x.shape[0], device=x.device, dtype=x.dtype) if state is None else state
        shape = (x.shape[0], x.shape[1])
        documents = Documents.in_place(shape, context.mask, context.segments, state["segment"])
        u, z = self.inner(documents.take(x)).chunk(2, dim=2)
        starts, lengths = documents.starts, documents.lengths
        u, past = convolution.causal(u, self.conv_weight, self.conv_bias, state["conv"], starts, lengths, silu=True)
        y, h = self._scan(u, z, state["scan"], Rows(starts, lengths))
        held = {"conv": past.to(state["conv"].dtype), "scan": h, "segment": documents.segment}
        return documents.put(self.out(y)), State(held, seen=state.seen + shape[1], owner="Mamba")

    def _scan(self, u: Tensor, z: Tensor, h: Tensor, rows: Rows) -> tuple[Tensor, Tensor]:
        """u, z [B T E], h [B N E] -> gated outputs [B T E], the last state."""
        chosen = self.select(u).split(self.sizes, dim=2)
        if self.norms is not None:
            chosen = [_normed(part, norm) for part, norm in zip(chosen, self.norms, strict=True)]
        rank, b, c = chosen
        dt = F.linear(rank, self.dt_weight)
        a = -self.a_log.to(torch.promote_types(u.dtype, torch.float32)).exp()
        return selective_scan(u, dt, a, b, c, self.d, z, h, rows, self.dt_bias, backend=self.backend)


def _norms(sizes: Sequence[int], eps: float, *, learned: bool) -> list[nn.RMSNorm]:
    found = nn.ModuleList(nn.RMSNorm(size, eps, elementwise_affine=learned) for size in sizes)
    return cast(list[nn.RMSNorm], found)  # which iterates like a list


def _normed(x: Tensor, norm: nn.RMSNorm) -> Tensor:
    """Worked out in float32 at least: x [... n] -> [... n] of x's type."""
    wide = torch.promote_types(x.dtype, torch.float32)
    weight = None if norm.weight is None else norm.weight.to(wide)
    return F.rms_norm(x.to(wide), norm.normalized_shape, weight, norm.eps).to(x.dtype)


def check_sizes(name: str, **sizes: int) -> None:
    """Refuse sizes below 1.

    Raises: UserError.
    """
    for option, size in sizes.items():
        if size < 1:
            raise UserError(f"{name}: {option} must be at least 1, got {size}")


def check_steps(name: str, dt_min: float, dt_max: float) -> None:
    """Refuse a range of step sizes that is none.

    Raises: UserError.
    """
    if not 0 < dt_min <= dt_max:
        raise UserError(f"{name}: dt_min must be above 0 and at most dt_max, got {dt_min} and {dt_max}")


def convolution_parameters(channels: int, taps: int, *, bias: bool) -> tuple[nn.Parameter, nn.Parameter | None]:
    """Weight [C K] and bias [C], uniform within 1 / sqrt(K)."""
    weight = nn.Parameter(torch.empty(channels, taps).uniform_(-(taps**-0.5), taps**-0.5))
    return weight, nn.Parameter(torch.empty(channels).uniform_(-(taps**-0.5), taps**-0.5)) if bias else None


def step_bias(channels: int, least: float, most: float) -> nn.Parameter:
    """[C], drawn so that softplus of it is uniform on a logarithmic scale from `least` to `most`, 1e-4 at least."""
    drawn = torch.empty(channels).uniform_(math.log(least), math.log(most)).exp().clamp_min(1e-4)
    return nn.Parameter(drawn + torch.log(-torch.expm1(-drawn)))


MIXER = Mamba
