"""Units to vectors: a table, positions, kinds of units, a norm.

Legend: B batch, T time, D model width.
"""

import math
from typing import cast

import torch
from torch import Tensor, nn

from jogak import config
from jogak.layers.dropout import Dropout
from jogak.layers.masking import HiddenAsZero
from jogak.layers.norm import build_norm
from jogak.layers.position import Learned, Sinusoidal
from jogak.layers.quantised import QuantisedEmbedding


class Embedding(nn.Module):
    """dropout(norm(sqrt(D) E[ids] + kind[types] + position)): ids [B T] -> [B T D].

    Source: 1706.03762 sections 3.4 and 3.5; kinds and norm, Devlin et al. 2019 (1810.04805) section 3.
    """

    def __init__(self, given: config.Model, vocab_size: int, stack: config.Stack) -> None:
        super().__init__()
        self.table = nn.Embedding(vocab_size, given.width)
        scale = given.scale_embedding
        self.scale = (math.sqrt(given.width) if scale else 1.0) if isinstance(scale, bool) else scale
        self.position: Sinusoidal | Learned | None = None
        self.offset = given.position_offset
        if given.position.startswith("sinusoidal"):
            inclusive = given.position == "sinusoidal_inclusive"
            halves = inclusive or given.position == "sinusoidal_halves"
            self.position = Sinusoidal(given.width, halves=halves, inclusive=inclusive)
        elif given.position == "learned":
            self.position = Learned(given.width, given.max_length + self.offset)
        self.types = None if given.token_types is None else nn.Embedding(given.token_types, given.width)
        self.hidden = None if given.hidden_id is None else HiddenAsZero(given.hidden_id)
        self.norm: nn.Module | None = None
        if given.embedding_norm:
            self.norm = build_norm(stack.norm, given.width, stack.norm_eps, bias=stack.norm_bias)
        self.dropout = Dropout(given.dropout)

    @property
    def units(self) -> int:
        """How many units the table has."""
        return self.table.num_embeddings

    @property
    def device(self) -> torch.device:
        table = cast(nn.Module, self.table)
        return table.matrix.device if isinstance(table, QuantisedEmbedding) else self.table.weight.device

    @property
    def dtype(self) -> torch.dtype:
        """Of the vectors that it gives."""
        quantised = isinstance(cast(nn.Module, self.table), QuantisedEmbedding)
        return torch.float32 if quantised else self.table.weight.dtype

    def forward(
        self,
        ids: Tensor,
        positions: Tensor,
        types: Tensor | None = None,
        mask: Tensor | None = None,
        segments: Tensor | None = None,
    ) -> Tensor:
        """mask, segments: [B T], for what depends on the whole sequence."""
        x = self.table(ids) * self.scale
        if self.hidden is not None:
            x = self.hidden(x, ids, mask, segments)
        if self.types is not None:
            x = x + self.types(torch.zeros_like(ids) if types is None else types)
        if self.position is not None:
            x = x + self.position(positions + self.offset if self.offset else positions, x.dtype)
        return self.dropout(x if self.norm is None else self.norm(x))
