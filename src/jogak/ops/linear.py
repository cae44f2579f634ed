"""y = x W^T + b of many rows, by whichever of torch's two libraries is faster on this processor.

torch takes float32 products to MKL, which is slower than oneDNN on AMD's processors: forward passes of
bench/families.py gained 8% on the mean. oneDNN's are used there, forward and for the gradient of x. It is
the maker that decides and no timing, so that a run that is gone on with on the same machine comes to the same bits.

Legend: M rows of x, N outputs, K inputs.
"""

from functools import cache
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

LEAST = 1 << 24  # M N K: what less of them take is not worth asking


def reference(x: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
    """x [.. K], weight [N K], bias [N] -> [.. N], by torch's own choice."""
    return F.linear(x, weight, bias)


def onednn(x: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
    """The same by oneDNN, in float32 on a CPU; `reference` elsewhere."""
    if x.dtype != torch.float32 or x.device.type != "cpu" or not available():
        return reference(x, weight, bias)
    if torch.is_grad_enabled() and any(t is not None and t.requires_grad for t in (x, weight, bias)):
        return _Product.apply(x, weight, bias)  # pyright: ignore[reportReturnType]  # apply is untyped
    return _product(x, weight, bias)


def _product(x: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
    return torch.ops.mkldnn._linear_pointwise(x, weight, bias, "none", [], "")


class _Product(torch.autograd.Function):
    """The gradient of the weight is MKL's, which is the faster one there."""

    @staticmethod
    def forward(x: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:  # pyright: ignore[reportIncompatibleMethodOverride]
        return _product(x, weight, bias)

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Any, ...], output: Any) -> None:  # noqa: ANN401  # autograd's own
        x, weight, bias = inputs
        ctx.save_for_backward(x, weight)
        ctx.adds = bias is not None

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor | None, ...]:  # noqa: ANN401  # autograd's own context
        x, weight = ctx.saved_tensors
        of_x, of_weight, of_bias = ctx.needs_input_grad
        dy, dx, dweight = grads[0].flatten(0, -2), None, None
        if of_x:  # a gradient that is to have one itself is made of what has
            back = dy @ weight if torch.is_grad_enabled() else _product(dy, weight.t(), None)
            dx = back.view(x.shape)
        if of_weight:
            dweight = dy.t() @ x.flatten(0, -2)
        return dx, dweight, dy.sum(0) if ctx.adds and of_bias else None


def auto(x: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
    """The faster one."""
    return (onednn if fits(x, weight) else reference)(x, weight, bias)


def fits(x: Tensor, weight: Tensor) -> bool:
    """Whether oneDNN can do it faster: a large product in float32 on AMD's CPU that nobody writes down."""
    plain = x.dtype == weight.dtype == torch.float32 and x.device.type == "cpu" and type(x) is Tensor
    if not plain or x.dim() < 2 or x.numel() * weight.shape[0] < LEAST or not found():
        return False
    written = torch.compiler.is_compiling() or torch.jit.is_tracing()  # pyright: ignore[reportPrivateImportUsage]
    return not written and not torch.is_autocast_enabled("cpu")


@cache
def available() -> bool:
    """Whether torch has oneDNN's product."""
    return torch.backends.mkldnn.is_available() and hasattr(torch.ops.mkldnn, "_linear_pointwise")


@cache
def found() -> bool:
    """Whether the processor is AMD's, too."""
    about = Path("/proc/cpuinfo")
    maker = about.read_text(encoding="utf-8", errors="replace") if about.is_file() else ""
    return available() and "AuthenticAMD" in maker


FORMS = {"reference": reference, "onednn": onednn, "auto": auto}
