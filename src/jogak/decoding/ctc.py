"""Units out of scores for every position, repeated ones joined and blanks left out (connectionist temporal
classification, Graves et al. 2006).

Legend: T positions, V units.
"""

import math
from collections.abc import Sequence
from itertools import groupby

from torch import Tensor

from jogak.errors import UserError

Found = tuple[list[int], float]
NEVER = -math.inf


def greedy(log_probs: Tensor, blank: int) -> Found:
    """The likeliest unit of each position: log_probs [T V] -> ids, and the log-probability of those positions."""
    best = log_probs.max(-1)
    return [unit for unit, _ in groupby(best.indices.tolist()) if unit != blank], float(best.values.sum())


def beam(log_probs: Tensor, blank: int, width: int, n_best: int = 1) -> list[Found]:
    """The likeliest sequences of units over all ways in which positions can say them: log_probs [T V], best first.

    A sequence keeps what it has with a blank at its end apart from what it has with a unit there, since only behind a
    blank may a unit come twice. width: sequences that are kept at each position.

    Raises: UserError for a width below 1 or below n_best.
    Source: Graves 2012, Supervised Sequence Labelling, section 7.5; Hannun et al. 2014 (1408.2873).
    """
    if width < 1 or n_best > width:
        raise UserError(f"beam must be at least 1 and at least n_best, got {width} and {n_best}")
    kept: dict[tuple[int, ...], tuple[float, float]] = {(): (0.0, NEVER)}  # ending in a blank, in a unit
    for row in log_probs.tolist():
        after: dict[tuple[int, ...], tuple[float, float]] = {}
        for ids, (silent, said) in kept.items():
            both = _sum(silent, said)
            _add(after, ids, both + row[blank], said + row[ids[-1]] if ids else NEVER)
            for unit, score in enumerate(row):
                if unit != blank and score > NEVER:
                    _add(after, (*ids, unit), NEVER, (silent if ids and unit == ids[-1] else both) + score)
        possible = [(ids, scores) for ids, scores in after.items() if max(scores) > NEVER]
        ranked = sorted(possible, key=lambda item: (-_sum(*item[1]), item[0]))
        kept = dict(ranked[:width])
    return [(list(ids), _sum(*scores)) for ids, scores in list(kept.items())[:n_best]]


def _add(table: dict[tuple[int, ...], tuple[float, float]], ids: tuple[int, ...], silent: float, said: float) -> None:
    old = table.get(ids, (NEVER, NEVER))
    table[ids] = _sum(old[0], silent), _sum(old[1], said)


def _sum(a: float, b: float) -> float:
    """log(e^a + e^b)."""
    if a < b:
        a, b = b, a
    return a if b == NEVER else a + math.log1p(math.exp(b - a))


def decode(log_probs: Tensor, blank: int, width: int = 1, n_best: int = 1) -> Sequence[Found]:
    """Greedily where one sequence is asked for with a beam of 1, else by beam search."""
    return [greedy(log_probs, blank)] if width == n_best == 1 else beam(log_probs, blank, width, n_best)
