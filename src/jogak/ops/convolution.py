"""Causal convolution over time, over packed documents too: each channel for itself, or all of all.

y_t = bias + sum_j w_j x_(t - (K - 1 - j) E), j = 0 ... K - 1, where x before the document's start is zero.

Sources: Gu & Dao 2023 (2312.00752) section 3.4 and De et al. 2024 (2402.19427) section 2.4 for the short one in front
of a recurrence; dilation, van den Oord et al. 2016 (1609.03499) section 2.1.

Legend: N rows, L length, D channels, O channels out, K taps, E dilation, P = (K - 1) E places looked back.
"""

import torch
import torch.nn.functional as F
from torch import Tensor


def reference(
    x: Tensor,
    weight: Tensor,
    bias: Tensor | None,
    past: Tensor,
    starts: Tensor | None,
    lengths: Tensor | None,
    dilation: int = 1,
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
        y = sum(_apply(place, w) for place, w in zip(held[::dilation], taps, strict=True))
        outputs.append(y if bias is None else y + bias.double())
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
) -> tuple[Tensor, Tensor]:
    """x [N L D], weight [D K] or [O D K], bias [O], past [N P D] (zeros at first) -> y [N L O], the next call's past.

    weight [D K]: each channel for itself, O = D. starts: bool [N L], True where a document begins, which sees nothing
    before it. lengths: int64 [N], real places of each row, behind which is padding that the next call must not see.
    """
    reach = (weight.shape[-1] - 1) * dilation
    joined = torch.cat([past.to(x.dtype), x], dim=1)  # [N P+L D]
    document = None
    if starts is None:
        y = convolve(joined, weight, bias, dilation)
    else:
        # 0 is the document that was open before; what belongs to another one than the place itself counts as zero.
        document = F.pad(starts.long().cumsum(1), (reach, 0))
        y = 0 if bias is None else bias.to(x.dtype)
        for tap, w in enumerate(weight.to(x.dtype).unbind(-1)):
            at = slice(tap * dilation, tap * dilation + x.shape[1])
            same = document[:, at] == document[:, reach:]
            y = y + _apply(joined[:, at].masked_fill(~same.unsqueeze(2), 0), w)
        assert isinstance(y, Tensor)
    return y, _left(joined, document, lengths, reach)


def convolve(x: Tensor, weight: Tensor, bias: Tensor | None, dilation: int = 1) -> Tensor:
    """x [N P+L D] -> y [N L O], which is P shorter; weight [D K] (each channel for itself) or [O D K], bias [O]."""
    each = weight.dim() == 2
    kernel = (weight.unsqueeze(1) if each else weight).to(x.dtype)
    groups = x.shape[2] if each else 1
    return F.conv1d(x.transpose(1, 2), kernel, bias, groups=groups, dilation=dilation).transpose(1, 2)


def _apply(x: Tensor, tap: Tensor) -> Tensor:
    """One tap, [D] or [O D], on x [... D]."""
    return x * tap if tap.dim() == 1 else x @ tap.T


def _left(joined: Tensor, document: Tensor | None, lengths: Tensor | None, count: int) -> Tensor:
    """The last `count` real places of each row's open document, zeros where it is shorter: [N count D]."""
    if lengths is None:
        left = joined[:, joined.shape[1] - count :].clone()  # a view would keep all of it
        behind = None if document is None else document[:, joined.shape[1] - count :] != document[:, -1:]
    else:
        index = lengths.unsqueeze(1) + torch.arange(count, device=joined.device)
        left = joined.gather(1, index.unsqueeze(2).expand(-1, -1, joined.shape[2]))
        behind = None
        if document is not None:
            now = document.gather(1, (lengths.unsqueeze(1) + count - 1).clamp_min(0))
            behind = document.gather(1, index) != now
    return left if behind is None else left.masked_fill(behind.unsqueeze(2), 0)


FORMS = {"reference": reference, "causal": causal}
