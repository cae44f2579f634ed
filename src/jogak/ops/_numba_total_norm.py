"""The sum of the squares of many tensors in one compiled loop, which finds them by their addresses."""

from collections.abc import Sequence
from typing import Any

import numpy as np
from numba.core import types
from numba.extending import intrinsic
from numba.np.numpy_support import carray
from torch import Tensor

from jogak.ops._compiled import Kernel

BLOCK = 1 << 15  # numbers of one task

# ruff: noqa: ANN001, ANN202 (what numba compiles takes its types from the call)


@intrinsic
def _floats(typing, address):
    """A pointer to floats of the address, an integer."""

    def generate(context, builder, signature, arguments):
        return builder.inttoptr(arguments[0], context.get_value_type(types.CPointer(types.float32)))

    return types.CPointer(types.float32)(address), generate


floats: Any = _floats  # called with the address alone: the first argument is the compiler's


def _squares(first, last, addresses, sizes, parts):
    """parts [tasks]: the sum of the squares of the `sizes` floats from each address on."""
    for task in range(first, last):
        values, total = carray(floats(addresses[task]), sizes[task]), np.float32(0)
        for i in range(len(values)):
            total += values[i] * values[i]
        parts[task] = total


_kernel = Kernel(_squares, reorder=True)


def squares(tensors: Sequence[Tensor]) -> float:
    """The sum of all squares of contiguous float32 tensors on a CPU."""
    starts = [(t.data_ptr(), at, t.numel()) for t in tensors for at in range(0, t.numel(), BLOCK)]
    addresses = np.array([start + 4 * at for start, at, _ in starts], np.int64)
    sizes = np.array([min(BLOCK, size - at) for _, at, size in starts], np.int64)
    parts = np.empty(len(starts), np.float64)
    _kernel(len(starts), addresses, sizes, parts, work=int(sizes.sum()))
    return float(parts.sum())
