"""Where a run stands between two steps: everything that a checkpoint keeps besides tensors."""

from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from typing import Any


@dataclass
class Window:
    """Sums over the steps since the last log line, over all processes; the losses are beside the model (`Stepper`)."""

    steps: int = 0
    targets: int = 0
    tokens: int = 0  # real source and target tokens
    flops: float = 0.0
    seconds: float = 0.0


@dataclass
class Position:
    """How far a run is, how well it did, and what it is in the middle of."""

    step: int = 0  # updates done
    seconds: float = 0.0  # wall-clock used, validation and saving too
    tokens: int = 0  # real tokens seen, source and target
    warm: float | None = None  # progress when the warm-up ended
    validated: int = 0  # step of the last validation
    figures: dict[str, float] = field(default_factory=dict)  # what it found
    best: float | None = None
    best_step: int = 0
    best_figures: dict[str, float] = field(default_factory=dict)
    since_best: int = 0  # validations without a better metric
    window: Window = field(default_factory=Window)

    def judge(self, metric: str, figures: dict[str, float]) -> bool:
        """Take in a validation at this step; whether its metric is the best so far (equal is not better).

        metric: a figure's name, with a minus before it where lower is better.
        """
        self.validated, self.figures = self.step, figures
        name = metric.removeprefix("-")
        value = figures[name] if name == metric else -figures[name]
        better = self.best is None or value > self.best
        if better:
            self.best, self.best_step, self.best_figures, self.since_best = value, self.step, figures, 0
        else:
            self.since_best += 1
        return better

    def state(self) -> dict[str, Any]:
        """Plain JSON data."""
        return asdict(self)

    @classmethod
    def of(cls, state: Mapping[str, Any]) -> "Position":
        """Back from `state`."""
        return cls(**{**state, "window": Window(**state["window"])})
