"""A stack, one vector for the whole sequence, and a score for each class.

Legend: B batch, T time, D model width, C classes.
"""

from typing import Literal

from torch import Tensor, nn

from jogak import config
from jogak.errors import UserError
from jogak.layers.dropout import Dropout
from jogak.layers.linear import Linear
from jogak.layers.pooling import POOLS, Convolutions
from jogak.layers.votes import Votes
from jogak.mixers import Context
from jogak.models.heads import Dense, Transform
from jogak.models.initialise import initialise
from jogak.models.topologies import Coder


class Classifier(nn.Module):
    """ids [B T] -> logits [B C] = W dropout(pool(stack(ids))) + b, of an encoder or a decoder.

    head.kind 'values': numbers instead, between head.bounds where it says so. Where the input makes several rows of
    one, W reads them side by side.

    head.dense: what is pooled goes through a layer with that activation first; head.transform: with a norm behind it.
    head.voters: instead of pooling, the mean of what several first positions each say.

    Raises: UserError where the number of classes is not known.
    """

    def __init__(self, given: config.Model, vocab_size: int) -> None:
        super().__init__()
        head = given.head
        count = head.size if head.kind == "values" else head.classes
        if count is None:
            key = "size" if head.kind == "values" else "classes"
            raise UserError(f"model.head.{key} is not set and no data says it; set model.head.{key}")
        side: Literal["encoder", "decoder"] = "encoder" if given.topology == "encoder" else "decoder"
        self.config = given
        self.coder = Coder(given, vocab_size, side)
        if head.pool in ("unit", "all"):
            raise UserError(
                f"model.head.pool: '{head.pool}' is for other kinds of heads; a classifier reads 'last', say"
            )
        if head.pool == "convolutions":
            self.pool: nn.Module = Convolutions(given.width, head.widths, head.channels)
            width = head.channels * len(head.widths)
        else:
            self.pool, width = POOLS[head.pool](given.width), given.width
        inner = head.dense_size or given.width
        self.dense = None if head.dense is None else Dense(width, inner, head.dense)
        width = width if self.dense is None else inner
        self.transform: Transform | None = None
        if head.transform is not None:
            if width != given.width:
                raise UserError(
                    "model.head.transform needs a vector of the model's width; set head.dense or another pool"
                )
            self.transform = Transform(given, head.transform, given.stack(side))
        self.dropout = Dropout(head.dropout)
        self.voters, self.bounds = head.voters, head.bounds if head.kind == "values" else None
        rows = 1 if self.coder.input is None else self.coder.input.rows
        if rows > 1 and (head.dense or head.transform or head.voters > 1):
            raise UserError(
                "model.head: rows that the input makes of one are read as they are; leave out dense, "
                "transform and voters"
            )
        if head.voters > 1 and (head.dense or head.transform or head.pool != "first"):
            raise UserError(
                "model.head.voters reads first positions as they are; set pool to first, leave out dense and transform"
            )
        self.head = (
            Votes(width, count, head.voters) if head.voters > 1 else Linear(rows * width, count, bias=head.class_bias)
        )
        initialise(self, given.init, given.width)

    def forward(self, ids: Tensor, mask: Tensor | None = None, types: Tensor | None = None) -> Tensor:
        x, _ = self.coder(ids, None, Context(mask=mask), types)
        if self.coder.input is not None:
            mask = self.coder.input.mask(mask)
        if self.voters > 1:
            return self.head(self.dropout(x[:, : self.voters]))
        x = self.pool(x, mask).view(ids.shape[0], -1)
        x = x if self.dense is None else self.dense(x)
        y = self.head(self.dropout(x if self.transform is None else self.transform(x)))
        return y if self.bounds is None else y.sigmoid() * (self.bounds[1] - self.bounds[0]) + self.bounds[0]
