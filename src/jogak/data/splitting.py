"""Training on other spellings of the same text: now and then a piece is split into the two that it was merged from.

Source: BPE-dropout, Provilkov et al. 2020 (1910.13267), which leaves out merges from the bottom up while it encodes.
Here they are undone from the top down, on ids: no text is needed, and a seed decides all of it.
Legend: N examples, L ids, V vocabulary.
"""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

Ints = NDArray[np.int64]


@dataclass(frozen=True, eq=False)
class Splitting:
    """Each piece is split with probability `rate`, and then each of its parts, and so on.

    parts: int64 [V 2], the two pieces that each id was merged from, -1 for what cannot be split. longest: an example
    that would have more ids than this stays as it is.
    """

    parts: Ints
    rate: float
    longest: int

    def __call__(self, ids: Ints, lengths: Ints, random: np.random.Generator) -> tuple[Ints, Ints]:
        """ids [L] of examples of `lengths` [N], one behind another -> the same spelled anew."""
        owner = np.repeat(np.arange(len(lengths)), lengths)
        split, owners, drawn = ids, owner, np.ones(len(ids), dtype=bool)
        while True:
            drawn = drawn & (self.parts[split, 0] >= 0)
            drawn[drawn] = random.random(int(drawn.sum())) < self.rate
            if not drawn.any():
                break
            first = np.cumsum(1 + drawn) - 1 - drawn  # where each id, or the first part of it, goes
            pairs = self.parts[split[drawn]]
            split, owners = np.repeat(split, 1 + drawn), np.repeat(owners, 1 + drawn)
            split[first[drawn]], split[first[drawn] + 1] = pairs[:, 0], pairs[:, 1]
            drawn = np.repeat(drawn, 1 + drawn)
        now = np.bincount(owners, minlength=len(lengths))
        whole = now > self.longest
        if not whole.any():
            return split, now
        # Those that are too long are put back: every example from whichever of the two it is taken from, in order.
        both, owners = np.concatenate([split, ids]), np.concatenate([owners, owner])
        taken = np.concatenate([~whole[owners[: len(split)]], whole[owner]])
        order = np.argsort(owners[taken], kind="stable")
        return both[taken][order], np.where(whole, lengths, now)
