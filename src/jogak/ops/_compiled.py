"""Loops compiled by numba at their first call, and work spread over torch's number of threads.

numba's own threads are not used: their layer may abort the process when two threads of Python call it at once, and
it knows nothing of torch.set_num_threads. A kernel that gives the interpreter free runs on the threads of torch's
OpenMP library instead, or in a small pool where that cannot be reached.
"""

import ctypes
import os
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from functools import cache
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import torch

GRAIN = 1 << 16  # steps of a loop that are worth a thread's start
AVAILABLE = find_spec("numba") is not None

_pools: dict[tuple[int, int], ThreadPoolExecutor] = {}  # by process (a fork has no threads of its parent's) and size


class Kernel:
    """A function of (first, last, *arrays) that does the tasks first ... last - 1; compiled when it is first called.

    Compiled code is kept beside the source, or in the user's cache where that folder cannot be written, or nowhere.
    """

    def __init__(self, function: Callable[..., None], *, reorder: bool = False) -> None:
        self.function, self.reorder = function, reorder
        self._compiled: Callable[..., None] | None = None

    @property
    def compiled(self) -> Callable[..., None]:
        if self._compiled is None:
            self._compiled = jit(self.function, reorder=self.reorder)
        return self._compiled

    def __call__(self, tasks: int, *arrays: Any, work: int = GRAIN**2) -> None:  # noqa: ANN401 (what numba takes)
        """Do `tasks` tasks on as many threads as torch would use, fewer where there is little `work` (in steps)."""
        run, threads = self.compiled, min(torch.get_num_threads(), tasks, max(1, work // GRAIN))
        if threads < 2:
            run(0, tasks, *arrays)
            return
        bounds = [tasks * i // threads for i in range(threads + 1)]
        _spread(lambda i: run(bounds[i], bounds[i + 1], *arrays), threads)


def _spread(part: Callable[[int], None], count: int) -> None:
    """part(0) ... part(count - 1), each on a thread of its own."""
    openmp = _openmp()
    if openmp is None:
        pool = _pool(count - 1)
        others = [pool.submit(part, i) for i in range(1, count)]
        part(0)
        for other in others:
            other.result()
        return
    errors: list[BaseException] = []

    def share(_: int | None) -> None:
        try:
            for i in range(openmp.omp_get_thread_num(), count, openmp.omp_get_num_threads()):
                part(i)
        except BaseException as error:
            errors.append(error)  # which C would lose

    openmp.GOMP_parallel(_SHARE(share), None, count, 0)
    if errors:
        raise errors[0]


_SHARE = ctypes.CFUNCTYPE(None, ctypes.c_void_p)


@cache
def _openmp() -> ctypes.CDLL | None:
    """The OpenMP library that torch has loaded, where it is GNU's.

    Its threads wait for torch's next operation by spinning, so that any others would have to share their cores.
    """
    for path in (Path(torch.__file__).parent / "lib").glob("libgomp*"):
        try:
            found = ctypes.CDLL(str(path), mode=os.RTLD_NOLOAD | os.RTLD_LAZY)
            found.GOMP_parallel.argtypes = [_SHARE, ctypes.c_void_p, ctypes.c_uint, ctypes.c_uint]
            found.GOMP_parallel.restype = None
        except (OSError, AttributeError):
            continue
        return found
    return None


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


def _pool(size: int) -> ThreadPoolExecutor:
    key = (os.getpid(), size)
    if key not in _pools:
        _pools[key] = ThreadPoolExecutor(size, thread_name_prefix="jogak")
    return _pools[key]
