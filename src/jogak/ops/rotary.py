"""Turning pairs of numbers: y_i = a_i cos - b_i sin, y_(i + R/2) = b_i cos + a_i sin, a and b the halves of R numbers.

Forms of one function (`FORMS`): `reference` in torch's operations; `looped`, one compiled pass in float32 on a CPU,
back likewise by the opposite angle; `auto`, the faster one.

Source: Su et al. 2021 (2104.09864) section 3.4.2. Legend: B batch, T time, H heads, K head width, R numbers turned.
"""

from collections.abc import Sequence

import torch
from torch import Tensor

from jogak.ops._eager import learns, loops


def reference(x: Tensor, cos: Tensor, sin: Tensor, parts: Sequence[int] = ()) -> tuple[Tensor, ...]:
    """x [B T H K] -> [B T H K] by cos, sin [B T R/2] or [1 T R/2], which have no gradient; K - R numbers stay.

    parts: how many heads go into each result (queries, keys), which has memory of its own; all into one if empty.
    """
    return tuple(_turn(part, cos.unsqueeze(2), sin.unsqueeze(2)) for part in x.split(_sizes(x, parts), dim=2))


def _turn(x: Tensor, cos: Tensor, sin: Tensor) -> Tensor:
    turned, wide = 2 * cos.shape[-1], torch.promote_types(x.dtype, torch.float32)
    a, b = x[..., :turned].to(wide).chunk(2, dim=-1)
    parts = [a * cos - b * sin, b * cos + a * sin]
    if turned < x.shape[-1]:
        parts.append(x[..., turned:].to(wide))
    return torch.cat(parts, dim=-1).to(x.dtype)


def _sizes(x: Tensor, parts: Sequence[int]) -> list[int]:
    return list(parts) or [x.shape[2]]


def looped(x: Tensor, cos: Tensor, sin: Tensor, parts: Sequence[int] = ()) -> tuple[Tensor, ...]:
    """The same in one pass, wherever in memory the heads of x lie."""
    from jogak.ops import _numba_rotary

    wide, sizes = (x.float(), cos.float(), sin.float()), _sizes(x, parts)
    found = _numba_rotary.Turned.apply(*wide, sizes) if learns(x) else _numba_rotary.turn(*wide, sizes)
    return tuple(y.to(x.dtype) for y in found)  # pyright: ignore[reportOptionalIterable]  # apply is untyped


def auto(x: Tensor, cos: Tensor, sin: Tensor, parts: Sequence[int] = ()) -> tuple[Tensor, ...]:
    """`looped` where it can be, else torch's."""
    return (looped if loops(x) else reference)(x, cos, sin, parts)


FORMS = {"reference": reference, "looped": looped, "auto": auto}
