"""A stack, one vector for the whole sequence, and a score for each class.

Legend: B batch, T time, D model width, C classes.
"""

from typing import Literal

from torch import Tensor, nn

from jogak import config
from jogak.errors import UserError
from jogak.layers.dropout import Dropout
from jogak.layers.pooling import POOLS, Convolutions
from jogak.layers.votes import Votes
from jogak.mixers import Context
from jogak.models.heads import Dense, Transform
from jogak.models.initialise import initialise
from jogak.models.topologies import Coder


class Classifier(nn.Module):
    """ids [B T] -> logits [B C] = W dropout(pool(stack(ids))) + b, of an encoder or a decoder.

    head.dense: what is pooled goes through a layer with that activation first; head.transform: with a norm behind it.
    head.voters: instead of pooling, the mean of what several first positions each say.

    Raises: UserError where the number of classes is not known.
    """

    def __init__(self, given: config.Model, vocab_size: int) -> None:
        super().__init__()
        head = given.head
        if head.classes is None:
            raise UserError("model.head.classes is not set and no data says it; set model.head.classes")
        side: Literal["encoder", "decoder"] = "encoder" if given.topology == "encoder" else "decoder"
        self.config = given
        self.coder = Coder(given, vocab_size, side)
        if head.pool == "convolutions":
            self.pool: nn.Module = Convolutions(given.width, head.widths, head.channels)
            width = head.channels * len(head.widths)
        else:
            self.pool, width = POOLS[head.pool](given.width), given.width
        self.dense = None if head.dense is None else Dense(width, given.width, head.dense)
        width = width if self.dense is None else given.width
        self.transform: Transform | None = None
        if head.transform is not None:
            if width != given.width:
                raise UserError(
                    "model.head.transform needs a vector of the model's width; set head.dense or another pool"
                )
            self.transform = Transform(given, head.transform, given.stack(side))
        self.dropout = Dropout(head.dropout)
        self.voters = head.voters
        if head.voters > 1 and (head.dense or head.transform or head.pool != "first"):
            raise UserError(
                "model.head.voters reads first positions as they are; set pool to first, leave out dense and transform"
            )
        self.head = Votes(width, head.classes, head.voters) if head.voters > 1 else nn.Linear(width, head.classes)
        initialise(self, given.init, given.width)

    def forward(self, ids: Tensor, mask: Tensor | None = None, types: Tensor | None = None) -> Tensor:
        x, _ = self.coder(ids, None, Context(mask=mask), types)
        if self.coder.input is not None:
            mask = self.coder.input.mask(mask)
        if self.voters > 1:
            return self.head(self.dropout(x[:, : self.voters]))
        x = self.pool(x, mask)
        x = x if self.dense is None else self.dense(x)
        return self.head(self.dropout(x if self.transform is None else self.transform(x)))
