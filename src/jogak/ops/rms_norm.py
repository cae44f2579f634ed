"""Root-mean-square norm: y = (w + plus) x / sqrt(mean(x^2) + eps) over the last axis.

Forms of one function (`FORMS`): `reference`, torch's own operations; `looped`, a compiled pass over each row in
float32 on a CPU, where torch makes one pass for each operation; `auto`, the faster one.

Source: Zhang & Sennrich 2019 (1910.07467) equation 4. Legend: N rows, D width.
"""

import torch
import torch.nn.functional as F
from torch import Tensor

from jogak.ops._eager import learns, loops


def reference(x: Tensor, weight: Tensor, eps: float, plus: float = 0.0) -> Tensor:
    """x [... D], weight [D] -> [... D]; with a `plus` in float32 at least, as Gemma's code has it."""
    if not plus:
        return F.rms_norm(x, weight.shape, weight, eps)
    wide = torch.promote_types(x.dtype, torch.float32)
    return F.rms_norm(x.to(wide), weight.shape, plus + weight.to(wide), eps).to(x.dtype)


def looped(x: Tensor, weight: Tensor, eps: float, plus: float = 0.0) -> Tensor:
    """The same in one pass over each row, and one on the way back."""
    from jogak.ops._numba_rms_norm import Normed, normed

    if learns(x, weight):
        y = Normed.apply(x.float(), weight.float(), eps, plus)
    else:
        y = normed(x.float().detach(), weight.float().detach(), eps, plus)[0]
    return y.to(x.dtype)  # pyright: ignore[reportOptionalMemberAccess]  # apply is untyped


def auto(x: Tensor, weight: Tensor, eps: float, plus: float = 0.0) -> Tensor:
    """`looped` where it can be, else torch's."""
    fits = loops(x) and weight.dtype == torch.float32
    return (looped if fits else reference)(x, weight, eps, plus)


FORMS = {"reference": reference, "looped": looped, "auto": auto}
