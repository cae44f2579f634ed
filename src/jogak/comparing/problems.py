"""What a trial trains and is measured on: a probe, real text byte by byte, or digits pixel by pixel.

Legend: B rows, T length.
"""

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Protocol

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from jogak.comparing.probes import Ints, Probe
from jogak.data.batch import IGNORE
from jogak.errors import UserError

Bytes = NDArray[np.uint8]


class Problem(Protocol):
    """Batches to learn from, batches to be measured on, and the figure that comes out.

    metric: "accuracy" (higher is better) or "bits_per_byte" (lower is). floor: what the metric is without looking.
    also: problems of the same vocabulary and metric that the finished model is measured on besides (longer ones).
    """

    name: str
    metric: str

    @property
    def also(self) -> Sequence["Problem"]: ...

    @property
    def vocabulary(self) -> int: ...

    @property
    def floor(self) -> float: ...

    @property
    def length(self) -> int: ...

    def batch(self, random: np.random.Generator, rows: int) -> tuple[Ints, Ints]:
        """Units [B T] and targets [B T] to train on."""
        ...

    def held_out(self, rows: int) -> Iterator[tuple[Ints, Ints]]:
        """The same batches at every call, none of which training sees."""
        ...


@dataclass(frozen=True)
class ProbeProblem:
    """A probe: training draws forever, the measurement draws `examples` from a seed of its own."""

    name: str
    probe: Probe
    examples: int = 512
    seed: int = 1_000_003
    also: tuple["ProbeProblem", ...] = ()
    metric = "accuracy"

    @property
    def vocabulary(self) -> int:
        return self.probe.vocabulary

    @property
    def floor(self) -> float:
        return self.probe.chance

    @property
    def length(self) -> int:
        return self.probe.length

    def batch(self, random: np.random.Generator, rows: int) -> tuple[Ints, Ints]:
        return self.probe.sample(random, rows)

    def held_out(self, rows: int) -> Iterator[tuple[Ints, Ints]]:
        random = np.random.default_rng(self.seed)
        for _ in range(-(-self.examples // rows)):
            yield self.probe.sample(random, rows)


@dataclass(frozen=True)
class TextProblem:
    """The next byte of real text in windows of `length`; the last `share` of the text is held out.

    Unit 0 begins a window, byte b is unit b + 1. Measured are whole windows, each alone, in bits per byte.
    """

    text: str
    length: int = 128
    share: float = 0.1
    limit: int = 512  # held-out windows at most
    name: str = "text"
    metric = "bits_per_byte"
    also = ()

    @property
    def vocabulary(self) -> int:
        return 257

    @property
    def floor(self) -> float:
        """Bits per byte of the held-out text under the training text's byte frequencies."""
        train, held = self._sides
        count = np.bincount(train, minlength=256) + 1.0
        return float(-np.log2(count / count.sum())[held].mean())

    @cached_property
    def _sides(self) -> tuple[Bytes, Bytes]:
        data = np.frombuffer(self.text.encode(), dtype=np.uint8)
        cut = len(data) - int(self.share * len(data))
        if min(cut, len(data) - cut) <= self.length:
            raise UserError(f"the text has {len(data)} bytes, too few for windows of {self.length}; give more text")
        return data[:cut], data[cut:]

    def batch(self, random: np.random.Generator, rows: int) -> tuple[Ints, Ints]:
        train = self._sides[0]
        starts = random.integers(0, len(train) - self.length + 1, rows)
        return self._windows(train, starts)

    def held_out(self, rows: int) -> Iterator[tuple[Ints, Ints]]:
        held = self._sides[1]
        starts = np.arange(0, len(held) - self.length + 1, self.length)[: self.limit]
        for at in range(0, len(starts), rows):
            yield self._windows(held, starts[at : at + rows])

    def _windows(self, data: Bytes, starts: Ints) -> tuple[Ints, Ints]:
        targets = data[starts[:, None] + np.arange(self.length)].astype(np.int64) + 1
        ids = np.concatenate([np.zeros((len(starts), 1), np.int64), targets[:, :-1]], axis=1)
        return ids, targets


@dataclass(frozen=True)
class DigitsProblem:
    """8 x 8 handwritten digits as 64 grey levels in a row, named at the last pixel (scikit-learn's load_digits).

    pixels: int [N 64] from 0 to 16; labels: int [N]. Every fifth image is held out. Units 0 to 16 are grey levels,
    17 to 26 the digits.
    """

    pixels: Ints
    labels: Ints
    name: str = "digits"
    metric = "accuracy"
    also = ()

    @classmethod
    def load(cls) -> "DigitsProblem":
        """Raises: UserError where scikit-learn, which holds the images, is not installed."""
        try:
            from sklearn.datasets import load_digits
        except ImportError:
            raise UserError("digits: the images come with scikit-learn; pip install scikit-learn") from None
        pixels, labels = load_digits(return_X_y=True)
        return cls(np.asarray(pixels, dtype=np.int64), np.asarray(labels, dtype=np.int64))

    @property
    def vocabulary(self) -> int:
        return 27

    @property
    def floor(self) -> float:
        held = self.labels[::5]
        return float(np.bincount(held).max() / len(held))

    @property
    def length(self) -> int:
        return self.pixels.shape[1]

    def batch(self, random: np.random.Generator, rows: int) -> tuple[Ints, Ints]:
        train = np.flatnonzero(np.arange(len(self.labels)) % 5 != 0)
        return self._asked(train[random.integers(0, len(train), rows)])

    def held_out(self, rows: int) -> Iterator[tuple[Ints, Ints]]:
        held = np.arange(0, len(self.labels), 5)
        for at in range(0, len(held), rows):
            yield self._asked(held[at : at + rows])

    def _asked(self, chosen: Ints) -> tuple[Ints, Ints]:
        ids = self.pixels[chosen]
        targets = np.full_like(ids, IGNORE)
        targets[:, -1] = 17 + self.labels[chosen]
        return ids, targets


def score(problem: Problem, answers: Sequence[tuple[Tensor, Tensor]]) -> float:
    """The problem's figure from (logits [N V], targets [N]) of every scored position."""
    total, right, nll = 0, 0, 0.0
    for logits, targets in answers:
        total += len(targets)
        right += int((logits.argmax(-1) == targets).sum())
        nll += float(torch.nn.functional.cross_entropy(logits.float(), targets, reduction="sum"))
    return right / total if problem.metric == "accuracy" else nll / total / math.log(2)
