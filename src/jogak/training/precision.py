"""Whether bfloat16 is worth it: some machines compute it four times faster than float32, some four times slower."""

import time
from contextlib import AbstractContextManager, nullcontext
from functools import cache
from typing import Literal

import torch

Precision = Literal["float32", "bfloat16"]

CLEARLY = 1.3  # times faster; below that, float32's exactness is worth more
_BUDGET = 0.05  # seconds for each precision


def choose(asked: Literal["auto", "float32", "bfloat16"], width: int, device: torch.device) -> Precision:
    """The precision to train in; "auto" times a matrix product of the model's width both ways, once a process."""
    if asked != "auto":
        return asked
    return "bfloat16" if speedup(width, str(device), torch.get_num_threads()) >= CLEARLY else "float32"


@cache
def speedup(width: int, device: str, threads: int) -> float:
    """How many times faster than in float32 this machine multiplies [512 width] by [width 4 width] in bfloat16.

    threads: part of the cache's key only; torch's present setting is what is measured.
    """
    del threads
    fast, slow = (_seconds(width, device, d) for d in (torch.bfloat16, torch.float32))
    return slow / fast


def _seconds(width: int, device: str, dtype: torch.dtype) -> float:
    """The shortest of a few products, so that another process on the machine does not decide."""
    x = torch.ones(512, width, device=device, dtype=dtype)
    w = torch.ones(width, 4 * width, device=device, dtype=dtype)
    best, spent = float("inf"), 0.0
    for turn in range(50):
        if spent > _BUDGET and turn >= 2:  # the first one sets up kernels
            break
        _wait(device)
        start = time.perf_counter()
        torch.mm(x, w)
        _wait(device)
        took = time.perf_counter() - start
        spent += took
        if turn > 0:
            best = min(best, took)
    return best


def _wait(device: str) -> None:
    if device.startswith("cuda"):
        torch.cuda.synchronize(device)


def autocast(precision: Precision, device: torch.device) -> AbstractContextManager[object]:
    """The block in which a forward pass runs; master weights and the optimiser stay float32."""
    if precision == "bfloat16":
        return torch.autocast(device.type, dtype=torch.bfloat16)
    return nullcontext()
