"""What the inspector shows: the weights with which one stack of layers reads, and the tokens at both ends.

Legend: Tq querying positions, Tk positions that are read.
"""

from dataclasses import dataclass
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from jogak.errors import UserError

Kind = Literal["encoder", "decoder", "cross"]
Floats = NDArray[np.floating]


@dataclass(frozen=True, eq=False)
class Panel:
    """One attention of a model: `weights[l, h, q, k]` is how much of key k head h of layer l puts into query q.

    queries, keys: labels of the Tq and Tk positions. weights: [layers heads Tq Tk], every row sums to 1; where
    the layers have different numbers of heads, the heads that a layer lacks are NaN. layers: the number of each
    layer in its stack, from 1; empty = 1, 2, 3, ... without: (number, name of its mixer) for every layer of the
    stack that has no attention map; they are named on the page and in the picture. rows_write: the queries are
    labelled with the token that is written there, not with the one that is read.

    Raises: UserError where the shapes do not fit each other.
    """

    title: str
    kind: Kind
    queries: list[str]
    keys: list[str]
    weights: Floats
    layers: tuple[int, ...] = ()
    without: tuple[tuple[int, str], ...] = ()
    rows_write: bool = False

    def __post_init__(self) -> None:
        shape = self.weights.shape
        if len(shape) != 4 or shape[2:] != (len(self.queries), len(self.keys)):
            raise UserError(
                f"panel '{self.title}': the weights must be [layers, heads, {len(self.queries)}, {len(self.keys)}]"
                f" to fit its labels, got {list(shape)}"
            )
        if not self.layers:
            object.__setattr__(self, "layers", tuple(range(1, shape[0] + 1)))
        if len(self.layers) != shape[0]:
            raise UserError(f"panel '{self.title}': {len(self.layers)} layer numbers for {shape[0]} layers of weights")
        for layer, count in enumerate(self.heads):
            real = self.weights[layer, :count]
            if not np.isfinite(real).all() or (real < 0).any() or (real > 1 + 1e-3).any():
                raise UserError(
                    f"panel '{self.title}': layer {self.layers[layer]} holds weights outside 0 to 1;"
                    " give softmax outputs, not scores"
                )

    @property
    def heads(self) -> tuple[int, ...]:
        """How many heads each layer has."""
        missing = np.isnan(self.weights).all(axis=(2, 3))
        return tuple(int(n) for n in (~missing).sum(axis=1))

    def head_mean(self, layer: int) -> Floats:
        """The mean over the heads of `weights[layer]`: [Tq Tk]."""
        return self.weights[layer, : self.heads[layer]].mean(axis=0)

    def spread(self, layer: int) -> list[float]:
        """How many positions each head of a layer reads at a time, `2 ** H`, and behind the heads their mean map.

        H is the entropy of a row in bits, averaged over the rows: 1 = always one position, Tk = all alike.
        """
        maps = np.concatenate([self.weights[layer, : self.heads[layer]], self.head_mean(layer)[None]])
        logs = np.log2(maps, out=np.zeros(maps.shape), where=maps > 0)
        return (2.0 ** -(maps * logs).sum(axis=2).mean(axis=1)).tolist()
