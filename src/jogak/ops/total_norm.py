"""The Euclidean norm of many tensors, as if they were one vector."""

from collections.abc import Sequence

import torch
from torch import Tensor

from jogak.ops._compiled import AVAILABLE


def reference(tensors: Sequence[Tensor]) -> Tensor:
    """sqrt(sum of all squares), on the tensors' device."""
    return torch.nn.utils.get_total_norm(tensors, foreach=True)


def looped(tensors: Sequence[Tensor]) -> Tensor:
    """The same of float32 on a CPU in one pass over all of them, squares added up in float64 in the end.

    The sum is made of the same parts whatever the number of threads.
    """
    from jogak.ops._numba_total_norm import squares

    return torch.tensor(squares(tensors) ** 0.5, dtype=torch.float32)


def total_norm(tensors: Sequence[Tensor]) -> Tensor:
    """The form that is fast on the tensors' device."""
    plain = AVAILABLE and bool(tensors) and all(type(t) is Tensor for t in tensors)  # not a part of a sharded one
    fits = plain and all(t.dtype == torch.float32 and t.device.type == "cpu" and t.is_contiguous() for t in tensors)
    return (looped if fits else reference)(tensors)
