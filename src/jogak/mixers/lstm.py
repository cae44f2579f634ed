"""Long short-term memory: a cell that gates write to, keep and read.

Source: Hochreiter & Schmidhuber 1997; forget gate of Gers et al. 2000.

Legend: B batch, T time, D model width, H hidden width.
"""

import torch
from torch import Tensor

from jogak.errors import UserError
from jogak.layers.linear import Linear
from jogak.layers.recurrence import Recurrence
from jogak.mixers.contract import EMPTY, Context, Mixer, State, silence


class LSTM(Mixer):
    """c_t = f c_(t-1) + i g, h_t = o tanh(c_t), with gates i, f, o of x_t and h_(t-1): [B T D] -> [B T D].

    hidden: H, where None the model's width. What is heard is h itself, bounded by 1, as in the papers; only another
    width than the model's is projected back. State: h and c [B H], and the open document.

    Raises: UserError for a hidden width below 1.
    """

    causal_only = True

    def __init__(self, d_model: int, hidden: int | None = None) -> None:
        super().__init__(d_model)
        if hidden is not None and hidden < 1:
            raise UserError(f"lstm: hidden must be at least 1, got {hidden}")
        self.cell = Recurrence("lstm", d_model, hidden or d_model)
        self.out = Linear(hidden, d_model) if hidden and hidden != d_model else None

    @property
    def state_grows(self) -> bool:
        return False

    def init_state(
        self, batch: int, *, device: torch.device | str | None = None, dtype: torch.dtype | None = None
    ) -> State:
        return State(self.cell.empty(batch, device, dtype), owner="LSTM")

    def forward(self, x: Tensor, state: State | None = None, context: Context = EMPTY) -> tuple[Tensor, State]:
        self.check(x, state, context)
        state = self.init_state(x.shape[0], device=x.device, dtype=x.dtype) if state is None else state
        y, held = self.cell(x, state, context.mask, context.segments)
        if self.out is not None:
            y = silence(self.out(y), context.mask)
        return y, State(held, seen=state.seen + x.shape[1], owner="LSTM")


MIXER = LSTM
