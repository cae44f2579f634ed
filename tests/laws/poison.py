"""Unwritten memory that shows: while `poisoned`, every tensor that is allocated without being written holds NaN."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import wraps
from unittest import mock

import numpy as np
import torch


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
        with _numpy_filled("empty"), _numpy_filled("empty_like"):
            yield
    finally:
        torch.use_deterministic_algorithms(before[0], warn_only=before[1])
        torch.utils.deterministic.fill_uninitialized_memory = before[2]


def _numpy_filled(name: str) -> "mock._patch[Callable[..., np.ndarray]]":
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
