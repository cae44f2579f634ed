"""Causal convolution over time, over packed documents too: each channel for itself, or all of all.

y_t = bias + sum_j w_j x_(t - (K - 1 - j) E), j = 0 ... K - 1, where x before the document's start is zero.

Sources: Gu & Dao 2023 (2312.00752) section 3.4 and De et al. 2024 (2402.19427) section 2.4 for the short one in front
of a recurrence; dilation, van den Oord et al. 2016 (1609.03499) section 2.1.

Legend: N rows, L length, D channels, O channels out, K taps, E dilation, P = (K - 1) E places looked back.
"""

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.autograd.function import once_differentiable

from jogak.ops import _compiled, _numba_convolution


def reference(
    x: Tensor,
    weight: Tensor,
    bias: Tensor | None,
    past: Tensor,
    starts: Tensor | None,
    lengths: Tensor | None,
    dilation: int = 1,
    *,
    silu: bool = False,
) -> tuple[Tensor, Tensor]:
    """The equation, place by place in float64: see `causal`."""
    rows, length, _ = x.shape
    held, outputs = [past[:, i].double() for i in range(past.shape[1])], []
    kept = [torch.stack(held, 1) if held else past.double()]
    for t in range(length):
        if starts is not None:
            held = [place.masked_fill(starts[:, t].unsqueeze(1), 0) for place in held]
        held = [*held, x[:, t].double()]
        taps = weight.double().unbind(-1)
        y = torch.stack([_apply(place, w) for place, w in zip(held[::dilation], taps, strict=True)]).sum(0)
        y = y if bias is None else y + bias.double()
        outputs.append(F.silu(y) if silu else y)
        held = held[1:]
        kept.append(torch.stack(held, 1) if held else past.double())
    ends = torch.full((rows,), length, device=x.device) if lengths is None else lengths
    left = torch.stack(kept, 1)[torch.arange(rows, device=x.device), ends]
    return torch.stack(outputs, 1).to(x.dtype), left.to(x.dtype)


def causal(
    x: Tensor,
    weight: Tensor,
    bias: Tensor | None,
    past: Tensor,
    starts: Tensor | None,
    lengths: Tensor | None,
    dilation: int = 1,
    *,
    silu: bool = False,
) -> tuple[Tensor, Tensor]:
    """x [N L D], weight [D K] or [O D K], bias [O], past [N P D] (zeros at first) -> y [N L O], the next call's past.

    weight [D K]: each channel for itself, O = D. starts: bool [N L], True where a document begins, which sees nothing
    before it. lengths: int64 [N], real places of each row, behind which is padding that the next call must not see.
    silu: whether y is silu of the sum.
    The fastest form: `fused`, or `plain` while it is traced, on a GPU, and for a few places.
    """
    few = x.shape[1] < 8
    quick = x.device.type in ("cpu", "meta") and _compiled.AVAILABLE and not torch.compiler.is_compiling() and not few
    return (fused if quick else plain)(x, weight, bias, past, starts, lengths, dilation, silu=silu)


def plain(
    x: Tensor,
    weight: Tensor,
    bias: Tensor | None,
    past: Tensor,
    starts: Tensor | None,
    lengths: Tensor | None,
    dilation: int = 1,
    *,
    silu: bool = False,
) -> tuple[Tensor, Tensor]:
    """With torch's convolution; taps one after another where there are documents."""
    reach = (weight.shape[-1] - 1) * dilation
    joined = torch.cat([past.to(x.dtype), x], dim=1)  # [N P+L D]
    if starts is None:
        y = convolve(joined, weight, bias, dilation)
        return F.silu(y) if silu else y, _left(joined, None, lengths, reach)
    # 0 is the document that was open before; what belongs to another one than the place itself counts as zero.
    document = _documents(starts, reach)
    y = 0 if bias is None else bias.to(x.dtype)
    for tap, w in enumerate(weight.to(x.dtype).unbind(-1)):
        at = slice(tap * dilation, tap * dilation + x.shape[1])
        same = document[:, at] == document[:, reach:]
        y = y + _apply(joined[:, at].masked_fill(~same.unsqueeze(2), 0), w)
    assert isinstance(y, Tensor)
    return F.silu(y) if silu else y, _left(joined, document, lengths, reach)


def convolve(x: Tensor, weight: Tensor, bias: Tensor | None, dilation: int = 1) -> Tensor:
    """x [N P+L D] -> y [N L O], which is P shorter; weight [D K] (each channel for itself) or [O D K], bias [O]."""
    each = weight.dim() == 2
    kernel = (weight.unsqueeze(1) if each else weight).to(x.dtype)
    groups = x.shape[2] if each else 1
    return F.conv1d(x.transpose(1, 2), kernel, bias, groups=groups, dilation=dilation).transpose(1, 2)


def _apply(x: Tensor, tap: Tensor) -> Tensor:
    """One tap, [D] or [O D], on x [... D]."""
    return x * tap if tap.dim() == 1 else x @ tap.T


def fused(
    x: Tensor,
    weight: Tensor,
    bias: Tensor | None,
    past: Tensor,
    starts: Tensor | None,
    lengths: Tensor | None,
    dilation: int = 1,
    *,
    silu: bool = False,
) -> tuple[Tensor, Tensor]:
    """One compiled pass over memory on a CPU (numba), for channels apart without dilation; `plain` for the others.

    What is narrower than float32 is added up in float32.
    """
    if weight.dim() == 3 or dilation > 1:
        return plain(x, weight, bias, past, starts, lengths, dilation, silu=silu)
    reach, wide = weight.shape[1] - 1, torch.promote_types(x.dtype, torch.float32)
    bias = weight.new_zeros(len(weight)) if bias is None else bias
    given = (t.to(wide).contiguous() for t in (weight.t(), bias, past))
    curved = silu and wide == torch.float32  # loops know SiLU in float32 alone
    y = _Fused.apply(_compiled.dense(x.to(wide)), *given, starts, curved)
    y = (F.silu(y) if silu and not curved else y).to(x.dtype)
    if lengths is None:  # only the last places matter
        behind = x[:, max(0, x.shape[1] - reach) :]
        joined = torch.cat([past[:, behind.shape[1] :].to(x.dtype), behind], dim=1)
        document = None if starts is None or reach == 0 else _documents(starts, reach)[:, -reach:]
        return y, _left(joined, document, None, reach)
    joined = torch.cat([past.to(x.dtype), x], dim=1)
    return y, _left(joined, None if starts is None else _documents(starts, reach), lengths, reach)


class _Fused(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any,  # noqa: ANN401  # autograd's own context
        x: Tensor,
        weight: Tensor,
        bias: Tensor,
        past: Tensor,
        starts: Tensor | None,
        curved: bool,  # apply takes no names
    ) -> Tensor:
        ctx.save_for_backward(x, weight, bias, past)
        ctx.starts, ctx.curved = starts, curved
        return _numba_convolution.forward(x, weight, bias, past, starts, curved=curved)

    @staticmethod
    @once_differentiable
    def backward(  # pyright: ignore[reportIncompatibleMethodOverride]  # the decorator hides the parameters' names
        ctx: Any,  # noqa: ANN401  # autograd's own context
        *gradients: Tensor,
    ) -> tuple[Tensor | None, ...]:
        x, weight, bias, past = ctx.saved_tensors
        dy = gradients[0].contiguous()
        found = _numba_convolution.backward(x, weight, bias, past, ctx.starts, dy, curved=ctx.curved)
        return *found, None, None


def _documents(starts: Tensor, reach: int) -> Tensor:
    """Which document each place of the past and of x belongs to, 0 the one that was open before: [N P+L]."""
    return F.pad(starts.long().cumsum(1), (reach, 0))


def _left(joined: Tensor, document: Tensor | None, lengths: Tensor | None, count: int) -> Tensor:
    """The last `count` real places of each row's open document, zeros where it is shorter: [N count D]."""
    if count == 0:
        return joined[:, :0].clone()
    if lengths is None:
        left = joined[:, joined.shape[1] - count :].clone()  # a view would keep all of it
        behind = None if document is None else document[:, joined.shape[1] - count :] != document[:, -1:]
    else:
        index = lengths.unsqueeze(1) + torch.arange(count, device=joined.device)
        left = joined.gather(1, index.unsqueeze(2).expand(-1, -1, joined.shape[2]))
        behind = None
        if document is not None:
            now = document.gather(1, lengths.unsqueeze(1) + count - 1)
            behind = document.gather(1, index) != now
    return left if behind is None else left.masked_fill(behind.unsqueeze(2), 0)


FORMS = {"reference": reference, "plain": plain, "fused": fused, "causal": causal}
