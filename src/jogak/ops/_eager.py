"""Whether a compiled loop may take the place of torch's operations."""

import torch
from torch import Tensor
from torch.nn import Parameter

from jogak.ops._compiled import AVAILABLE

LEAST = 1 << 12  # numbers: what less of them take is not worth numba's import


def learns(*tensors: Tensor) -> bool:
    """Whether what is made of them has a gradient."""
    return torch.is_grad_enabled() and any(t.requires_grad for t in tensors)


def loops(x: Tensor, least: int = LEAST) -> bool:
    """Whether x is float32 on a CPU and large, and nobody writes down torch's operations (compile, export, trace)."""
    plain = AVAILABLE and x.dtype == torch.float32 and x.device.type == "cpu" and x.numel() >= least
    written = torch.compiler.is_compiling() or torch.jit.is_tracing()  # pyright: ignore[reportPrivateImportUsage]
    return plain and type(x) in (Tensor, Parameter) and not written
