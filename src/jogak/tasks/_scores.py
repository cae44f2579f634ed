"""Scores of translations with confidence intervals, and the baselines a sceptic would ask for."""

from collections import Counter, defaultdict
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from jogak.errors import UserError

BOOTSTRAP = 1000  # resamples behind a 95% interval


@dataclass(frozen=True)
class Score:
    """A metric's value with its 95% bootstrap interval, both in points of 100."""

    value: float
    low: float
    high: float

    def __str__(self) -> str:
        return f"{self.value:.1f} [{self.low:.1f}, {self.high:.1f}]"


@dataclass(frozen=True)
class Scores:
    """chrF2 (Popovic 2015) and BLEU (Papineni et al. 2002) as sacrebleu computes them."""

    chrf: Score
    bleu: Score

    def to_dict(self) -> dict[str, dict[str, float]]:
        return asdict(self)


def chrf(outputs: Sequence[str], references: Sequence[str]) -> float:
    """Corpus chrF2 in points of 100, without an interval.

    Raises: UserError where sacrebleu is not installed.
    """
    return float(_sacrebleu().CHRF().corpus_score(list(outputs), [list(references)]).score)


def scores(outputs: Sequence[str], references: Sequence[str]) -> Scores:
    """chrF2 and BLEU of a corpus, with 95% bootstrap intervals (percentiles of 1,000 resamples from a fixed seed)."""
    found = []
    for metric in (_sacrebleu().CHRF(), _sacrebleu().BLEU()):
        # One row of counts for each sentence: a resample's score needs only their sum. sacrebleu's own bootstrap fails
        # (statistics.mean of float and float32) as soon as one resample scores exactly zero.
        counts = np.array(metric._extract_corpus_statistics(list(outputs), [list(references)]))
        chosen = np.random.default_rng(0).integers(len(counts), size=(BOOTSTRAP, len(counts)))
        samples = [_value(metric, counts[rows].sum(axis=0)) for rows in chosen]
        low, high = np.percentile(samples, [2.5, 97.5])
        found.append(Score(_value(metric, counts.sum(axis=0)), float(low), float(high)))
    return Scores(*found)


def _value(metric: Any, totals: NDArray[np.float64]) -> float:  # noqa: ANN401  # sacrebleu has no public type for it
    return float(metric._compute_score_from_stats(totals.tolist()).score)


def _sacrebleu():  # noqa: ANN202  # a module
    try:
        import sacrebleu
    except ImportError:
        raise UserError("chrF and BLEU need sacrebleu; pip install 'jogak[text]'") from None
    return sacrebleu


class Nearest:
    """Translate by looking up: the target of the training source that shares most character bigrams.

    Similarity is Dice's over bags of bigrams, 2 |a and b| / (|a| + |b|). A model that is no better has learned
    nothing that a search would not have found.
    """

    def __init__(self, sources: Sequence[str], targets: Sequence[str]) -> None:
        if not sources:
            raise UserError("the nearest-neighbour baseline needs at least one training pair")
        self.targets = targets
        postings: dict[str, tuple[list[int], list[int]]] = defaultdict(lambda: ([], []))
        self.sizes = np.zeros(len(sources))
        for row, text in enumerate(sources):
            bag = _bigrams(text)
            self.sizes[row] = bag.total()
            for gram, times in bag.items():
                rows, counts = postings[gram]
                rows.append(row)
                counts.append(times)
        self.postings = {g: (np.array(r), np.array(c)) for g, (r, c) in postings.items()}

    def __call__(self, text: str) -> str:
        """The target of the most similar training source; the first of equals."""
        bag = _bigrams(text)
        shared = np.zeros(len(self.sizes))
        for gram, times in bag.items():
            if gram in self.postings:
                rows, counts = self.postings[gram]
                shared[rows] += np.minimum(counts, times)
        return self.targets[int((2 * shared / (self.sizes + bag.total())).argmax())]


def _bigrams(text: str) -> Counter[str]:
    padded = f" {text} "
    return Counter(padded[i : i + 2] for i in range(len(padded) - 1))
