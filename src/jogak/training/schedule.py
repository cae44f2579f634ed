"""The learning rate of each update: warm-up, then inverse square root, cosine, linear, or constant."""

import math
from dataclasses import dataclass

from jogak import config


@dataclass(frozen=True)
class Schedule:
    """Learning rate by update n = 1, 2, ... with peak P, warm-up of W updates, and final fraction F.

    n <= W: P n / W. Afterwards, with q in [0, 1) the share of the run after warm-up that has passed:
    constant P; inverse_sqrt P sqrt(max(W, 1) / n) (1706.03762 section 5.3, peak given instead of D^-1/2);
    linear P (1 - (1 - F) q); cosine P (F + (1 - F) (1 + cos(pi q)) / 2) (1608.03983).
    """

    kind: str
    peak: float
    warmup: int
    final: float

    @classmethod
    def of(cls, train: config.Train) -> "Schedule":
        return cls(train.schedule, train.rate, train.warmup, train.final_rate)

    def rate(self, update: int, progress: float, warm: float) -> float:
        """The rate of update n; progress: share of the whole run that has passed; warm: that share at n = W + 1."""
        if update <= self.warmup:
            return self.peak * update / self.warmup
        if self.kind == "constant":
            return self.peak
        if self.kind == "inverse_sqrt":
            return self.peak * math.sqrt(max(self.warmup, 1) / update)
        passed = min(max((progress - warm) / (1 - warm), 0.0), 1.0) if warm < 1 else 1.0
        shape = 1 - passed if self.kind == "linear" else (1 + math.cos(math.pi * passed)) / 2
        return self.peak * (self.final + (1 - self.final) * shape)


def progress(train: config.Train, done: int, seconds: float) -> float:
    """The share of the run that has passed after `done` updates and `seconds`: the larger of steps and time."""
    by_steps = done / train.steps
    return by_steps if train.minutes is None else max(by_steps, seconds / (60 * train.minutes))
