"""Recurrent cells over whole sequences: Elman's, the long short-term memory, the gated recurrent unit.

rnn:   h_t = tanh(a + b),                      a = W x_t + bias, b = U h_(t-1) + recurrent_bias
lstm:  i, f, o = s(a + b), g = tanh(a + b),    c_t = f c_(t-1) + i g, h_t = o tanh(c_t)
gru:   r, z = s(a + b), n = tanh(a + r b),     h_t = (1 - z) n + z h_(t-1)

The rows of W and U hold the gates in the order i f g o and r z n, as torch has them.

Sources: Elman 1990; Hochreiter & Schmidhuber 1997 with the forget gate of Gers et al. 2000; Cho et al. 2014
(1406.1078), whose reset gate works here on U h instead of h, which lets all of U h be one product.

Legend: N rows, L length, D input width, H hidden width, G gates.
"""

from typing import Literal

import torch
import torch.nn.functional as F
from torch import Tensor

Kind = Literal["rnn", "lstm", "gru"]
GATES: dict[Kind, int] = {"rnn": 1, "lstm": 4, "gru": 3}
SHUT = 1e4  # a gate this far out is shut or open exactly, in every dtype


def reference(
    x: Tensor,
    weight: Tensor,
    recurrent: Tensor,
    bias: Tensor,
    recurrent_bias: Tensor,
    h: Tensor,
    c: Tensor | None,
    lengths: Tensor | None,
    *,
    kind: Kind,
) -> tuple[Tensor, ...]:
    """The equations, step by step in float64: see `fused`."""
    dtype, held = x.dtype, (h.double(),) if c is None else (h.double(), c.double())
    weight, recurrent, bias, recurrent_bias = (t.double() for t in (weight, recurrent, bias, recurrent_bias))
    outputs = []
    for t in range(x.shape[1]):
        new = _cell(kind, F.linear(x[:, t].double(), weight, bias), F.linear(held[0], recurrent, recurrent_bias), held)
        real = None if lengths is None else (t < lengths).unsqueeze(1)
        held = new if real is None else tuple(n.where(real, old) for n, old in zip(new, held, strict=True))
        outputs.append(new[0] if real is None else new[0].where(real, 0.0))
    return tuple(t.to(dtype) for t in (torch.stack(outputs, 1), *held))


def fused(
    x: Tensor,
    weight: Tensor,
    recurrent: Tensor,
    bias: Tensor,
    recurrent_bias: Tensor,
    h: Tensor,
    c: Tensor | None,
    lengths: Tensor | None,
    *,
    kind: Kind,
) -> tuple[Tensor, ...]:
    """x [N L D], weight [G H D], recurrent [G H H], biases [G H], h [N H] -> y [N L H], the last h, and c of an LSTM.

    lengths: int64 [N], real places of each row; behind them y is zero, and h and c are those of the last real place.
    Torch's kernels: cuDNN's on a GPU, oneDNN's for the LSTM on a CPU.
    """
    if c is None:
        call = torch._VF.rnn_tanh if kind == "rnn" else torch._VF.gru
        weights = [weight, recurrent, bias, recurrent_bias]
        y, last = call(x, h.unsqueeze(0), weights, True, 1, 0.0, torch.is_grad_enabled(), False, True)
        return _ended(y, h, last[0], lengths)
    if lengths is not None:
        # No kernel gives back c before the end. So it is held behind the rows' ends: one more input, 1 in padding,
        # shuts the input gate and opens the forget gate, exactly, whose gradients are then exactly zero too.
        padding = torch.arange(x.shape[1], device=x.device) >= lengths.unsqueeze(1)
        x = torch.cat([x, padding.unsqueeze(2).to(x.dtype)], dim=2)
        ones = weight.new_ones(h.shape[1])
        hold = torch.cat([-SHUT * ones, SHUT * ones, 0 * ones, 0 * ones])
        weight = torch.cat([weight, hold.unsqueeze(1)], dim=1)
    if torch.compiler.is_compiling():
        y, last, c = _unrolled(x, weight, recurrent, bias + recurrent_bias, h, c)
    else:
        weights, start = [weight, recurrent, bias, recurrent_bias], (h.unsqueeze(0), c.unsqueeze(0))
        y, last, c = torch._VF.lstm(x, start, weights, True, 1, 0.0, torch.is_grad_enabled(), False, True)
        last, c = last[0], c[0]
    return *_ended(y, h, last, lengths), c


def _unrolled(
    x: Tensor, weight: Tensor, recurrent: Tensor, bias: Tensor, h: Tensor, c: Tensor
) -> tuple[Tensor, Tensor, Tensor]:
    """The LSTM for tracers, which cannot follow oneDNN's backward pass and unroll every other kernel in this way."""
    outputs = []
    for a in F.linear(x, weight, bias).unbind(1):
        h, c = _cell("lstm", a, F.linear(h, recurrent), (h, c))
        outputs.append(h)
    return torch.stack(outputs, 1), h, c


def _cell(kind: Kind, a: Tensor, b: Tensor, held: tuple[Tensor, ...]) -> tuple[Tensor, ...]:
    """What is held after one step, h first; a = W x + bias, b = U h + recurrent_bias, both [N G H]."""
    if kind == "rnn":
        return ((a + b).tanh(),)
    if kind == "lstm":
        i, f, g, o = (a + b).chunk(4, dim=1)
        c = f.sigmoid() * held[1] + i.sigmoid() * g.tanh()
        return o.sigmoid() * c.tanh(), c
    (ar, az, an), (br, bz, bn) = a.chunk(3, dim=1), b.chunk(3, dim=1)
    z = (az + bz).sigmoid()
    return ((1 - z) * (an + (ar + br).sigmoid() * bn).tanh() + z * held[0],)


def _ended(y: Tensor, h: Tensor, last: Tensor, lengths: Tensor | None) -> tuple[Tensor, Tensor]:
    """y with zeros behind the rows' ends, and h at them: the h given where a row has no place at all."""
    if lengths is None:
        return y, last
    places = (lengths - 1).clamp_min(0).view(-1, 1, 1).expand(-1, 1, y.shape[2])
    last = y.gather(1, places).squeeze(1).where((lengths > 0).unsqueeze(1), h.to(y.dtype))
    padding = torch.arange(y.shape[1], device=y.device) >= lengths.unsqueeze(1)
    return y.masked_fill(padding.unsqueeze(2), 0), last


FORMS = {"reference": reference, "fused": fused}
