"""What stands behind the last stack: scores for every unit, or one vector for a sequence.

Legend: B batch, T time, D model width, V vocabulary.
"""

from torch import Tensor, nn

from jogak import config
from jogak.layers.feedforward import ACTIVATIONS
from jogak.layers.norm import build_norm
from jogak.layers.pooling import POOLS


class TokenHead(nn.Module):
    """Logits of each position over the vocabulary, cap(W (s transform(x)) + b): [B T D] -> [B T V].

    transform: a layer with an activation and a norm (masked language models, Devlin et al. 2019, 1810.04805). s:
    head.scale. cap: c tanh(score / c), head.softcap (Gemma Team 2024, 2408.00118, section 2). All but W may be absent.
    """

    def __init__(self, given: config.Model, vocab_size: int, stack: config.Stack) -> None:
        super().__init__()
        head = given.head
        self.transform = None if head.transform is None else Transform(given, head.transform, stack)
        self.projection = nn.Linear(given.width, vocab_size, bias=head.bias)
        self.scale, self.softcap = head.scale, head.softcap

    def forward(self, x: Tensor) -> Tensor:
        if self.transform is not None:
            x = self.transform(x)
        if self.scale is not None:
            x = x * self.scale
        y = self.projection(x)
        return y if self.softcap is None else (y / self.softcap).tanh() * self.softcap

    @property
    def plain(self) -> bool:
        """Whether the scores are W x and nothing else."""
        return self.transform is None and self.scale is None and self.softcap is None and self.projection.bias is None


class Transform(nn.Module):
    """norm(f(W x + b)): [B T D] -> [B T D]. Source: Devlin et al. 2019 (1810.04805), its published code."""

    def __init__(self, given: config.Model, activation: config.Activation, stack: config.Stack) -> None:
        super().__init__()
        self.dense = Dense(given.width, given.width, activation, bias=given.head.transform_bias)
        self.norm = build_norm(stack.norm, given.width, stack.norm_eps, bias=stack.norm_bias)

    def forward(self, x: Tensor) -> Tensor:
        return self.norm(self.dense(x))


class Dense(nn.Module):
    """f(W x + b): [... D] -> [... D']."""

    def __init__(self, width: int, out: int, activation: config.Activation, *, bias: bool = True) -> None:
        super().__init__()
        self.linear = nn.Linear(width, out, bias=bias)
        self.activation = ACTIVATIONS[activation]

    def forward(self, x: Tensor) -> Tensor:
        return self.activation(self.linear(x))


class Pooler(nn.Module):
    """f(W pool(x) + b): [B T D] -> [B D]."""

    def __init__(self, given: config.Model, activation: config.Activation) -> None:
        super().__init__()
        self.pool = POOLS[given.head.pool](given.width)
        self.dense = Dense(given.width, given.width, activation)

    def forward(self, x: Tensor, mask: Tensor | None = None) -> Tensor:
        return self.dense(self.pool(x, mask))


def build_head(given: config.Model, vocab_size: int, stack: config.Stack) -> nn.Module:
    """Scores for every unit, or where head.kind is 'none' nothing."""
    return TokenHead(given, vocab_size, stack) if given.head.kind == "units" else nn.Identity()


def build_pooler(given: config.Model) -> Pooler | None:
    """What makes one vector of a sequence, where head.kind is 'none' and head.dense says how."""
    head = given.head
    return None if head.kind != "none" or head.dense is None else Pooler(given, head.dense)
