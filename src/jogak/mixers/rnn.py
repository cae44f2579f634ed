"""Elman's recurrent network: a hidden state that each position rewrites.

Source: Elman 1990.

Legend: B batch, T time, D model width, H hidden width.
"""

import torch
from torch import Tensor

from jogak.errors import UserError
from jogak.layers.linear import Linear
from jogak.layers.recurrence import Recurrence
from jogak.mixers.contract import EMPTY, Context, Mixer, State, silence


class RNN(Mixer):
    """h_t = tanh(W x_t + U h_(t-1) + b): [B T D] -> [B T D].

    hidden: H, where None the model's width. What is heard is h itself, bounded by 1, as in the papers; only another
    width than the model's is projected back. State: h [B H], in float32 at least, and the open document.

    Raises: UserError for a hidden width below 1.
    """

    causal_only = True
    wide = frozenset({"h"})

    def __init__(self, d_model: int, hidden: int | None = None) -> None:
        super().__init__(d_model)
        if hidden is not None and hidden < 1:
            raise UserError(f"rnn: hidden must be at least 1, got {hidden}")
        self.cell = Recurrence("rnn", d_model, hidden or d_model)
        self.out = Linear(hidden, d_model) if hidden and hidden != d_model else None

    @property
    def state_grows(self) -> bool:
        return False

    def init_state(
        self, batch: int, *, device: torch.device | str | None = None, dtype: torch.dtype | None = None
    ) -> State:
        return State(self.cell.empty(batch, device, dtype), owner="RNN")

    def forward(self, x: Tensor, state: State | None = None, context: Context = EMPTY) -> tuple[Tensor, State]:
        self.check(x, state, context)
        state = self.init_state(x.shape[0], device=x.device, dtype=x.dtype) if state is None else state
        y, held = self.cell(x, state, context.mask, context.segments)
        if self.out is not None:
            y = silence(self.out(y), context.mask)
        return y, State(held, seen=state.seen + x.shape[1], owner="RNN")


MIXER = RNN
