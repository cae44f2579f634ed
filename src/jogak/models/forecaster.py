"""An encoder of a series and how the series goes on.

Legend: B batch, L values, C channels, T positions, D model width, H values ahead.
"""

import torch
from torch import Tensor, nn

from jogak import config
from jogak.errors import UserError
from jogak.layers.dropout import Dropout
from jogak.layers.inputs import Measured
from jogak.layers.linear import Linear
from jogak.layers.pooling import POOLS
from jogak.mixers import Context
from jogak.models.initialise import initialise
from jogak.models.topologies import Coder


class Forecaster(nn.Module):
    """loc + scale (W dropout(pool(stack(x))) + b): values [B L C] -> the next ones [B H C], each channel for itself.

    loc, scale: what the input took away. head.size: H. head.pool: which positions are read; all: one behind another.

    Raises: UserError for an input that is no series, or where nothing says how far to look ahead.
    Source: Nie et al. 2023 (2211.14730) section 3.1.
    """

    def __init__(self, given: config.Model, vocab_size: int) -> None:
        super().__init__()
        self.config, head = given, given.head
        self.encoder = Coder(given, vocab_size, "encoder")
        if not isinstance(self.encoder.input, Measured):
            raise UserError("model.head.kind: 'forecast' needs a series to go on; set model.input to series")
        if head.size is None:
            raise UserError("model.head.size is not set: how many values ahead are to be told?")
        self.pool = nn.Flatten() if head.pool == "all" else _pool(head.pool, given.width)
        width = given.width * (self.encoder.input.positions if head.pool == "all" else 1)
        self.dropout = Dropout(head.dropout)
        self.head = Linear(width, head.size)
        initialise(self, given.init, given.width)

    @property
    def ahead(self) -> int:
        """H."""
        return self.head.out_features

    @property
    def length(self) -> int:
        """L."""
        return self.series.length

    @property
    def series(self) -> Measured:
        assert isinstance(self.encoder.input, Measured)
        return self.encoder.input

    def forward(self, x: Tensor, mask: Tensor | None = None) -> Tensor:
        """mask: bool [B L] or [B L C], False: a value is missing, which NaN says too."""
        hidden, _ = self.encoder(x, None, Context(mask=mask))
        y = self.head(self.dropout(self.pool(hidden))).unflatten(0, (x.shape[0], -1)).transpose(1, 2)
        loc, scale = self.series.measure(x, mask)
        return torch.addcmul(loc, y.to(loc.dtype), scale).to(y.dtype)


def _pool(name: str, width: int) -> nn.Module:
    if name not in POOLS:
        raise UserError(f"model.head.pool: '{name}' is not for a forecast; use all, {', '.join(POOLS)}")
    return POOLS[name](width)
