"""Baselines of language modelling: how well bytes are told by nothing, by their frequency, and by those before them.

Every document is its bytes and an end, so that a model that must say where documents end is compared fairly.
Legend: N bytes, n order.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

UNITS = 257  # bytes, and the end of a document
END = 256
ORDER = 6  # of the longest n-gram: 257 ** 7 still fits 63 bits
READ_AT_MOST = 20_000_000  # training bytes, the last ones

Floats = NDArray[np.float64]


def units_of(texts: Sequence[str]) -> NDArray[np.int64]:
    """The texts as one row of bytes, an END behind each."""
    parts = [np.append(np.frombuffer(text.encode(), dtype=np.uint8).astype(np.int64), END) for text in texts]
    return np.concatenate(parts) if parts else np.zeros(0, np.int64)


@dataclass(frozen=True)
class Baselines:
    """Bits of every unit of a held-out text under each baseline: float64 [N]."""

    uniform: Floats
    unigram: Floats
    ngram: Floats


def baselines(training: Sequence[str], held_out: Sequence[str]) -> Baselines:
    """Uniform; byte frequencies with one added to each; and n-grams up to ORDER, smoothed.

    P_n(c|h) = (N(h c) + D(h) P_(n-1)(c|h')) / (N(h) + D(h)), with D(h) the number of different units seen behind h:
    interpolated Witten-Bell smoothing (Witten & Bell 1991; Chen & Goodman 1998, section 2.6).
    """
    seen, told = units_of(training)[-READ_AT_MOST:], units_of(held_out)
    unigram = (np.bincount(seen, minlength=UNITS) + 1.0) / (len(seen) + UNITS)
    p = unigram[told]
    for order in range(2, ORDER + 1):
        p = _interpolated(seen, told, order, p)
    return Baselines(np.full(len(told), np.log2(UNITS)), -np.log2(unigram[told]), -np.log2(p))


def _interpolated(seen: NDArray[np.int64], told: NDArray[np.int64], order: int, lower: Floats) -> Floats:
    """P_order of each unit of `told` from P_(order - 1); where too few units stand before one, `lower` itself."""
    if min(len(seen), len(told)) < order:
        return lower
    grams, counts = np.unique(_keys(seen, order), return_counts=True)
    contexts, first = np.unique(grams // UNITS, return_index=True)
    total = np.add.reduceat(counts, first)
    kinds = np.diff(np.append(first, len(grams)))
    keys = _keys(told, order)
    numerator = _look_up(grams, counts, keys)
    n, d = _look_up(contexts, total, keys // UNITS), _look_up(contexts, kinds, keys // UNITS)
    here = lower[order - 1 :]
    found = np.where(n > 0, (numerator + d * here) / np.maximum(n + d, 1), here)
    return np.concatenate([lower[: order - 1], found])


def _keys(units: NDArray[np.int64], order: int) -> NDArray[np.int64]:
    """The n-gram that ends at each place from the `order`-th on, as one number; its context is key // UNITS."""
    keys = np.zeros(len(units) - order + 1, dtype=np.int64)
    for place in range(order):
        keys = keys * UNITS + units[place : len(keys) + place]
    return keys


def _look_up(known: NDArray[np.int64], values: NDArray[np.int64], keys: NDArray[np.int64]) -> Floats:
    place = np.searchsorted(known, keys).clip(0, len(known) - 1)
    return np.where(known[place] == keys, values[place], 0).astype(np.float64)
