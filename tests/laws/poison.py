"""Unwritten memory that shows: while `poisoned`, every tensor that is allocated without being written holds NaN."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import wraps
from unittest import mock

import numba
import numpy as np
import torch
from numba.core.event import Event, Listener, install_listener

numba.njit(lambda: np.empty(1))()  # numba learns which functions are numpy's before any of them is another


@contextmanager
def poisoned() -> Iterator[None]:
    """NaN (or the largest whole number) in what torch.empty, its relatives and numpy.empty give.

    torch fills its own allocations under deterministic algorithms, those inside its operators included; numpy's are
    patched, for kernels that write into arrays.
    """
    before = (
        torch.are_deterministic_algorithms_enabled(),
        torch.is_deterministic_algorithms_warn_only_enabled(),
        torch.utils.deterministic.fill_uninitialized_memory,
    )
    torch.use_deterministic_algorithms(True, warn_only=True)
    torch.utils.deterministic.fill_uninitialized_memory = True
    try:
        with _NumpyFilled() as numpy, install_listener("numba:compile", numpy):
            yield
    finally:
        torch.use_deterministic_algorithms(before[0], warn_only=before[1])
        torch.utils.deterministic.fill_uninitialized_memory = before[2]


class _NumpyFilled(Listener):
    """numpy.empty and empty_like, filled; while numba compiles they are numpy's own, which is what it knows."""

    def __init__(self) -> None:
        self.patches = [_filled(name) for name in ("empty", "empty_like")]
        self.compiling = 0

    def __enter__(self) -> "_NumpyFilled":
        self._start()
        return self

    def __exit__(self, *_: object) -> None:
        self._stop()

    def _start(self) -> None:
        for patch in self.patches:
            patch.start()

    def _stop(self) -> None:
        for patch in self.patches:
            patch.stop()

    def on_start(self, event: Event) -> None:
        if self.compiling == 0:
            self._stop()
        self.compiling += 1

    def on_end(self, event: Event) -> None:
        self.compiling -= 1
        if self.compiling == 0:
            self._start()


def _filled(name: str) -> "mock._patch[Callable[..., np.ndarray]]":
    plain = getattr(np, name)

    @wraps(plain)
    def filled(*args: object, **options: object) -> np.ndarray:
        array = plain(*args, **options)
        if array.dtype.kind in "fc":
            array.fill(np.nan)
        elif array.dtype.kind in "iu":
            array.fill(np.iinfo(array.dtype).max)
        return array

    return mock.patch.object(np, name, filled)
