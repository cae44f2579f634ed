"""Dot-product attention to a memory, one head wide: Luong's.

Source: Luong et al. 2015 (1508.04025) section 3.1. Legend: B batch, T time, D model width, M rows of memory,
S length of memory.
"""

from typing import Literal

import torch
from torch import Tensor

from jogak.errors import UserError, nearest
from jogak.layers.linear import Linear
from jogak.mixers import _memory
from jogak.mixers.contract import EMPTY, Context, Mixer, State, silence
from jogak.ops.attention import ALL, FORMS, weights

Score = Literal["dot", "general"]


class DotAttention(Mixer):
    """y = W_o sum_s a_s m_s, a = softmax_s(score(x, m_s)): x [B T D], memory m [M S D_memory] -> [B T D].

    score: 'dot', x . m_s, or 'general', x . W m_s. scaled: divide it by sqrt(D), for inputs with entries near 1
    instead of an LSTM's. The paper's tanh(W_c [y; h]) is this and the residual. B is a multiple of M: rows b of x
    read memory row b // (B / M). State: the memory, and W m where there is a W, computed at the first call. A row
    whose memory is all padding gets zeros before W_o.

    Raises: UserError for an unknown score, and for 'dot' of two widths.
    """

    supports_cross = True

    def __init__(
        self, d_model: int, score: Score = "general", *, scaled: bool = False, d_memory: int | None = None
    ) -> None:
        super().__init__(d_model)
        if score not in ("dot", "general"):
            raise UserError(f"dot: there is no score '{score}'{nearest(score, ('dot', 'general'))}")
        self.d_memory = d_memory or d_model
        if score == "dot" and self.d_memory != d_model:
            raise UserError(f"dot: score 'dot' needs d_memory ({self.d_memory}) = d_model ({d_model}); use 'general'")
        # ops.attention divides by sqrt(D).
        self.scale = 1.0 if scaled else d_model**0.5
        self.k = Linear(self.d_memory, d_model, bias=False) if score == "general" else None
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
        return State({}, owner="DotAttention")

    def check_state(self, x: Tensor, state: State) -> None:
        _memory.check_rows(self, x, state)

    def forward(self, x: Tensor, state: State | None = None, context: Context = EMPTY) -> tuple[Tensor, State]:
        self.check(x, state, context)
        state = self._read(x, state, context)
        seen = _memory.visible(self, x, state, context)
        values = state.get("memory", state["k"]).unsqueeze(2)
        y = FORMS["auto"](self._ask(x, state, context), state["k"].unsqueeze(2), values, seen, None)
        return silence(self.out(y.reshape(*x.shape[:2], -1)), context.mask), state

    def weights(self, x: Tensor, context: Context = EMPTY, rows: slice = ALL) -> Tensor:
        """The attention weights of x [B T D] over the memory, made on demand: float64 [B 1 t S]."""
        state = self._read(x, None, context)
        seen = _memory.visible(self, x, state, context)
        return _memory.per_row(weights(self._ask(x, state, context), state["k"].unsqueeze(2), seen), x, rows)

    def _read(self, x: Tensor, state: State | None, context: Context) -> State:
        def project(memory: Tensor) -> dict[str, Tensor]:
            copy = memory.clone()  # which may change after the call
            return {"k": copy} if self.k is None else {"k": self.k(memory), "memory": copy}

        return _memory.read(self, x, state, context, self.d_memory, project)

    def _ask(self, x: Tensor, state: State, context: Context) -> Tensor:
        """Queries [M (B/M * T) 1 D], those that share a memory row in a row."""
        return (self.scale * silence(x, context.mask)).reshape(state["k"].shape[0], -1, 1, self.d_model)


CROSS_MIXER = DotAttention
