"""S4: each channel through a linear state space of its own, whose matrix is a HiPPO matrix, diagonal minus low rank.

Source: Gu et al. 2022 (2111.00396). Legend: B batch, T time, D model width, N state, M = N / 2 modes, Q rank.
"""

import torch
from torch import Tensor, nn

from jogak.errors import UserError, nearest
from jogak.mixers._state_space import Modes, Output, check_method, draw_steps, spread
from jogak.mixers.contract import EMPTY, Context, Mixer, State
from jogak.ops import hippo, s4
from jogak.ops.documents import Documents


class S4(Mixer):
    """y = GLU(W f(C h_t + skip x_t)) with h_t = A_ h_(t-1) + B_ x_t, A = diag(w) - P P*: [B T D] -> [B T D].

    size: N, real numbers of a channel's state. init: the HiPPO matrix that A starts as, 'legs', 'legt' or 'lagt'.
    discretisation: how A_, B_ come of A, B and the channel's learned step (ops.discretise). dt_min, dt_max: steps start
    log-uniform between them. activation: f. gated: the GLU. backend: a form of ops.s4; 'fft', the paper's way to
    train, is causal up to rounding only. State: h, in float32 or wider, in the basis in which A is diag(w) - P P*.

    Raises: UserError for options that do not fit.
    """

    causal_only = True
    undecayed = frozenset({"log_dt", "low_rank", "write"})
    wide = frozenset({"h"})

    def __init__(
        self,
        d_model: int,
        size: int = 64,
        *,
        init: str = "legs",
        discretisation: str = "bilinear",
        dt_min: float = 1e-3,
        dt_max: float = 1e-1,
        activation: str = "gelu",
        gated: bool = True,
        backend: str = "chunked",
    ) -> None:
        super().__init__(d_model)
        if backend not in s4.FORMS:
            raise UserError(f"s4: there is no backend '{backend}'{nearest(backend, s4.FORMS)}")
        self.size, self.discretisation, self.backend = size, discretisation, backend
        form = hippo.normal_form(init, size)
        self.log_dt = draw_steps("s4", d_model, dt_min, dt_max)
        check_method("s4", discretisation, torch.linalg.eigvals(hippo.MATRICES[init](size)[0]), dt_max)
        self.modes = Modes(form.eigenvalues, d_model)
        self.low_rank = spread(form.low_rank, d_model)  # P
        self.write = spread(form.b, d_model)  # B
        self.read = nn.Parameter(torch.randn(d_model, size // 2, 2) * 0.5**0.5)  # C
        self.output = Output("s4", d_model, activation, gated=gated)

    @property
    def state_grows(self) -> bool:
        return False

    def init_state(
        self, batch: int, *, device: torch.device | str | None = None, dtype: torch.dtype | None = None
    ) -> State:
        wide = torch.promote_types(dtype or torch.get_default_dtype(), torch.float32)
        tensors = {
            "h": torch.zeros(batch, self.d_model, self.size, device=device, dtype=wide),
            "segment": torch.zeros(batch, device=device, dtype=torch.int64),
        }
        return State(tensors, owner="S4")

    def forward(self, x: Tensor, state: State | None = None, context: Context = EMPTY) -> tuple[Tensor, State]:
        self.check(x, state, context)
        state = self.init_state(x.shape[0], device=x.device, dtype=x.dtype) if state is None else state
        documents = Documents.apart((x.shape[0], x.shape[1]), context.mask, context.segments, state["segment"])
        u, h = documents.take(x), documents.begin(state["h"])
        y, h = s4.FORMS[self.backend](u, *self._system(), h, documents.lengths, self.discretisation)
        held = {"h": documents.end(h), "segment": documents.segment}
        return documents.put(self.output(y, u)), State(held, seen=state.seen + x.shape[1], owner="S4")

    def step(self, x: Tensor, state: State, context: Context = EMPTY) -> tuple[Tensor, State]:
        if x.shape[1:2] != (1,) or context.mask is not None or context.segments is not None:
            return self.forward(x, state, context)
        self.check(x, state, context)
        y, h = s4.step(x[:, 0], *self._system(), state["h"], self.discretisation)
        held = {"h": h, "segment": state["segment"]}
        return self.output(y.unsqueeze(1), x), State(held, seen=state.seen + 1, owner="S4")

    def _system(self) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor]:
        """w [D M 2], P [D Q M 2], B, C [D M 2] and dt [D] of ops.s4."""
        wide = torch.promote_types(self.log_dt.dtype, torch.float32)
        return self.modes(wide), self.low_rank, self.write, self.read, self.log_dt.to(wide).exp()


MIXER = S4
