"""What S4 and S4D share: steps, the discretisation's limits, and how the state space's output leaves the mixer.

Legend: D model width, M modes.
"""

import math

import torch
from torch import Tensor, nn

from jogak.errors import UserError, nearest
from jogak.layers.feedforward import ACTIVATIONS
from jogak.layers.linear import Linear
from jogak.ops import discretise


class Output(nn.Module):
    """y = a * sigmoid(g), [a, g] = W f(y + skip * x) + b; without a gate y = W f(y + skip * x) + b: [... D]."""

    def __init__(self, name: str, d_model: int, activation: str, *, gated: bool) -> None:
        super().__init__()
        if activation not in ACTIVATIONS:
            raise UserError(f"{name}: there is no activation '{activation}'{nearest(activation, ACTIVATIONS)}")
        self.activation, self.gated = ACTIVATIONS[activation], gated
        self.skip = nn.Parameter(torch.randn(d_model))
        self.out = Linear(d_model, 2 * d_model if gated else d_model)

    def forward(self, y: Tensor, x: Tensor) -> Tensor:
        y = self.out(self.activation(y + self.skip * x))
        return nn.functional.glu(y, dim=-1) if self.gated else y


def draw_steps(name: str, d_model: int, dt_min: float, dt_max: float) -> nn.Parameter:
    """log dt of each channel [D], uniform between the logarithms of the two.

    Raises: UserError where they are not 0 < dt_min <= dt_max.
    """
    if not 0 < dt_min <= dt_max:
        raise UserError(f"{name}: dt_min ({dt_min}) must be above 0 and at most dt_max ({dt_max})")
    return nn.Parameter(torch.empty(d_model).uniform_(math.log(dt_min), math.log(dt_max)))


def check_method(name: str, method: str, eigenvalues: Tensor, dt_max: float) -> None:
    """Refuse an unknown discretisation, and Euler's where a fresh state would already grow without bound.

    Raises: UserError.
    """
    discretise.check(method)
    limit = float((-2 * eigenvalues.real / eigenvalues.abs().square()).min())
    if method == "euler" and dt_max > limit:
        raise UserError(
            f"{name}: euler is stable for steps up to {limit:.2g} with these modes, and dt_max is {dt_max}; lower "
            "dt_max or choose another discretisation, such as bilinear"
        )


def spread(values: Tensor, d_model: int) -> nn.Parameter:
    """A parameter that starts as the same complex values [...] for each channel: [D ... 2]."""
    parameter = nn.Parameter(torch.empty(d_model, *values.shape, 2))
    with torch.no_grad():
        parameter.copy_(torch.view_as_real(values.resolve_conj()).expand_as(parameter))
    return parameter


class Modes(nn.Module):
    """w = -exp(decay) + i turning [D M]: eigenvalues whose real part is negative whatever is learned.

    least: the smallest decay rate that one starts with; LegT's normal part has none at all.
    """

    undecayed = frozenset({"decay", "turning"})

    def __init__(self, eigenvalues: Tensor, d_model: int, least: float = 1e-4) -> None:
        super().__init__()
        self.decay = nn.Parameter(torch.empty(d_model, len(eigenvalues)))
        self.turning = nn.Parameter(torch.empty(d_model, len(eigenvalues)))
        with torch.no_grad():
            self.decay.copy_((-eigenvalues.real).clamp_min(least).log().expand_as(self.decay))
            self.turning.copy_(eigenvalues.imag.expand_as(self.turning))

    def forward(self, dtype: torch.dtype) -> Tensor:
        """[D M 2] in `dtype`."""
        return torch.stack([-self.decay.to(dtype).exp(), self.turning.to(dtype)], -1)
