"""A mixture of experts: each position goes to a few of many feedforwards.

Legend: B batch, T time, N = B T positions, D model width, F inner width, E experts, k chosen of them.
"""

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from jogak.errors import UserError
from jogak.layers.feedforward import ACTIVATIONS, GATED
from jogak.layers.linear import Linear


class Experts(nn.Module):
    """y = sum over the k likeliest experts e of p_e f_e(x), p = softmax(W_r x): [B T D] -> [B T D].

    norm_chosen: the k weights are divided by their sum. In training the router's scores of the last call stay in
    `scores` [N E], from which `balance_loss` is computed.
    Source: Shazeer et al. 2017 (1701.06538); Jiang et al. 2024 (Mixtral, 2401.04088) section 2.1.

    Raises: UserError for more chosen than there are.
    """

    undecayed = frozenset({"inner_bias", "out_bias"})

    def __init__(
        self,
        d_model: int,
        width: int,
        activation: str,
        experts: int,
        chosen: int,
        *,
        bias: bool = False,
        norm_chosen: bool = True,
    ) -> None:
        super().__init__()
        if chosen > experts:
            raise UserError(f"feedforward: {chosen} experts cannot be chosen of {experts}")
        gated = activation in GATED
        self.activation = GATED[activation] if gated else ACTIVATIONS[activation]
        self.chosen, self.norm_chosen = chosen, norm_chosen
        self.router = Linear(d_model, experts, bias=False)
        inner = 2 * width if gated else width  # gate, then value
        self.inner = nn.Parameter(torch.empty(experts, inner, d_model))
        self.out = nn.Parameter(torch.empty(experts, d_model, width))
        self.inner_bias = nn.Parameter(torch.zeros(experts, inner)) if bias else None
        self.out_bias = nn.Parameter(torch.zeros(experts, d_model)) if bias else None
        for weight in (self.inner, self.out):
            nn.init.normal_(weight, std=0.02)
        self.scores: Tensor | None = None

    def forward(self, x: Tensor) -> Tensor:
        rows = x.reshape(-1, x.shape[-1])
        scores = self.router(rows)
        self.scores = scores if self.training else None
        weight, expert = scores.float().softmax(-1).topk(self.chosen, dim=-1)  # [N k]
        if self.norm_chosen:
            weight = weight / weight.sum(-1, keepdim=True)
        return self._mix(rows, weight.to(x.dtype), expert).view_as(x)

    def _mix(self, rows: Tensor, weight: Tensor, expert: Tensor) -> Tensor:
        # Taken apart once: backward then puts their gradients together once, not a whole stack for each expert.
        parts = [self.inner.unbind(), self.out.unbind()]
        parts += [[None] * len(self.inner) if b is None else b.unbind() for b in (self.inner_bias, self.out_bias)]
        experts = list(zip(*parts, strict=True))
        if rows.device.type == "meta":  # nobody knows who goes where: as many positions and experts as there will be
            y = torch.zeros_like(rows)
            for rank in range(self.chosen):
                y = y + self._one(experts[rank], rows) * weight[:, rank : rank + 1]
            return y
        if torch.compiler.is_compiling():  # no shapes that depend on data
            y = torch.zeros_like(rows)
            spread = torch.zeros(len(rows), len(experts), dtype=rows.dtype, device=rows.device)
            spread = spread.scatter(1, expert, weight)
            for number, one in enumerate(experts):
                y = y + spread[:, number : number + 1] * self._one(one, rows)
            return y
        if not len(rows):
            return torch.zeros_like(rows)
        order = expert.flatten().argsort(stable=True)  # of choices: those of the first expert, of the second, ...
        place = order // self.chosen
        counts = torch.bincount(expert.flatten(), minlength=len(experts)).tolist()
        given = zip(experts, rows[place].split(counts), strict=True)
        made = torch.cat([self._one(one, part) for one, part in given if len(part)])
        return torch.zeros_like(rows).index_add_(0, place, made * weight.flatten()[order].unsqueeze(1))

    def _one(self, expert: Sequence[Tensor | None], x: Tensor) -> Tensor:
        inner, out, inner_bias, out_bias = expert
        assert inner is not None
        assert out is not None
        return F.linear(self.activation(F.linear(x, inner, inner_bias)), out, out_bias)


def balance_loss(model: nn.Module, mask: Tensor | None = None) -> Tensor | None:
    """E sum_e f_e p_e over all mixtures of the last training call: k where experts are used alike, more where not.

    f_e: choices of expert e for each position, p_e: its mean probability, both over the real positions of all
    layers (mask: bool [B T]). None where the model has no mixture, or has not been called in training.
    Source: Fedus et al. 2021 (2101.03961) section 2.2; over all layers together and k choices, as Mixtral does.
    """
    layers = [m for m in model.modules() if isinstance(m, Experts) and m.scores is not None]
    if not layers:
        return None
    scores = torch.stack([m.scores for m in layers if m.scores is not None]).float()  # [L N E]
    probable = scores.softmax(-1)
    chosen = torch.zeros_like(probable).scatter(-1, probable.topk(layers[0].chosen, dim=-1).indices, 1.0)
    real = torch.ones_like(probable[..., :1])
    if mask is not None:
        real = mask.reshape(1, -1, 1).to(probable.dtype).expand_as(real)
    share = (chosen * real).sum((0, 1)) / real.sum()
    mean = (probable * real).sum((0, 1)) / real.sum()
    return probable.shape[-1] * (share * mean).sum()
