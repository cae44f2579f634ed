"""Activations f(x), and gated f(a) b where x = (a, b) along the last axis, in one pass.

Forms of one function (`FORMS`): `reference` in torch's operations; `looped`, compiled loops in float32 on a CPU, which
keep x alone for the way back; `auto`, the faster one.

Sources: GELU and SiLU, Hendrycks & Gimpel 2016 (1606.08415); gated, Shazeer 2020 (2002.05202). Legend: F width.
"""

from collections.abc import Callable
from functools import partial

import torch.nn.functional as F
from torch import Tensor

from jogak.ops._eager import learns, loops

PLAIN: dict[str, Callable[[Tensor], Tensor]] = {
    "silu": F.silu,
    "gelu_tanh": partial(F.gelu, approximate="tanh"),
    "gelu": F.gelu,
    "relu": F.relu,
}
NUMBERS = {"silu": 0, "gelu_tanh": 1, "gelu": 2, "relu": 3}  # of the compiled loops


def reference(x: Tensor, kind: str, *, gated: bool = False) -> Tensor:
    """f(x) [... F] of x [... F], or f(a) b [... F] of x [... 2F]."""
    if not gated:
        return PLAIN[kind](x)
    a, b = x.chunk(2, dim=-1)
    return PLAIN[kind](a) * b


def looped(x: Tensor, kind: str, *, gated: bool = False) -> Tensor:
    """The same in one pass, GELU within 1e-6; what torch itself does in one is left to it."""
    if not gated and kind != "gelu_tanh":
        return reference(x, kind)
    from jogak.ops._numba_activation import Activated, activated

    number = NUMBERS[kind] if gated else None
    y = Activated.apply(x.float(), number) if learns(x) else activated(x.float().detach(), number)[0]
    return y.to(x.dtype)  # pyright: ignore[reportOptionalMemberAccess]  # apply is untyped


def auto(x: Tensor, kind: str, *, gated: bool = False) -> Tensor:
    """`looped` where it can be, else torch's."""
    return (looped if loops(x) else reference)(x, kind, gated=gated)


FORMS = {"reference": reference, "looped": looped, "auto": auto}
