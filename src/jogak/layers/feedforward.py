"""The part of a block that works on each position alone.

Legend: B batch, T time, D model width, F inner width.
"""

from collections.abc import Callable
from functools import partial

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from jogak.errors import UserError, nearest
from jogak.layers.linear import Linear
from jogak.ops import activation as passes

Activation = Callable[[Tensor], Tensor]


def quick_gelu(x: Tensor) -> Tensor:
    """x sigmoid(1.702 x). Source: Hendrycks & Gimpel 2016 (1606.08415) section 2."""
    return x * torch.sigmoid(1.702 * x)


def squared_relu(x: Tensor) -> Tensor:
    """max(x, 0)^2. Source: So et al. 2021 (2109.08668)."""
    return F.relu(x).square()


def linear(x: Tensor) -> Tensor:
    """x."""
    return x


ACTIVATIONS: dict[str, Activation] = {
    "relu": F.relu,
    "gelu": F.gelu,
    "gelu_tanh": partial(passes.auto, kind="gelu_tanh"),
    "silu": F.silu,
    "quick_gelu": quick_gelu,
    "relu2": squared_relu,
    "tanh": torch.tanh,
    "linear": linear,
}
# Gated forms (Shazeer 2020, 2002.05202), [... 2F] -> [... F]: the activation of the first half scales the second.
GATED: dict[str, Activation] = {
    "reglu": partial(passes.auto, kind="relu", gated=True),
    "geglu": partial(passes.auto, kind="gelu", gated=True),
    "geglu_tanh": partial(passes.auto, kind="gelu_tanh", gated=True),
    "swiglu": partial(passes.auto, kind="silu", gated=True),
}


class FeedForward(nn.Module):
    """y = W_2 f(W_1 x + b_1) + b_2: [B T D] -> [B T D]. Source: Vaswani et al. 2017 (1706.03762) section 3.3."""

    def __init__(self, d_model: int, width: int, activation: str = "relu", *, bias: bool = True) -> None:
        super().__init__()
        self.activation = ACTIVATIONS[activation]
        self.inner = Linear(d_model, width, bias=bias)
        self.out = Linear(width, d_model, bias=bias)

    def forward(self, x: Tensor) -> Tensor:
        return self.out(self.activation(self.inner(x)))


class GatedFeedForward(nn.Module):
    """y = W_2 (f(W_g x) * (W_1 x)): [B T D] -> [B T D]. Source: Shazeer 2020 (2002.05202) equation 6."""

    def __init__(self, d_model: int, width: int, activation: str = "swiglu", *, bias: bool = False) -> None:
        super().__init__()
        self.activation = GATED[activation]
        self.inner = Linear(d_model, 2 * width, bias=bias)  # gate, then value
        self.out = Linear(width, d_model, bias=bias)

    def forward(self, x: Tensor) -> Tensor:
        return self.out(self.activation(self.inner(x)))


def build_feedforward(d_model: int, width: int, activation: str, *, bias: bool) -> nn.Module:
    """The plain or the gated form, whichever `activation` belongs to.

    Raises: UserError naming the nearest activation.
    """
    if activation in GATED:
        return GatedFeedForward(d_model, width, activation, bias=bias)
    if activation in ACTIVATIONS:
        return FeedForward(d_model, width, activation, bias=bias)
    raise UserError(f"there is no activation '{activation}'{nearest(activation, [*ACTIVATIONS, *GATED])}")
