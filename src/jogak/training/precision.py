"""Whether bfloat16 is worth it: some machines compute it four times faster than float32, some four times slower."""

import time
from contextlib import AbstractContextManager, nullcontext
from functools import cache
from typing import Literal

import torch
from torch import Tensor

Precision = Literal["float32", "bfloat16"]

CLEARLY = 1.3  # times faster; below that, float32's exactness is worth more
_BUDGET = 0.1  # seconds
_LEAST, _TURNS = 8, 50  # products in each precision, of which the shortest counts


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
    types = (torch.bfloat16, torch.float32)
    pairs = [
        (torch.ones(512, width, device=device, dtype=d), torch.ones(width, 4 * width, device=device, dtype=d))
        for d in types
    ]
    for x, w in pairs:
        _seconds(x, w)  # sets up kernels
    best, spent = [float("inf")] * 2, 0.0
    for turn in range(_TURNS):
        took = [_seconds(x, w) for x, w in pairs]  # in turns, so that what disturbs one disturbs the other
        best, spent = [min(pair) for pair in zip(best, took, strict=True)], spent + sum(took)
        if spent > _BUDGET and turn >= _LEAST:
            break
    return best[1] / best[0]


def _seconds(x: Tensor, w: Tensor) -> float:
    _wait(x.device)
    start = time.perf_counter()
    torch.mm(x, w)
    _wait(x.device)
    return time.perf_counter() - start


def _wait(device: torch.device) -> None:
    if device.type == "cuda":
        torch.cuda.synchronize(device)


def autocast(precision: Precision, device: torch.device) -> AbstractContextManager[object]:
    """The block in which a forward pass runs; master weights and the optimiser stay float32."""
    if precision == "bfloat16":
        return torch.autocast(device.type, dtype=torch.bfloat16)
    return nullcontext()
