"""What stands behind the last stack: scores for every unit, or one vector for a sequence.

Legend: B batch, T time, D model width, V vocabulary.
"""

from torch import Tensor, nn

from jogak import config
from jogak.errors import UserError
from jogak.layers.dropout import Dropout
from jogak.layers.feedforward import ACTIVATIONS
from jogak.layers.inputs import Input, Measured
from jogak.layers.linear import Linear
from jogak.layers.norm import build_norm
from jogak.layers.pooling import POOLS, AtUnit


class TokenHead(nn.Module):
    """Logits of each position over the vocabulary, cap(W (s transform(x)) + b): [B T D] -> [B T V].

    transform: a layer with an activation and a norm (masked language models, Devlin et al. 2019, 1810.04805). s:
    head.scale. cap: c tanh(score / c), head.softcap (Gemma Team 2024, 2408.00118, section 2). All but W may be absent.
    """

    def __init__(self, given: config.Model, vocab_size: int, stack: config.Stack) -> None:
        super().__init__()
        head = given.head
        self.transform = None if head.transform is None else Transform(given, head.transform, stack)
        self.projection = Linear(given.width, vocab_size, bias=head.bias)
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
        self.linear = Linear(width, out, bias=bias)
        self.activation = ACTIVATIONS[activation]

    def forward(self, x: Tensor) -> Tensor:
        return self.activation(self.linear(x))


class Pooler(nn.Module):
    """f(W norm(pool(x)) + b): [B T D] -> [B D]; the norm (head.pool_norm) and the layer (head.dense) may be absent."""

    def __init__(self, given: config.Model, stack: config.Stack) -> None:
        super().__init__()
        head, width = given.head, given.width
        self.pool = AtUnit(head.pool_id) if head.pool == "unit" else POOLS[head.pool](width)
        self.norm = build_norm(stack.norm, width, stack.norm_eps, bias=stack.norm_bias) if head.pool_norm else None
        self.dense = None if head.dense is None else Dense(width, width, head.dense)

    def forward(self, x: Tensor, mask: Tensor | None = None, ids: Tensor | None = None) -> Tensor:
        """ids [B T]: what x was made of, where head.pool is 'unit'."""
        if isinstance(self.pool, AtUnit):
            if ids is None:
                raise UserError("model.head.pool: 'unit' looks for a unit among the ids; give them too")
            y = self.pool(x, ids)
        else:
            y = self.pool(x, mask)
        y = y if self.norm is None else self.norm(y)
        return y if self.dense is None else self.dense(y)


class VectorHead(nn.Module):
    """W pooler(x): [B T D] -> [B E], E = head.size. Source: Radford et al. 2021 (2103.00020) section 2.4."""

    def __init__(self, given: config.Model, stack: config.Stack) -> None:
        super().__init__()
        self.pooler = Pooler(given, stack)
        self.projection = Linear(given.width, given.head.size or given.width, bias=False)

    def forward(self, x: Tensor, mask: Tensor | None = None, ids: Tensor | None = None) -> Tensor:
        return self.projection(self.pooler(x, mask, ids))


class PatchHead(nn.Module):
    """W dropout(x) + b of each position that is a patch: [B T D] -> [B patches P].

    Source: Nie et al. 2023 (2211.14730) section 3.2.
    """

    def __init__(self, given: config.Model, series: Measured) -> None:
        super().__init__()
        self.patches = series.patches
        self.dropout, self.projection = Dropout(given.head.dropout), Linear(given.width, series.patch)

    def forward(self, x: Tensor) -> Tensor:
        return self.projection(self.dropout(x[:, x.shape[1] - self.patches :]))


def build_head(given: config.Model, vocab_size: int, stack: config.Stack, source: Input | None = None) -> nn.Module:
    """Scores for every unit, one vector for a sequence, patches of a series, or where head.kind is 'none' nothing.

    source: what the stack reads instead of units.

    Raises: UserError for patches of what is no series.
    """
    if given.head.kind == "patches":
        if not isinstance(source, Measured):
            raise UserError("model.head.kind: 'patches' are of a series; set model.input to series")
        return PatchHead(given, source)
    if given.head.kind == "vector":
        return VectorHead(given, stack)
    return TokenHead(given, vocab_size, stack) if given.head.kind == "units" else nn.Identity()


def build_pooler(given: config.Model, stack: config.Stack) -> Pooler | None:
    """What makes one vector of a sequence, where head.kind is 'none' and its other options say how."""
    head = given.head
    said = head.dense is not None or head.pool_norm or head.pool == "unit"
    return Pooler(given, stack) if head.kind == "none" and said else None
