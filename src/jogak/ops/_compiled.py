"""Loops compiled by numba at their first call, and work spread over torch's number of threads.

numba's own threads are not used: their layer may abort the process when two threads of Python call it at once, and
it knows nothing of torch.set_num_threads. A kernel that gives the interpreter free runs on the threads of torch's
OpenMP library instead, or in a small pool where that cannot be reached.
"""

import os
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from functools import cached_property, partial
from importlib.util import find_spec
from typing import Any

import torch
from torch import Tensor

GRAIN = 1 << 16  # steps of a loop that are worth a thread's start
AVAILABLE = find_spec("numba") is not None

_pools: dict[tuple[int, int], ThreadPoolExecutor] = {}  # by process (a fork has no threads of its parent's) and size


class Kernel:
    """A function of (first, last, *arrays) that does the tasks first ... last - 1; compiled when it is first called.

    Its innermost loops go from 0 over slices: x[low + i] may count from the end for all that numba knows, and becomes
    a gather. tests/unit/ops/test_vector_loops.py looks at what is compiled.

    Compiled code is kept beside the source, or in the user's cache where that folder cannot be written, or nowhere.
    """

    def __init__(self, function: Callable[..., None], *, reorder: bool = False) -> None:
        self.function, self.reorder = function, reorder

    @cached_property
    def compiled(self) -> Callable[..., None]:
        return jit(self.function, reorder=self.reorder)

    @cached_property
    def spread(self) -> Callable[..., None] | None:
        """The same of (tasks, threads, *arrays), where OpenMP's threads can be had."""
        from jogak.ops import _threads

        if not _threads.found():
            return None
        return _threads.spread(self.compiled, f"{self.function.__name__}_spread", partial(jit, reorder=self.reorder))

    def __call__(self, tasks: int, *arrays: Any, work: int = GRAIN**2) -> None:  # noqa: ANN401 (what numba takes)
        """Do `tasks` tasks on as many threads as torch would use, fewer where there is little `work` (in steps)."""
        threads = min(torch.get_num_threads(), tasks, max(1, work // GRAIN))
        if threads < 2:
            self.compiled(0, tasks, *arrays)
        elif self.spread is not None:
            self.spread(tasks, threads, *arrays)
        else:
            bounds = [tasks * i // threads for i in range(threads + 1)]
            pool = _pool(threads - 1)
            others = [pool.submit(self.compiled, *bounds[i : i + 2], *arrays) for i in range(1, threads)]
            self.compiled(0, bounds[1], *arrays)
            for other in others:
                other.result()


def jit(function: Callable[..., Any], *, reorder: bool = False) -> Callable[..., Any]:
    """The function compiled by numba, without the interpreter's lock; products and sums may fuse.

    reorder: whether sums may be added up in another order than is written, as vector instructions do.
    """
    import numba

    allowed = {"contract", "reassoc", "nsz"} if reorder else {"contract"}
    options: dict[str, Any] = {"nogil": True, "fastmath": allowed, "error_model": "numpy"}
    try:
        return numba.njit(cache=True, **options)(function)
    except RuntimeError:  # no folder for the cache can be written
        return numba.njit(**options)(function)


def flat(x: Tensor) -> Any:  # noqa: ANN401  # an array of NumPy's
    """All numbers from the first to the last of a tensor, those between its parts too: loops know its strides."""
    size = 1 + sum((n - 1) * step for n, step in zip(x.shape, x.stride(), strict=True))
    return x.detach().as_strided((size if x.numel() else 0,), (1,)).numpy()


def dense(x: Tensor) -> Tensor:
    """x itself where neighbours in its last axis are neighbours in memory, else a copy."""
    return x if x.stride(-1) == 1 else x.contiguous()


def _pool(size: int) -> ThreadPoolExecutor:
    key = (os.getpid(), size)
    if key not in _pools:
        _pools[key] = ThreadPoolExecutor(size, thread_name_prefix="jogak")
    return _pools[key]
