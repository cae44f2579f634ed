"""Several positions that each classify, and the mean of what they say.

Legend: B batch, N voters, D model width, C classes.
"""

import torch
from torch import Tensor, nn


class Votes(nn.Module):
    """y = mean_n(W_n x_n + b_n): x [B N D] -> [B C].

    Source: Touvron et al. 2021 (2012.12877) section 4: a class token and a distillation token.
    """

    undecayed = frozenset({"bias"})

    def __init__(self, d_model: int, classes: int, voters: int) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.empty(voters, classes, d_model))
        self.bias = nn.Parameter(torch.zeros(voters, classes))
        nn.init.normal_(self.weight, std=0.02)

    def forward(self, x: Tensor) -> Tensor:
        scores = torch.einsum("bnd,ncd->bnc", x, self.weight) + self.bias
        return scores.mean(1)
