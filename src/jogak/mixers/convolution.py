"""Convolution over time, looking back only or to both sides.

Sources: Waibel et al. 1989; Kim 2014 (1408.5882) for sentences; dilation, van den Oord et al. 2016 (1609.03499).

Legend: B batch, T time, D model width, K kernel, E dilation.
"""

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from jogak.errors import UserError
from jogak.mixers.contract import EMPTY, Context, Mixer, State
from jogak.ops import convolution
from jogak.ops.documents import Documents


class Convolution(Mixer):
    """y_t = bias + sum_j W_j x_(t - (K - 1 - j) E), or with x_(t + (j - (K - 1) / 2) E) where not causal.

    x [B T D] -> y [B T D]. kernel: K places E (dilation) apart, an odd number of them where not causal. depthwise:
    each channel for itself, W_j [D], and the feedforward mixes channels; else W_j [D D]. What lies outside the
    document is zero. State: the last (K - 1) E inputs, and the open document.

    Raises: UserError for sizes that do not fit.
    """

    def __init__(
        self,
        d_model: int,
        kernel: int = 3,
        dilation: int = 1,
        *,
        causal: bool = False,
        depthwise: bool = True,
        bias: bool = True,
    ) -> None:
        super().__init__(d_model)
        if kernel < 2 or dilation < 1:
            raise UserError(f"convolution: kernel ({kernel}) must be at least 2 and dilation ({dilation}) at least 1")
        if not causal and kernel % 2 == 0:
            raise UserError(f"convolution: a kernel of {kernel} has no middle, which it needs to look both ways")
        self.is_causal, self.dilation, self.reach = causal, dilation, (kernel - 1) * dilation
        shape = (d_model, kernel) if depthwise else (d_model, d_model, kernel)
        bound = (kernel if depthwise else d_model * kernel) ** -0.5
        self.weight = nn.Parameter(torch.empty(shape).uniform_(-bound, bound))
        self.bias = nn.Parameter(torch.zeros(d_model)) if bias else None

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
            raise UserError("convolution: only a causal one has a state; build it with causal=True")
        past = torch.zeros(batch, self.reach, self.d_model, device=device, dtype=dtype)
        return State(
            {"past": past, "segment": torch.zeros(batch, device=device, dtype=torch.int64)}, owner="Convolution"
        )

    def forward(self, x: Tensor, state: State | None = None, context: Context = EMPTY) -> tuple[Tensor, State]:
        self.check(x, state, context)
        if not self.causal:
            return self._centred(x, state, context)
        state = self.init_state(x.shape[0], device=x.device, dtype=x.dtype) if state is None else state
        documents = Documents.apart((x.shape[0], x.shape[1]), context.mask, context.segments, state["segment"])
        y, past = convolution.causal(
            documents.take(x),
            self.weight,
            self.bias,
            documents.begin(state["past"]),
            None,
            documents.lengths,
            self.dilation,
        )
        held = {"past": documents.end(past), "segment": documents.segment.clone()}
        return documents.put(y), State(held, seen=state.seen + x.shape[1], owner="Convolution")

    def _centred(self, x: Tensor, state: State | None, context: Context) -> tuple[Tensor, State]:
        if state is not None:
            raise UserError("convolution: looks ahead, so its input cannot come in parts; build it with causal=True")
        before = torch.zeros(x.shape[0], device=x.device, dtype=torch.int64)
        documents = Documents.apart((x.shape[0], x.shape[1]), context.mask, context.segments, before)
        half = self.reach // 2
        rows = F.pad(documents.take(x), (0, 0, half, half))  # behind a row's end stand zeros already
        y = convolution.convolve(rows, self.weight, self.bias, self.dilation)
        return documents.put(y), State({}, seen=x.shape[1], owner="Convolution")


MIXER = Convolution
