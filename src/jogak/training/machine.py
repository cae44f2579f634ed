"""What this machine can do, and how much of it a training step uses."""

import ctypes
import os
import platform
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cache

import torch
from torch import nn

from jogak.training.precision import Precision

_SIZE = {"cpu": 1024, "cuda": 8192}
_BUDGET = 0.1  # seconds


@cache
def peak(precision: Precision, device: str, threads: int) -> float:
    """FLOP/s of the best of a few square matrix products: the measured limit that shares are shares of.

    threads: part of the cache's key only; torch's present setting is what is measured.
    """
    del threads
    dtype = torch.bfloat16 if precision == "bfloat16" else torch.float32
    size = _SIZE.get(device.split(":", maxsplit=1)[0], 1024)
    a = torch.ones(size, size, device=device, dtype=dtype)
    best, spent, turn = float("inf"), 0.0, 0
    while spent < _BUDGET or turn < 3:
        start = time.perf_counter()
        torch.mm(a, a)
        if device.startswith("cuda"):
            torch.cuda.synchronize(device)
        took = time.perf_counter() - start
        spent, turn = spent + took, turn + 1
        best = min(best, took) if turn > 1 else best
    return 2 * size**3 / best


def keep_freed_memory() -> None:
    """Tell glibc's malloc to keep what is freed: a step asks for the same sizes again, and new pages cost up to 10% of
    its time. Does nothing where there is no glibc."""
    try:
        mallopt = ctypes.CDLL("libc.so.6").mallopt
    except (OSError, AttributeError):
        return
    trim_threshold, top_pad, mmap_threshold = -1, -2, -3  # malloc.h
    mallopt(mmap_threshold, 32 << 20)  # the largest that it takes
    mallopt(trim_threshold, 1 << 30)
    mallopt(top_pad, 64 << 20)


@dataclass(frozen=True)
class Cost:
    """Multiply-adds of a forward pass: per source token, per token, and per target (the head).

    Counted as the parameters that each position meets, embedding tables left out and the head's matrix counted
    where there is a target; the products of attention with each other's positions are left out.
    """

    source: int
    units: int
    head: int

    @classmethod
    def of(cls, model: nn.Module) -> "Cost":
        tables = {id(p) for m in model.modules() if isinstance(m, nn.Embedding) for p in m.parameters()}
        head = model.get_submodule("head") if hasattr(model, "head") else nn.Module()
        in_head = {id(p) for p in head.parameters()}
        two_sided = hasattr(model, "encoder") and hasattr(model, "decoder")
        sums = {"source": 0, "units": 0, "head": sum(p.numel() for p in head.parameters())}
        for name, parameter in model.named_parameters():
            if id(parameter) not in tables | in_head:
                side = "source" if two_sided and name.startswith("encoder.") else "units"
                sums[side] += parameter.numel()
        return cls(**sums)

    def flops(self, source: int, units: int, targets: int) -> float:
        """FLOPs of training on so many real tokens: 2 a multiply-add, and backward costs twice forward."""
        return 6.0 * (self.source * source + self.units * units + self.head * targets)


def describe(device: torch.device) -> dict[str, str | int]:
    """What decides the bits of a run besides its recipe."""
    name = torch.cuda.get_device_name(device) if device.type == "cuda" else torch.backends.cpu.get_cpu_capability()
    return {
        "torch": torch.__version__,
        "python": platform.python_version(),
        "device": device.type,
        "kind": name,
        "threads": torch.get_num_threads(),
    }


@contextmanager
def deterministic(device: torch.device) -> Iterator[None]:
    """Inside the block a GPU gives the same bits each time; a CPU does so anyway, for one number of threads."""
    if device.type != "cuda":
        yield
        return
    os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")
    before = torch.are_deterministic_algorithms_enabled(), torch.is_deterministic_algorithms_warn_only_enabled()
    memory = torch.utils.deterministic  # its attribute is a property that the stubs do not know
    filled = getattr(memory, "fill_uninitialized_memory")  # noqa: B009
    torch.use_deterministic_algorithms(True, warn_only=True)
    setattr(memory, "fill_uninitialized_memory", False)  # noqa: B010
    try:
        yield
    finally:
        torch.use_deterministic_algorithms(before[0], warn_only=before[1])
        setattr(memory, "fill_uninitialized_memory", filled)  # noqa: B010
