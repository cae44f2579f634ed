"""Building a model that has no numbers, without working out which numbers it does not have."""

import math
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor
from torch.overrides import TorchFunctionMode

# What gives a tensor numbers and changes nothing else of it.
FILLS = frozenset(
    {
        "constant_",
        "copy_",
        "fill_",
        "kaiming_normal_",
        "kaiming_uniform_",
        "normal_",
        "ones_",
        "trunc_normal_",
        "uniform_",
        "xavier_normal_",
        "xavier_uniform_",
        "zero_",
        "zeros_",
    }
)


# What works on each number alone, where the result has floating numbers.
POINTWISE = frozenset(
    {
        "abs", "add", "clamp", "clamp_min", "cos", "div", "exp", "expm1", "log", "log1p", "logit", "mul", "neg", "pow",
        "rsub", "sigmoid", "sin", "softplus", "sqrt", "sub", "tanh", "true_divide", "__add__", "__mul__", "__neg__",
        "__pow__", "__rpow__", "__radd__", "__rmul__", "__rsub__", "__sub__", "__truediv__",
    }
)  # fmt: skip


class Undrawn(TorchFunctionMode):
    """While it is on, nothing is drawn or worked out on the meta device: shapes are all that comes of it.

    torch would find the shapes by rules in Python that bring its compiler with them: two seconds and 150 MB, more than
    most checkpoints take to be read. What is not named here goes that way.
    """

    def __torch_function__(
        self,
        func: Callable[..., Any],
        types: Sequence[type],
        args: Sequence[Any] = (),
        kwargs: Mapping[str, Any] | None = None,
    ) -> Any:  # noqa: ANN401  # whatever torch gives
        named, name = kwargs or {}, getattr(func, "__name__", "")
        first: Any = args[0] if args else named.get("tensor")
        if isinstance(first, Tensor) and first.is_meta:
            if name in FILLS:
                return first
            if name in POINTWISE and (kind := _kind(args)).is_floating_point and not named:
                return torch.empty(_together([a.shape for a in args if isinstance(a, Tensor)]), dtype=kind)
            if name == "norm" and named.get("keepdim") and isinstance(dims := named.get("dim"), tuple):
                return torch.empty([1 if dim in dims else n for dim, n in enumerate(first.shape)], dtype=first.dtype)
            if name == "repeat" and len(args) - 1 == first.dim() + 1 == 2:
                return torch.empty(args[1], args[2] * len(first), dtype=first.dtype)
        elif name in ("rand", "randn") and not named:
            return torch.empty(*args)
        elif name == "cat" and all(t.is_meta for t in first):
            dim = named.get("dim", args[1] if len(args) > 1 else 0)
            shape = list(first[0].shape)
            shape[dim] = sum(t.shape[dim] for t in first)
            return torch.empty(shape, dtype=first[0].dtype)
        elif name == "arange" and all(named[key] is None for key in named.keys() - {"dtype"}):
            begin, end, step = (0, *args, 1) if len(args) == 1 else (*args, 1)[:3]
            kind = torch.int64 if all(isinstance(a, int) for a in args) else torch.get_default_dtype()
            return torch.empty(math.ceil((end - begin) / step), dtype=named.get("dtype") or kind)
        return func(*args, **named)


def _kind(args: Sequence[Any]) -> torch.dtype:
    """The type of what comes of tensors and numbers together."""
    found = torch.result_type(args[0], args[1] if len(args) > 1 else args[0])
    return torch.get_default_dtype() if not found.is_floating_point and len(args) == 1 else found


def _together(shapes: Sequence[torch.Size]) -> list[int]:
    """The shape that all are widened to."""
    longest = max(map(len, shapes))
    padded = [(1,) * (longest - len(shape)) + tuple(shape) for shape in shapes]
    return [max(sizes) if 0 not in sizes else 0 for sizes in zip(*padded, strict=True)]
