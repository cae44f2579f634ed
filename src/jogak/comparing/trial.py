"""One trial: the same small decoder around a mixer, trained on one problem under one budget, and measured.

Legend: B rows, T length, D model width, V vocabulary.
"""

import math
import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field, replace

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from jogak import config, models
from jogak.comparing.problems import Problem, score
from jogak.data.batch import IGNORE
from jogak.models import Decoder, decay


@dataclass(frozen=True)
class Budget:
    """What every mixer gets: at most `steps` updates of `rows` sequences, and at most `seconds` of training.

    rate: peak of the learning rate, reached after `warmup` updates and falling to a tenth along a cosine over
    `steps`. enough: the figure at which a trial stops early, looked at every `look_every` updates. rates: peaks that
    are tried in turn, each with the whole budget, of which the best counts; empty: `rate` alone.
    """

    steps: int = 600
    seconds: float = 120.0
    rows: int = 32
    rate: float = 3e-3
    rates: tuple[float, ...] = ()
    warmup: int = 30
    enough: float | None = None
    look_every: int = 100
    seed: int = 0

    def rate_at(self, done: int) -> float:
        """The learning rate of the update after `done` others."""
        if done < self.warmup:
            return self.rate * (done + 1) / self.warmup
        passed = (done - self.warmup) / max(1, self.steps - self.warmup)
        return self.rate * (0.1 + 0.9 * (1 + math.cos(math.pi * passed)) / 2)


@dataclass(frozen=True)
class Shape:
    """The model around the mixer: `depth` blocks of norm, mixer, norm, feedforward, width D, inner width 2 D."""

    width: int = 64
    depth: int = 2
    position: str = "none"

    def model(self, pattern: Sequence[config.Mixer], vocabulary: int) -> config.Model:
        """The configuration with these mixers."""
        stack = {
            "depth": self.depth,
            "pattern": [{"name": m.name, **m.options} for m in pattern],
            "feedforward": {"width": 2 * self.width, "activation": "gelu"},
            "norm": "rms",
            "placement": "pre",
        }
        tree = {
            "topology": "decoder",
            "vocab_size": vocabulary,
            "width": self.width,
            "position": self.position,
            "decoder": stack,
            "tie": "none",
            "dropout": 0.0,
        }
        return config.validate(config.Model, tree, "trial", {})


@dataclass(frozen=True)
class Outcome:
    """What came of a trial.

    value: the problem's figure on held-out data. floor: the figure without looking. parameters: of the whole model.
    steps, seconds: of training until it stopped, measuring left out. tokens_per_second: positions trained on.
    curve: (step, figure) at every look. also: the figure on each problem that was never trained on (`Problem.also`).
    """

    problem: str
    mixer: str
    metric: str
    value: float
    floor: float
    parameters: int
    steps: int
    seconds: float
    tokens_per_second: float
    rate: float
    curve: list[tuple[int, float]] = field(default_factory=list)
    also: dict[str, float] = field(default_factory=dict)

    def to_dict(self) -> dict[str, object]:
        """Plain JSON data."""
        return asdict(self)

    def better_than(self, other: "Outcome") -> bool:
        return self.value > other.value if self.metric == "accuracy" else self.value < other.value


def run(problem: Problem, mixer: str, pattern: Sequence[config.Mixer], shape: Shape, budget: Budget) -> Outcome:
    """Train and measure, with each rate of the budget; the best outcome, called `mixer`.

    Raises: UserError where a mixer does not fit.
    """
    best: Outcome | None = None
    for rate in budget.rates or (budget.rate,):
        found = _once(problem, mixer, pattern, shape, replace(budget, rate=rate))
        best = found if best is None or found.better_than(best) else best
        if _enough(problem, budget, best.value):
            break
    assert best is not None
    return best


def _once(problem: Problem, mixer: str, pattern: Sequence[config.Mixer], shape: Shape, budget: Budget) -> Outcome:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(budget.seed)
        model = models.build(shape.model(pattern, problem.vocabulary))
    assert isinstance(model, Decoder)
    adamw = _adamw(model)
    random = np.random.default_rng([budget.seed, 7])
    used, step, curve = 0.0, 0, []
    while step < budget.steps and used < budget.seconds:
        start = time.perf_counter()
        for group in adamw.param_groups:
            group["lr"] = budget.rate_at(step)
        _update(model, adamw, *map(torch.from_numpy, problem.batch(random, budget.rows)))
        step, used = step + 1, used + time.perf_counter() - start
        if budget.enough is not None and step % budget.look_every == 0 and step < budget.steps:
            curve.append((step, measure(model, problem)))
            if _enough(problem, budget, curve[-1][1]):
                break
    if not curve or curve[-1][0] != step:
        curve.append((step, measure(model, problem)))
    return Outcome(
        problem.name,
        mixer,
        problem.metric,
        curve[-1][1],
        problem.floor,
        models.parameter_count(model),
        step,
        used,
        step * budget.rows * problem.length / used,
        budget.rate,
        curve,
        {other.name: measure(model, other) for other in problem.also},
    )


def _enough(problem: Problem, budget: Budget, value: float) -> bool:
    if budget.enough is None:
        return False
    return value >= budget.enough if problem.metric == "accuracy" else value <= budget.enough


def _adamw(model: Decoder) -> torch.optim.AdamW:
    """AdamW that decays matrices and leaves gains, biases, steps and time constants alone."""
    decayed, kept = decay.split(model)
    groups = [{"params": decayed, "weight_decay": 0.01}, {"params": kept, "weight_decay": 0.0}]
    return torch.optim.AdamW(groups, betas=(0.9, 0.98), eps=1e-9, fused=True)


def _update(model: Decoder, adamw: torch.optim.AdamW, ids: Tensor, targets: Tensor) -> None:
    logits, real = _answers(model, ids, targets)
    loss = F.cross_entropy(logits, real)
    loss.backward()
    nn.utils.clip_grad_norm_(model.parameters(), 1.0)
    adamw.step()
    adamw.zero_grad(set_to_none=True)


def _answers(model: Decoder, ids: Tensor, targets: Tensor) -> tuple[Tensor, Tensor]:
    """Logits [N V] and targets [N] of the scored positions."""
    hidden, _ = model.hidden(ids)
    real = targets != IGNORE
    return model.head(hidden[real]), targets[real]


def measure(model: Decoder, problem: Problem, rows: int = 64) -> float:
    """The problem's figure with the model as it stands."""
    with _resting(model), torch.inference_mode():
        return score(problem, [_answers(model, *map(torch.from_numpy, b)) for b in problem.held_out(rows)])


class _resting:
    """Evaluation mode inside the block."""

    def __init__(self, model: nn.Module) -> None:
        self.model, self.mode = model, model.training

    def __enter__(self) -> None:
        self.model.eval()

    def __exit__(self, *_: object) -> None:
        self.model.train(self.mode)
