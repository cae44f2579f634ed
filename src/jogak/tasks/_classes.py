"""Figures of a classifier with their intervals, and the baselines that a sceptic would ask for."""

import re
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from jogak.data.sources import Row
from jogak.tasks._scores import Score

BOOTSTRAP = 1000  # resamples behind a 95% interval
_WORD = re.compile(r"\w+")

Ints = NDArray[np.int64]


@dataclass(frozen=True)
class Figures:
    """Accuracy, and the mean over the classes of F1 = 2 P R / (P + R), in points of 100."""

    accuracy: Score
    macro_f1: Score

    def to_dict(self) -> dict[str, dict[str, float]]:
        return {name: vars(score) for name, score in (("accuracy", self.accuracy), ("macro_f1", self.macro_f1))}


def accuracy(told: Ints, wanted: Ints) -> float:
    return 100 * float((told == wanted).mean())


def macro_f1(told: Ints, wanted: Ints) -> float:
    """Over the classes that are wanted or told; a class that is never both counts zero."""
    classes = np.union1d(told, wanted)
    both = [int(((told == c) & (wanted == c)).sum()) for c in classes]
    either = [int((told == c).sum() + (wanted == c).sum()) for c in classes]
    return 100 * float(np.mean([2 * b / e for b, e in zip(both, either, strict=True)]))


def figures(told: Ints, wanted: Ints) -> Figures:
    """Both figures, with 95% bootstrap intervals (percentiles of 1,000 resamples from a fixed seed)."""
    chosen = np.random.default_rng(0).integers(len(told), size=(BOOTSTRAP, len(told)))
    found = []
    for metric in (accuracy, macro_f1):
        low, high = np.percentile([metric(told[rows], wanted[rows]) for rows in chosen], [2.5, 97.5])
        found.append(Score(metric(told, wanted), float(low), float(high)))
    return Figures(*found)


class NaiveBayes:
    """argmax_c log P(c) + sum over the words w of log P(w|c), from counts with one added to each.

    Source: McCallum & Nigam 1998, the multinomial model. Words are runs of letters and digits, in lower case.
    """

    def __init__(self, texts: Sequence[str], classes: Ints, count: int) -> None:
        words: dict[str, int] = {}
        bags = [_bag(text) for text in texts]
        for bag in bags:
            for word in bag:
                words.setdefault(word, len(words))
        table = np.ones((count, max(1, len(words))))
        for bag, number in zip(bags, classes, strict=True):
            for word, times in bag.items():
                table[number, words[word]] += times
        self.words, self.log_p = words, np.log(table / table.sum(axis=1, keepdims=True))
        self.prior = np.log((np.bincount(classes, minlength=count) + 1) / (len(classes) + count))

    def __call__(self, texts: Sequence[str]) -> Ints:
        """The likeliest class of each text; words never seen say nothing."""
        found = []
        for text in texts:
            score = self.prior.copy()
            for word, times in _bag(text).items():
                if word in self.words:
                    score += times * self.log_p[:, self.words[word]]
            found.append(int(score.argmax()))
        return np.array(found, dtype=np.int64)


def _bag(text: str) -> Counter[str]:
    return Counter(_WORD.findall(text.lower()))


@dataclass(frozen=True)
class ClassEvaluation:
    """Figures of the model and of both baselines on the same rows (see tasks.contract.Evaluation).

    majority, bayes: None where no training rows are known. cut: texts of which only the beginning was read.
    """

    rows: Sequence[Row]
    labels: Sequence[str]
    outputs: Sequence[str]
    model: Figures
    majority: Figures | None
    bayes: Figures | None
    cut: int

    def to_dict(self) -> dict[str, object]:
        named = {"model": self.model, "naive_bayes": self.bayes, "majority": self.majority}
        told: dict[str, Any] = {name: None if found is None else found.to_dict() for name, found in named.items()}
        return {"examples": len(self.rows), "classes": len(self.labels), "cut": self.cut, **told}

    def to_rows(self) -> list[dict[str, str]]:
        pairs = zip(self.rows, self.outputs, strict=True)
        return [{"source": r.target, "reference": r.source, "output": o, "where": r.where} for r, o in pairs]

    def shown(self, count: int) -> str:
        rows = self.to_rows()
        chosen = [rows[n * len(rows) // count] for n in range(min(count, len(rows)))]
        return "".join(
            f"\n\n  text   {r['source'][:200]}\n  label  {r['reference']}\n  output {r['output']}" for r in chosen
        )

    def table(self) -> str:
        lines = [f"{len(self.rows)} held-out examples   accuracy, %           macro F1, %"]
        named = (("model", self.model), ("naive Bayes of words", self.bayes), ("commonest class", self.majority))
        lines += [f"  {name:<22} {f.accuracy!s:<21} {f.macro_f1}" for name, f in named if f is not None]
        if self.bayes is None:
            lines.append("  baselines              not measured: the training set is not to be had")
        if self.cut:
            lines.append(f"  {self.cut} texts were longer than data.max_length; their beginnings were read")
        return "\n".join(lines)


def evaluate(
    rows: Sequence[Row], told: Ints, labels: Sequence[str], training: Sequence[Row], *, cut: int
) -> ClassEvaluation:
    """Score the classes `told` of `rows` (whose source is the label and whose target the text).

    A label that the model does not have counts as a class of its own, which nothing can name.
    """
    number = {label: n for n, label in enumerate(labels)}
    for row in rows:
        number.setdefault(row.source, len(number))
    wanted = np.array([number[row.source] for row in rows], dtype=np.int64)
    majority = bayes = None
    if training:
        seen = np.array([number.setdefault(row.source, len(number)) for row in training], dtype=np.int64)
        commonest = int(np.bincount(seen).argmax())
        majority = figures(np.full(len(rows), commonest), wanted)
        guess = NaiveBayes([row.target for row in training], seen, len(number))
        bayes = figures(guess([row.target for row in rows]), wanted)
    outputs = [labels[int(n)] for n in told]
    return ClassEvaluation(rows, labels, outputs, figures(told, wanted), majority, bayes, cut)
