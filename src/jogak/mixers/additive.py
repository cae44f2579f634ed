"""Additive attention to a memory: a small network says how well each place of it fits.

Source: Bahdanau et al. 2015 (1409.0473) section 3.1. Legend: B batch, T time, D model width, M rows of memory,
S length of memory, A hidden width.
"""

import torch
from torch import Tensor, nn

from jogak.errors import UserError
from jogak.layers.linear import Linear
from jogak.mixers import _memory
from jogak.mixers.contract import EMPTY, Context, Mixer, State, silence
from jogak.ops import additive
from jogak.ops.attention import ALL


class AdditiveAttention(Mixer):
    """y = W_o sum_s a_s m_s, a = softmax_s(w . tanh(W x + U m_s)): x [B T D], memory m [M S D_memory] -> [B T D].

    hidden: A, where None the model's width. B is a multiple of M: rows b of x read memory row b // (B / M). State:
    U m + the bias, computed at the first call, and the memory itself. The network's insides [M T S A] are held a
    part at a time. A row whose memory is all padding gets zeros before W_o.

    Raises: UserError for a hidden width below 1.
    """

    supports_cross = True

    def __init__(self, d_model: int, hidden: int | None = None, *, d_memory: int | None = None) -> None:
        super().__init__(d_model)
        if hidden is not None and hidden < 1:
            raise UserError(f"additive: hidden must be at least 1, got {hidden}")
        self.d_memory, width = d_memory or d_model, hidden or d_model
        self.q = Linear(d_model, width, bias=False)
        self.k = Linear(self.d_memory, width)
        self.score = nn.Parameter(torch.empty(width).uniform_(-(3**0.5), 3**0.5) * width**-0.5)
        self.out = Linear(self.d_memory, d_model, bias=False)

    @property
    def causal(self) -> bool:
        return True

    @property
    def state_grows(self) -> bool:
        return False

    def init_state(
        self, batch: int, *, device: torch.device | str | None = None, dtype: torch.dtype | None = None
    ) -> State:
        return State({}, owner="AdditiveAttention")

    def check_state(self, x: Tensor, state: State) -> None:
        _memory.check_rows(self, x, state)

    def forward(self, x: Tensor, state: State | None = None, context: Context = EMPTY) -> tuple[Tensor, State]:
        self.check(x, state, context)
        state = self._read(x, state, context)
        seen = _memory.visible(self, x, state, context)
        q = self._ask(x, state, context)
        y = additive.tiled(q, state["k"], state["memory"], self.score, seen).reshape(*x.shape[:2], -1)
        return silence(self.out(y), context.mask), state

    def weights(self, x: Tensor, context: Context = EMPTY, rows: slice = ALL) -> Tensor:
        """The attention weights of x [B T D] over the memory, made on demand: float64 [B 1 t S]."""
        state = self._read(x, None, context)
        q, seen = self._ask(x, state, context), _memory.visible(self, x, state, context)
        found = additive.weights(q.double(), state["k"].double(), self.score.double(), seen)
        return _memory.per_row(found.unsqueeze(1), x, rows)

    def _read(self, x: Tensor, state: State | None, context: Context) -> State:
        def project(memory: Tensor) -> dict[str, Tensor]:
            return {"k": self.k(memory), "memory": memory.clone()}  # which may change after the call

        return _memory.read(self, x, state, context, self.d_memory, project)

    def _ask(self, x: Tensor, state: State, context: Context) -> Tensor:
        """Queries [M (B/M * T) A], those that share a memory row in a row."""
        return self.q(silence(x, context.mask)).reshape(state["k"].shape[0], -1, self.score.shape[0])


CROSS_MIXER = AdditiveAttention
