"""How a fresh model's weights are drawn, in one place."""

import math
from typing import Literal

from torch import Tensor, nn

from jogak.models.block import Stack


def initialise(model: nn.Module, kind: Literal["xavier", "normal"], width: int) -> None:
    """Draw every embedding and linear weight anew; biases start at zero; what a mixer draws for itself stays.

    xavier: uniform with variance 2 / (fan_in + fan_out) (Glorot & Bengio 2010), embeddings normal with variance
    1 / width, so that sqrt(width) * embedding has unit variance. normal: standard deviation 0.02, and
    0.02 / sqrt(2 depth) where a sublayer writes to the residual stream (Radford et al. 2019, section 2.3).
    """
    for module in model.modules():
        if isinstance(module, nn.Linear):
            _linear(module.weight, kind)
            if module.bias is not None:
                nn.init.zeros_(module.bias)
        elif isinstance(module, nn.Embedding):
            nn.init.normal_(module.weight, std=width**-0.5 if kind == "xavier" else 0.02)
    if kind == "normal":
        for stack in (m for m in model.modules() if isinstance(m, Stack)):
            for name, parameter in stack.named_parameters():
                if name.endswith("out.weight"):
                    nn.init.normal_(parameter, std=0.02 / math.sqrt(2 * len(stack.blocks)))


def _linear(weight: Tensor, kind: Literal["xavier", "normal"]) -> None:
    if kind == "xavier":
        nn.init.xavier_uniform_(weight)
    else:
        nn.init.normal_(weight, std=0.02)
