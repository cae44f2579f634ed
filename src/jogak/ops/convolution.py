"""The short causal convolution in front of a recurrence, each channel for itself, over packed documents too.

y_t = bias + sum_j w_j x_(t - K + 1 + j), j = 0 ... K - 1, where x before the document's start is zero.

Sources: Gu & Dao 2023 (2312.00752) section 3.4; De et al. 2024 (2402.19427) section 2.4.

Legend: N rows, L length, D channels, K taps.
"""

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.autograd.function import once_differentiable

from jogak.ops import _compiled, _numba_convolution


def reference(
    x: Tensor, weight: Tensor, bias: Tensor | None, past: Tensor, starts: Tensor | None, lengths: Tensor | None
) -> tuple[Tensor, Tensor]:
    """The equation, place by place in float64: see `causal`."""
    rows, length, _ = x.shape
    taps, outputs = [past[:, i].double() for i in range(past.shape[1])], []
    kept = [torch.stack(taps, 1) if taps else past.double()]
    for t in range(length):
        if starts is not None:
            taps = [tap.masked_fill(starts[:, t].unsqueeze(1), 0) for tap in taps]
        taps = [*taps, x[:, t].double()]
        y = sum(tap * w for tap, w in zip(taps, weight.double().unbind(1), strict=True))
        outputs.append(y if bias is None else y + bias.double())
        taps = taps[1:]
        kept.append(torch.stack(taps, 1) if taps else past.double())
    ends = torch.full((rows,), length, device=x.device) if lengths is None else lengths
    left = torch.stack(kept, 1)[torch.arange(rows, device=x.device), ends]
    return torch.stack(outputs, 1).to(x.dtype), left.to(x.dtype)


def causal(
    x: Tensor, weight: Tensor, bias: Tensor | None, past: Tensor, starts: Tensor | None, lengths: Tensor | None
) -> tuple[Tensor, Tensor]:
    """x [N L D], weight [D K], bias [D], past [N K-1 D] (zeros at first) -> y [N L D], the past of the next call.

    starts: bool [N L], True where a document begins, which sees nothing before it. lengths: int64 [N], real places
    of each row, behind which is padding that the next call must not see. The fastest form: `fused`, or `plain`
    while it is traced, on a GPU, and for a few places.
    """
    few = x.shape[1] < 8
    quick = x.device.type in ("cpu", "meta") and _compiled.AVAILABLE and not torch.compiler.is_compiling() and not few
    return (fused if quick else plain)(x, weight, bias, past, starts, lengths)


def plain(
    x: Tensor, weight: Tensor, bias: Tensor | None, past: Tensor, starts: Tensor | None, lengths: Tensor | None
) -> tuple[Tensor, Tensor]:
    """With torch's convolution; taps one after another where there are documents."""
    taps = weight.shape[1]
    joined = torch.cat([past.to(x.dtype), x], dim=1)  # [N K-1+L D]
    if starts is None:
        y = F.conv1d(joined.transpose(1, 2), weight.unsqueeze(1).to(x.dtype), bias, groups=x.shape[2]).transpose(1, 2)
        return y, _left(joined, None, lengths, taps - 1)
    # 0 is the document that was open before; what belongs to another one than the place itself counts as zero.
    document = _documents(starts, taps)
    y = torch.zeros_like(x) if bias is None else bias.to(x.dtype).expand_as(x)
    for j in range(taps):
        same = document[:, j : j + x.shape[1]] == document[:, taps - 1 :]
        y = y + joined[:, j : j + x.shape[1]].masked_fill(~same.unsqueeze(2), 0) * weight[:, j].to(x.dtype)
    return y, _left(joined, document, lengths, taps - 1)


def fused(
    x: Tensor, weight: Tensor, bias: Tensor | None, past: Tensor, starts: Tensor | None, lengths: Tensor | None
) -> tuple[Tensor, Tensor]:
    """One compiled pass over memory on a CPU (numba); what is narrower than float32 is added up in float32."""
    taps, wide = weight.shape[1], torch.promote_types(x.dtype, torch.float32)
    bias = weight.new_zeros(len(weight)) if bias is None else bias
    given = (t.to(wide).contiguous() for t in (x, weight.t(), bias, past))
    y = _Fused.apply(*given, starts).to(x.dtype)
    if lengths is None:  # only the last places matter
        behind = x[:, max(0, x.shape[1] - taps + 1) :]
        joined = torch.cat([past[:, behind.shape[1] :].to(x.dtype), behind], dim=1)
        document = None if starts is None else _documents(starts, taps)[:, -taps + 1 :] if taps > 1 else None
        return y, _left(joined, document, None, taps - 1)
    joined = torch.cat([past.to(x.dtype), x], dim=1)
    return y, _left(joined, None if starts is None else _documents(starts, taps), lengths, taps - 1)


class _Fused(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any,  # noqa: ANN401  # autograd's own context
        x: Tensor,
        weight: Tensor,
        bias: Tensor,
        past: Tensor,
        starts: Tensor | None,
    ) -> Tensor:
        ctx.save_for_backward(x, weight, past)
        ctx.starts = starts
        return _numba_convolution.forward(x, weight, bias, past, starts)

    @staticmethod
    @once_differentiable
    def backward(  # pyright: ignore[reportIncompatibleMethodOverride]  # the decorator hides the parameters' names
        ctx: Any,  # noqa: ANN401  # autograd's own context
        *gradients: Tensor,
    ) -> tuple[Tensor | None, ...]:
        x, weight, past = ctx.saved_tensors
        return *_numba_convolution.backward(x, weight, past, ctx.starts, gradients[0].contiguous()), None


def _documents(starts: Tensor, taps: int) -> Tensor:
    """Which document each place of the past and of x belongs to, 0 the one that was open before: [N K-1+L]."""
    return F.pad(starts.long().cumsum(1), (taps - 1, 0))


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
