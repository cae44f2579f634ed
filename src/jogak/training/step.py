"""One update: forward, backward, clip, AdamW, average; without waiting for the device."""

from collections import deque
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from jogak.errors import UserError
from jogak.tasks.contract import Task
from jogak.training import averaging, machine, optimiser
from jogak.training.distributed import Ranks, Summed
from jogak.training.position import Position
from jogak.training.precision import Precision, autocast
from jogak.training.schedule import Schedule, progress

if TYPE_CHECKING:
    from jogak.data.batch import Batch, Units

_ROWS_SHOWN = 64


@dataclass
class _Pending:
    """A figure on its way from the device, and the step and rows that it is about."""

    step: int
    rows: tuple[int, ...]
    value: Tensor
    arrived: torch.cuda.Event | None

    @property
    def here(self) -> bool:
        return self.arrived is None or self.arrived.query()

    @property
    def bad(self) -> bool:
        if self.arrived is not None:
            self.arrived.synchronize()
        return not bool(torch.isfinite(self.value))


class Stepper:
    """Makes updates; `sums`: this process's trained and plain loss, summed since the last log line."""

    def __init__(self, task: Task, ranks: Ranks, precision: Precision, average: averaging.Average) -> None:
        self.task, self.ranks, self.average = task, ranks, average
        self.precision: Precision = precision
        self.train = task.recipe.train
        self.schedule = Schedule.of(self.train)
        self.optimiser = optimiser.build(task.model, self.train)
        self.loader = task.loader(ranks.rank, ranks.world)
        self.module = ranks.wrap(Summed(task.model, task.loss))
        self.cost = machine.Cost.of(task.model)
        self.sums = torch.zeros(2, dtype=torch.float64, device=ranks.device)
        self.norm = torch.zeros((), device=ranks.device)
        self.rate = 0.0
        self._pending: deque[_Pending] = deque()
        self._bad: _Pending | None = None

    def update(self, position: Position, seconds: float, stop: int) -> int:
        """One update of the weights; seconds: used so far, by the first process; stop: this process's signal, or 0.

        Returns: the largest signal of any process; position then says how far the run is.

        Raises: UserError if a loss or gradient is not finite.
        """
        batches = [next(self.loader) for _ in range(self.train.accumulate)]
        source, units, targets = (sum(c) for c in zip(*map(count, batches), strict=True))
        flops = self.cost.flops(source, units, targets)
        shared = [targets, source + units, flops, seconds if self.ranks.main else 0.0, stop, self._seen_bad()]
        every_target, tokens, flops, position.seconds, stop_sum, bad = self.ranks.sum(shared)
        if bad:
            self._refuse()
        self._backward(batches, self.ranks.mean_gradient_scale(every_target))
        self.norm = optimiser.clip(self.optimiser, self.train.clip)
        self._watch(position.step + 1, tuple(row for b in batches for row in b.rows))
        self._set_rate(position)
        self.optimiser.step()
        self.optimiser.zero_grad(set_to_none=True)
        position.step += 1
        self.average.update(position.step)
        position.tokens += int(tokens)
        window = position.window
        window.steps += 1
        window.targets += int(every_target)
        window.tokens += int(tokens)
        window.flops += flops
        return int(stop_sum) if self.ranks.world > 1 else stop

    def _backward(self, batches: list["Batch"], scale: float) -> None:
        """Gradients of the loss's mean over the real targets of all batches of all processes."""
        self._last = torch.zeros((), dtype=torch.float64, device=self.ranks.device)
        for index, batch in enumerate(batches):
            if index + 1 < len(batches):
                with self.ranks.quiet(self.module):
                    self._one(batch, scale)
            else:
                self._one(batch, scale)

    def _one(self, batch: "Batch", scale: float) -> None:
        with autocast(self.precision, self.ranks.device):
            loss, plain = self.module(batch.to(self.ranks.device))
        (loss * scale).backward()
        found = torch.stack((loss.detach(), plain.detach())).double()
        self.sums += found
        self._last += found[0]

    def _set_rate(self, position: Position) -> None:
        done = position.step
        passed = progress(self.train, done, position.seconds)
        if position.warm is None and done >= self.train.warmup:
            position.warm = passed
        warm = passed if position.warm is None else position.warm
        self.rate = self.schedule.rate(done + 1, passed, warm)
        optimiser.set_rate(self.optimiser, self.rate)

    # ------------------------------------------------------------ what is not finite

    def _watch(self, step: int, rows: tuple[int, ...]) -> None:
        """Look whether loss and gradients are finite: at once on a CPU, when the figure has arrived from a GPU."""
        value = self._last + self.norm.double()
        arrived = None
        if value.device.type == "cuda":
            value = value.to("cpu", non_blocking=True)
            arrived = torch.cuda.Event()
            arrived.record()
        self._pending.append(_Pending(step, rows, value, arrived))
        if arrived is None and self.ranks.world == 1 and self._seen_bad():
            self._refuse()

    def _seen_bad(self, *, wait: bool = False) -> int:
        while self._bad is None and self._pending and (wait or self._pending[0].here):
            looked = self._pending.popleft()
            self._bad = looked if looked.bad else None
        return int(self._bad is not None)

    def check(self) -> None:
        """Make sure that every update so far was finite; every process calls this at the same step.

        Raises: UserError naming the step and the rows.
        """
        if self.ranks.sum([self._seen_bad(wait=True)])[0]:
            self._refuse()

    def _refuse(self) -> None:
        self._seen_bad(wait=True)
        mine = None if self._bad is None else [self._bad.step, list(self._bad.rows)]
        found: list[list[Any]] = [f for f in self.ranks.gather(mine) if f]
        step = min(f[0] for f in found)
        rows = sorted(row for f in found if f[0] == step for row in f[1])
        shown = ", ".join(map(str, rows[:_ROWS_SHOWN])) or "unknown"
        more = f" and {len(rows) - _ROWS_SHOWN} more" if len(rows) > _ROWS_SHOWN else ""
        raise NotFinite(
            step, f"the loss or its gradient is not finite at step {step}; rows of its batch: {shown}{more}"
        )


class NotFinite(UserError):
    """A loss or gradient that is infinite or no number; `step` is the update that it would have gone into."""

    def __init__(self, step: int, message: str) -> None:
        super().__init__(message)
        self.step = step


def count(batch: "Batch") -> tuple[int, int, int]:
    """Real source tokens, real tokens that the decoder (or the only stack) reads, real targets."""
    return 0 if batch.source is None else _real(batch.source), _real(batch.units), batch.real_targets


def _real(units: "Units") -> int:
    return units.ids.numel() if units.mask is None else int(units.mask.sum())
