"""Minimum Bayes risk: of many candidates the one that is most like all else that the model would say.

    argmax_h sum_r w_r u(h, r)

over candidates h and r, with u the chrF of one sentence (Popovic 2015, W15-3049) and w_r the model's probability of r.
Source: Kumar & Byrne 2004 (N04-1022); with samples Eikema & Aziz 2022 (2108.04718).

Legend: K candidates, F n-grams that some candidate holds, counted apart by how often it has come before.
"""

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

ORDER = 6  # of the longest n-gram of characters
BETA = 2  # recall counts beta^2 times as much as precision

Floats = NDArray[np.float64]


def chrf(texts: Sequence[str]) -> Floats:
    """chrF2 of every text (row) against every other as its reference (column), in points of 100: [K K].

    As sacrebleu counts it: spaces left out, the means of precision and recall over the orders that both texts have.
    min(a, b) = sum_t [a >= t] [b >= t], so that matches are a product of matrices of zeros and ones.
    """
    packed = ["".join(text.split()) for text in texts]
    count = len(packed)
    precision, recall, orders = (np.zeros((count, count)) for _ in range(3))
    for order in range(1, ORDER + 1):
        grams = _grams(packed, order)
        total = grams.sum(1, dtype=np.float64)
        matches = (grams @ grams.T).astype(np.float64)
        both = np.outer(total > 0, total > 0)
        size = np.maximum(total, 1)
        precision += both * matches / size[:, None]
        recall += both * matches / size[None, :]
        orders += both
    precision, recall = precision / np.maximum(orders, 1), recall / np.maximum(orders, 1)
    bottom = BETA**2 * precision + recall
    return 100 * (1 + BETA**2) * precision * recall / np.where(bottom > 0, bottom, 1)


def _grams(texts: Sequence[str], order: int) -> NDArray[np.float32]:
    """1 where a text holds an n-gram (for the t-th time): [K F]."""
    number: dict[tuple[str, int], int] = {}
    places: list[tuple[int, int]] = []
    for row, text in enumerate(texts):
        seen: dict[str, int] = {}
        for at in range(len(text) - order + 1):
            gram = text[at : at + order]
            times = seen[gram] = seen.get(gram, 0) + 1
            places.append((row, number.setdefault((gram, times), len(number))))
    found = np.zeros((len(texts), max(1, len(number))), dtype=np.float32)
    if places:
        rows, columns = zip(*places, strict=True)
        found[rows, columns] = 1
    return found


def weights(searched: Sequence[float], drawn: Sequence[int | None]) -> tuple[list[float], list[float]]:
    """How much each answer that was searched for counts, and each that was drawn; all of them together 1.

    searched: log-probabilities of different answers. drawn: for each sample which of those it is; None: another one.
    What was searched for counts with its own probability, and the samples that are none of it share the rest, which
    estimates the same expectation as samples alone would, more closely.
    """
    mass = np.exp(np.minimum(np.array(searched, dtype=np.float64), 0.0))
    others = sum(same is None for same in drawn)
    rest = max(0.0, 1.0 - float(mass.sum())) if others else 0.0
    scale = float(mass.sum()) + rest
    if scale == 0:
        return [1.0 / max(1, len(searched))] * len(searched), [0.0] * len(drawn)
    share = rest / others / scale if others else 0.0
    return (mass / scale).tolist(), [share if same is None else 0.0 for same in drawn]


def expected(texts: Sequence[str], weight: Sequence[float]) -> list[float]:
    """The expected utility of each text, of which some may be the same: sum_r w_r chrF(text, r)."""
    different = list(dict.fromkeys(texts))
    place = {text: number for number, text in enumerate(different)}
    mass = np.zeros(len(different))
    for text, value in zip(texts, weight, strict=True):
        mass[place[text]] += value
    found = chrf(different) @ mass
    return [float(found[place[text]]) for text in texts]
