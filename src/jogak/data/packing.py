"""Several examples in a row, so that almost nothing is padding; segments keep them apart.

Legend: N examples, S positions of source and T of target that a row has room for.
"""

import numpy as np
from numpy.typing import NDArray

from jogak.errors import UserError

OPEN_ROWS = 64  # rows that still take examples; more find a better fit and take longer
WINDOW = 512  # examples that are sorted, longest first, before they are placed

Ints = NDArray[np.int64]


def shape_rows(lengths: Ints, budget: int) -> tuple[int, tuple[int, int]]:
    """How many rows make a batch of at most `budget` positions, and each row's (S, T).

    lengths: [N 2], positions of source and target, special tokens included. The room is shared in proportion to
    the mean lengths; as many rows as then still hold the longest source and target.

    Raises: UserError if the budget is less than the longest source and the longest target together.
    """
    longest, totals = lengths.max(axis=0), lengths.sum(axis=0)
    if longest.sum() > budget:
        raise UserError(
            f"a packed row must have room for the longest source ({longest[0]}) and the longest target ({longest[1]}); "
            f"raise train.batch_tokens from {budget} to {longest.sum()} or more, or lower data.max_length"
        )
    share = totals[0] / totals.sum()

    def source_of(room: int) -> int:
        return min(max(round(room * share), int(longest[0])), room - int(longest[1]))

    rows = max(1, budget // int(longest.sum()))
    while rows > 1 and source_of(budget // rows) != round(budget // rows * share):
        rows -= 1
    source = source_of(budget // rows)
    # Little data does not fill the room; wider rows than it needs would be padding.
    return rows, (min(source, int(totals[0])), min(budget // rows - source, int(totals[1])))


def pack(lengths: Ints, order: Ints, room: tuple[int, int]) -> list[list[int]]:
    """The examples of `order` in rows with `room` (S, T): best fit, the longest of each window first."""
    closed: list[list[int]] = []
    rows: list[list[int]] = []
    free = np.empty((0, 2), dtype=np.int64)
    for start in range(0, len(order), WINDOW):
        window = order[start : start + WINDOW]
        for example in window[np.argsort(-lengths[window].sum(axis=1), kind="stable")].tolist():
            need = lengths[example]
            left = free - need
            fits = (left >= 0).all(axis=1)
            if fits.any():
                best = int(np.argmin(np.where(fits, left.sum(axis=1), np.iinfo(np.int64).max)))
                rows[best].append(example)
                free[best] = left[best]
                continue
            if len(rows) == OPEN_ROWS:
                fullest = int(np.argmin(free.sum(axis=1)))
                closed.append(rows.pop(fullest))
                free = np.delete(free, fullest, axis=0)
            rows.append([example])
            free = np.concatenate([free, np.array([room]) - need])
    return closed + rows
