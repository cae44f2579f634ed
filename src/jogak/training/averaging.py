"""Averaged weights: an exponential moving average, or the mean of the last checkpoints; and trying weights on."""

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from typing import Protocol

import torch
from torch import Tensor, nn

from jogak import config

# All parameters in one call, as torch's own optimisers do it; the stubs leave these names out.
_add = torch._foreach_add_  # pyright: ignore[reportPrivateImportUsage]
_copy = torch._foreach_copy_  # pyright: ignore[reportPrivateImportUsage]
_divide = torch._foreach_div_  # pyright: ignore[reportPrivateImportUsage]
_lerp = torch._foreach_lerp_  # pyright: ignore[reportPrivateImportUsage]


def parameters_of(model: nn.Module) -> dict[str, Tensor]:
    """The model's parameters by name, each once, without autograd."""
    return {name: p.detach() for name, p in model.named_parameters()}


class Average(Protocol):
    """Weights that are better than the last ones: what is validated, and what model.safetensors holds."""

    def update(self, step: int) -> None:
        """Take in the weights after update `step`."""
        ...

    def weights(self) -> dict[str, Tensor] | None:
        """The averaged parameters, or None where the model's own are meant."""
        ...

    def snapshot(self, step: int) -> None:
        """Note that a scheduled checkpoint holds the weights after update `step`."""
        ...

    def needs(self) -> frozenset[int]:
        """The steps of the checkpoints that the average is made of."""
        ...

    def load(self, weights: Mapping[str, Tensor] | None, steps: list[int]) -> None:
        """Go on from a checkpoint: its averaged parameters and what `needs` gave."""
        ...


class NoAverage:
    """The weights as they are."""

    def update(self, step: int) -> None:
        pass

    def weights(self) -> dict[str, Tensor] | None:
        return None

    def snapshot(self, step: int) -> None:
        pass

    def needs(self) -> frozenset[int]:
        return frozenset()

    def load(self, weights: Mapping[str, Tensor] | None, steps: list[int]) -> None:
        pass


class MovingAverage:
    """a <- d a + (1 - d) w, with d = min(decay, (1 + n) / (10 + n)) at step n, so that a short run is not all start.

    Done every `every` steps with d ** every, which keeps the horizon and saves most of the memory traffic.
    """

    def __init__(self, model: nn.Module, decay: float, every: int) -> None:
        self.decay, self.every = decay, every
        own = parameters_of(model)
        self.names = list(own)
        self.live = list(own.values())
        self.mean = [p.clone() for p in self.live]

    def update(self, step: int) -> None:
        if step % self.every == 0:
            decay = min(self.decay, (1 + step) / (10 + step)) ** self.every
            _lerp(self.mean, self.live, 1 - decay)

    def weights(self) -> dict[str, Tensor] | None:
        return dict(zip(self.names, self.mean, strict=True))

    def snapshot(self, step: int) -> None:
        pass

    def needs(self) -> frozenset[int]:
        return frozenset()

    def load(self, weights: Mapping[str, Tensor] | None, steps: list[int]) -> None:
        if weights is not None:
            _copy(self.mean, [weights[name] for name in self.names])


class LastAverage:
    """The mean of the weights now and of those in the `count` - 1 scheduled checkpoints before (1706.03762, 6.1)."""

    def __init__(self, model: nn.Module, count: int, read: Callable[[int], Mapping[str, Tensor]]) -> None:
        self.live = parameters_of(model)
        self.count, self.read = count, read
        self.steps: list[int] = []
        self.now = 0

    def update(self, step: int) -> None:
        self.now = step

    def snapshot(self, step: int) -> None:
        if step not in self.steps:
            self.steps = [*self.steps, step][-self.count :]

    def needs(self) -> frozenset[int]:
        return frozenset(self.steps)

    def weights(self) -> dict[str, Tensor] | None:
        before = [s for s in self.steps if s != self.now][1 - self.count :] if self.count > 1 else []
        total = {name: p.clone() for name, p in self.live.items()}
        for step in before:
            saved = self.read(step)
            _add(list(total.values()), [saved[name].to(p.device) for name, p in total.items()])
        _divide(list(total.values()), float(len(before) + 1))
        return total

    def load(self, weights: Mapping[str, Tensor] | None, steps: list[int]) -> None:
        self.steps = sorted(steps)


def build(model: nn.Module, train: config.Train, read: Callable[[int], Mapping[str, Tensor]]) -> Average:
    """The average that the recipe asks for; `read` gives the parameters in the checkpoint of a step."""
    if train.average == "ema":
        return MovingAverage(model, train.ema_decay, train.ema_every)
    if train.average == "last":
        return LastAverage(model, train.average_last, read)
    return NoAverage()


@contextmanager
def wearing(model: nn.Module, weights: Mapping[str, Tensor] | None) -> Iterator[None]:
    """The model with other parameters inside the block, and with its own, to the bit, afterwards."""
    if weights is None:
        yield
        return
    own = parameters_of(model)
    kept = [p.clone() for p in own.values()]
    try:
        _copy(list(own.values()), [weights[name] for name in own])
        yield
    finally:
        _copy(list(own.values()), kept)
