"""Many processes under torchrun as one run: what they tell each other, and who writes.

Gradients travel by DistributedDataParallel (nccl on GPUs, gloo on CPUs). The few numbers that processes must agree
on travel by gloo, so that no GPU waits for them.
"""

import json
import os
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext
from datetime import timedelta
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel

from jogak.errors import JogakError, StorageError, UserError

# Others wait this long while the first process validates; a process that dies is noticed at once, by its sockets.
_PATIENCE = timedelta(hours=12)


class Ranks:
    """The processes of this run, as one of them sees them; a single process is `Ranks(device)`."""

    def __init__(self, device: torch.device, rank: int = 0, world: int = 1) -> None:
        self.device, self.rank, self.world = device, rank, world
        self._group = dist.new_group(backend="gloo", timeout=_PATIENCE) if world > 1 else None

    @property
    def main(self) -> bool:
        """Whether this is the process that writes and speaks."""
        return self.rank == 0

    def sum(self, values: Sequence[float]) -> list[float]:
        """The sums of each process's values, the same everywhere."""
        if self.world == 1:
            return list(values)
        total = torch.tensor(values, dtype=torch.float64)
        dist.all_reduce(total, group=self._group)
        return total.tolist()

    def gather(self, value: Any) -> list[Any]:  # noqa: ANN401  # whatever JSON can hold
        """Every process's value (plain JSON data), by rank, the same everywhere."""
        if self.world == 1:
            return [value]
        mine = torch.frombuffer(bytearray(json.dumps(value).encode()), dtype=torch.uint8)
        lengths = [torch.zeros(1, dtype=torch.int64) for _ in range(self.world)]
        dist.all_gather(lengths, torch.tensor([mine.numel()]), group=self._group)
        longest = int(max(int(n) for n in lengths))
        padded = torch.zeros(longest, dtype=torch.uint8)
        padded[: mine.numel()] = mine
        every = [torch.zeros(longest, dtype=torch.uint8) for _ in range(self.world)]
        dist.all_gather(every, padded, group=self._group)
        return [json.loads(bytes(b[: int(n)].numpy())) for b, n in zip(every, lengths, strict=True)]

    def on_main(self, work: Callable[[], Any]) -> Any:  # noqa: ANN401  # whatever JSON can hold
        """What `work` gives on the first process (plain JSON data), everywhere; what it raises is raised everywhere."""
        if self.world == 1:
            return work()
        told: dict[str, Any] = {}
        failure: JogakError | None = None
        if self.main:
            try:
                told = {"result": work()}
            except JogakError as error:
                failure = error
                kind = "storage" if isinstance(error, StorageError) else "user"
                told = {"error": str(error), "kind": kind, "exit": error.exit_code}
        told = self.gather(told if self.main else None)[0]
        if failure is not None:
            raise failure
        if "error" in told:
            again = (StorageError if told["kind"] == "storage" else UserError)(told["error"])
            again.exit_code = told["exit"]
            raise again
        return told["result"]

    def wrap(self, loss: nn.Module) -> nn.Module:
        """The module whose backward pass averages gradients over all processes."""
        return loss if self.world == 1 else DistributedDataParallel(loss)

    def quiet(self, module: nn.Module) -> AbstractContextManager[object]:
        """A block whose backward pass only accumulates: nothing is sent."""
        return module.no_sync() if isinstance(module, DistributedDataParallel) else nullcontext()

    def mean_gradient_scale(self, targets: float) -> float:
        """What a process's summed loss is multiplied by: gradients become those of the mean over all targets."""
        return self.world / max(targets, 1.0)


class Summed(nn.Module):
    """A task's loss as a module, so that DistributedDataParallel sees the forward pass."""

    def __init__(self, model: nn.Module, loss: Callable[..., tuple[Tensor, Tensor]]) -> None:
        super().__init__()
        self.model = model
        self._loss = loss

    def forward(self, batch: object) -> tuple[Tensor, Tensor]:
        return self._loss(batch)


def pick_device(asked: str, local: int = 0) -> torch.device:
    """The device that a recipe's `train.device` means.

    Raises: UserError if there is no such device here.
    """
    if asked == "auto":
        asked = "cuda" if torch.cuda.is_available() else "cpu"
    try:
        device = torch.device(asked)
    except RuntimeError:
        raise UserError(f"train.device: '{asked}' is not a device; write auto, cpu, cuda or cuda:1") from None
    if device.type == "cuda":
        if not torch.cuda.is_available():
            raise UserError("train.device: 'cuda' was asked for and torch finds no GPU here; write train.device=auto")
        device = torch.device("cuda", local if device.index is None else device.index)
        torch.cuda.set_device(device)
    return device


@contextmanager
def session(asked: str) -> Iterator[Ranks]:
    """The processes that torchrun started, or this one alone; joins and leaves the group where nobody has yet."""
    world = int(os.environ.get("WORLD_SIZE", "1"))
    if world == 1:
        yield Ranks(pick_device(asked))
        return
    device = pick_device(asked, int(os.environ.get("LOCAL_RANK", "0")))
    ours = not dist.is_initialized()
    if ours:
        backend = "nccl" if device.type == "cuda" else "gloo"
        dist.init_process_group(backend, timeout=timedelta(minutes=30) if backend == "nccl" else _PATIENCE)
    yield Ranks(device, dist.get_rank(), dist.get_world_size())
    if ours:  # not after an error: leaving waits for processes that may be gone
        dist.destroy_process_group()
