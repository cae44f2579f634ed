"""A classifier with both sides: a decoder reads again what its encoder has read, and the last thing it wrote is judged.

Legend: B batch, T time, C classes.
"""

import torch
from torch import Tensor, nn

from jogak import config
from jogak.errors import UserError
from jogak.layers.dropout import Dropout
from jogak.layers.linear import Linear
from jogak.layers.pooling import POOLS
from jogak.mixers import Context
from jogak.models.heads import Dense
from jogak.models.initialise import initialise
from jogak.models.topologies import Coder


class Rereader(nn.Module):
    """ids [B T] -> logits [B C] = W dropout(f(V pool(decoder(start, ids, reading encoder(ids))) + b)) + c.

    The decoder reads head.start_id and then all units but the last, so that what it writes at the last place (head.pool
    'last') has seen every unit before the end mark there. head.pool_id: only places that hold this unit are pooled, in
    rows that have one.

    Raises: UserError where the number of classes is not known, or for heads of other kinds of classifiers.
    Source: Lewis et al. 2019 (1910.13461) section 3.1.
    """

    def __init__(self, given: config.Model, vocab_size: int) -> None:
        super().__init__()
        head = given.head
        if head.classes is None or head.start_id is None:
            raise UserError("model.head: a classifier of topology 'encoder-decoder' needs classes and start_id")
        if head.pool not in POOLS or head.transform is not None or head.voters > 1 or given.input is not None:
            raise UserError("model.head: with topology 'encoder-decoder', a classifier reads units and pools one place")
        self.config, self.start, self.end = given, head.start_id, head.pool_id
        self.decoder = Coder(given, vocab_size, "decoder")
        self.encoder = Coder(given, vocab_size, "encoder")
        if given.tie in ("embeddings", "all"):
            self.encoder.embedding.table.weight = self.decoder.embedding.table.weight
        inner = head.dense_size or given.width
        self.pool = POOLS[head.pool](given.width)
        self.dense = None if head.dense is None else Dense(given.width, inner, head.dense)
        self.dropout = Dropout(head.dropout)
        self.head = Linear(given.width if self.dense is None else inner, head.classes, bias=head.class_bias)
        initialise(self, given.init, given.width)

    def forward(self, ids: Tensor, mask: Tensor | None = None) -> Tensor:
        memory, _ = self.encoder(ids, None, Context(mask=mask))
        again = torch.cat([ids[:, :1], ids[:, :-1]], dim=1)
        real = torch.ones_like(ids, dtype=torch.bool) if mask is None else mask
        again = again.masked_fill(real & (real.cumsum(1) == 1), self.start)
        x, _ = self.decoder(again, None, Context(mask=mask, memory=memory, memory_mask=mask))
        if self.end is not None:
            ends = real & (ids == self.end)
            real = torch.where(ends.any(1, keepdim=True), ends, real)
        x = self.pool(x, real)
        return self.head(self.dropout(x if self.dense is None else self.dense(x)))
