"""Mamba's selective scan: a linear recurrence whose step, input and output are chosen by the input itself.

h_t = exp(dt_t A) h_(t-1) + dt_t B_t x_t, y_t = C_t h_t + D x_t, then y_t silu(z_t) where there is a gate z.

A is made discrete by a zero-order hold, B by Euler's rule, as the authors' code does. Every form with a gradient of
its own keeps the states at the ends of chunks only and makes the others again: O(B T D) memory, not O(B T D N).

Source: Gu & Dao 2023 (2312.00752) section 3 and algorithm 2.

Legend: B batch, T time, D channels, N state, L length of a chunk.
"""

from collections.abc import Callable
from dataclasses import dataclass, replace
from importlib import import_module
from importlib.util import find_spec
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.autograd.function import once_differentiable

from jogak.errors import UserError, nearest
from jogak.ops import _compiled
from jogak.ops.scan import associative

CHUNK = 64  # of the plain torch form


@dataclass(frozen=True, eq=False)
class Rows:
    """Where documents are in rows [B T]; what is None needs nothing done.

    starts: bool [B T], True where a document begins, which sees nothing before it. lengths: int64 [B], real places
    of each row, behind which outputs are zero and the state stays.
    """

    starts: Tensor | None = None
    lengths: Tensor | None = None


EVERYWHERE = Rows()


def selective_scan(
    x: Tensor,
    dt: Tensor,
    a: Tensor,
    b: Tensor,
    c: Tensor,
    d: Tensor,
    z: Tensor | None = None,
    h0: Tensor | None = None,
    rows: Rows = EVERYWHERE,
    bias: Tensor | None = None,
    *,
    backend: str = "auto",
) -> tuple[Tensor, Tensor]:
    """x [B T D], dt [B T D] > 0, a [D N] < 0, b, c [B T N], d [D], z [B T D], h0 [B N D] -> y [B T D], h [B N D].

    bias [D]: what is given for dt is then any number, and the step is softplus(dt + bias), in float32 at least.
    h is the last state, of h0's dtype (None: zeros in float32, or in x's if that is wider). backend: a form of
    `FORMS`.

    Raises: UserError for an unknown form.
    """
    if backend not in FORMS:
        raise UserError(f"selective_scan: there is no form '{backend}'{nearest(backend, FORMS)}")
    if h0 is None:
        kind = torch.promote_types(x.dtype, torch.float32)
        h0 = torch.zeros(x.shape[0], a.shape[1], x.shape[2], dtype=kind, device=x.device)
    return FORMS[backend](x, dt, a, b, c, d, z, h0, rows, bias)


def reference(
    x: Tensor,
    dt: Tensor,
    a: Tensor,
    b: Tensor,
    c: Tensor,
    d: Tensor,
    z: Tensor | None,
    h0: Tensor,
    rows: Rows = EVERYWHERE,
    bias: Tensor | None = None,
) -> tuple[Tensor, Tensor]:
    """The equation, place by place in float64."""
    kind, held = x.dtype, h0.dtype
    x, dt, a, b, c, d, h = (t.double() for t in (x, dt, a, b, c, d, h0))
    dt = dt if bias is None else F.softplus(dt + bias.double())
    outputs = []
    for t in range(x.shape[1]):
        if rows.starts is not None:
            h = h.masked_fill(rows.starts[:, t, None, None], 0)
        decay = torch.exp(dt[:, t].unsqueeze(1) * a.t())
        after = decay * h + (dt[:, t] * x[:, t]).unsqueeze(1) * b[:, t].unsqueeze(2)
        y = (c[:, t].unsqueeze(2) * after).sum(1) + d * x[:, t]
        if z is not None:
            y = y * F.silu(z[:, t].double())
        if rows.lengths is not None:
            real = rows.lengths > t
            after, y = torch.where(real[:, None, None], after, h), y.masked_fill(~real.unsqueeze(1), 0)
        h = after
        outputs.append(y)
    return torch.stack(outputs, 1).to(kind), h.to(held)


def chunked(
    x: Tensor,
    dt: Tensor,
    a: Tensor,
    b: Tensor,
    c: Tensor,
    d: Tensor,
    z: Tensor | None,
    h0: Tensor,
    rows: Rows = EVERYWHERE,
    bias: Tensor | None = None,
) -> tuple[Tensor, Tensor]:
    """Plain torch: the recurrence over a tree within a chunk, one chunk after another; traced, all in one."""
    return _apply(_Whole if torch.compiler.is_compiling() else _Chunked, x, dt, a, b, c, d, z, h0, rows, bias)


def fused(
    x: Tensor,
    dt: Tensor,
    a: Tensor,
    b: Tensor,
    c: Tensor,
    d: Tensor,
    z: Tensor | None,
    h0: Tensor,
    rows: Rows = EVERYWHERE,
    bias: Tensor | None = None,
) -> tuple[Tensor, Tensor]:
    """One compiled pass that never writes a state out, but at the ends of chunks; float32 inside.

    numba on a CPU, Triton on a GPU; `chunked` for float64 and where neither can run.
    """
    wide = any(t.dtype == torch.float64 for t in (x, dt, a, b, c, d, h0))
    kernel = None if wide else _kernel(x)
    return _apply(_Chunked if kernel is None else kernel, x, dt, a, b, c, d, z, h0, rows, bias)


def auto(
    x: Tensor,
    dt: Tensor,
    a: Tensor,
    b: Tensor,
    c: Tensor,
    d: Tensor,
    z: Tensor | None,
    h0: Tensor,
    rows: Rows = EVERYWHERE,
    bias: Tensor | None = None,
) -> tuple[Tensor, Tensor]:
    """The form that is fast where x is; while it is traced, plain torch in one piece."""
    if torch.compiler.is_compiling():
        return _apply(_Whole, x, dt, a, b, c, d, z, h0, rows, bias)
    return fused(x, dt, a, b, c, d, z, h0, rows, bias)


FORMS: dict[str, Callable[..., tuple[Tensor, Tensor]]] = {
    "reference": reference,
    "chunked": chunked,
    "fused": fused,
    "auto": auto,
}


def _kernel(x: Tensor) -> type[torch.autograd.Function] | None:
    if x.device.type in ("cpu", "meta") and _compiled.AVAILABLE:  # on meta, only what it would allocate
        return _Numba
    if x.device.type == "cuda" and find_spec("triton"):
        return _Triton
    return None


def _apply(
    form: Any,  # noqa: ANN401 (a class with `apply`)
    x: Tensor,
    dt: Tensor,
    a: Tensor,
    b: Tensor,
    c: Tensor,
    d: Tensor,
    z: Tensor | None,
    h0: Tensor,
    rows: Rows,
    bias: Tensor | None,
) -> tuple[Tensor, Tensor]:
    """Everything as a form with a gradient of its own takes it: float32 at least, contiguous, a [N D].

    z alone is given as it lies, since it is often half of wider rows.
    """
    kind, held = x.dtype, h0.dtype
    given, others = [x, dt, a.t(), b, c, d, h0], (z, bias)
    wide = torch.float32
    for t in (*given, *others):
        wide = wide if t is None else torch.promote_types(wide, t.dtype)
    x, dt, a, b, c, d, h0 = (t.to(wide).contiguous() for t in given)
    z, bias = (None if t is None else t.to(wide) for t in others)
    if form in (_Numba, _Triton):
        y, h = form.apply(x, dt, a, b, c, d, h0, z, rows, bias)
    else:
        y, h = form.apply(x, dt if bias is None else F.softplus(dt + bias), a, b, c, d, h0, z, rows)
    return y.to(kind), h.to(held)


# ---------------------------------------------------------------- plain torch; a [N D]


def _piece(
    x: Tensor,
    dt: Tensor,
    a: Tensor,
    b: Tensor,
    c: Tensor,
    d: Tensor,
    h0: Tensor,
    z: Tensor | None,
    rows: Rows,
) -> tuple[Tensor, Tensor]:
    """All positions at once: O(B T D N) memory."""
    real = None
    if rows.lengths is not None:
        real = (torch.arange(x.shape[1], device=x.device) < rows.lengths.unsqueeze(1)).unsqueeze(2)
        dt = dt.masked_fill(~real, 0)  # the state stays
    decay = torch.exp(dt.unsqueeze(2) * a)  # [B T N D]
    if rows.starts is not None:
        decay = decay.masked_fill(rows.starts[:, :, None, None], 0)
    h, last = associative(decay, (dt * x).unsqueeze(2) * b.unsqueeze(3), h0)
    y = (h * c.unsqueeze(3)).sum(2) + d * x
    if z is not None:
        y = y * F.silu(z)
    return (y if real is None else y.masked_fill(~real, 0)), last


class _Whole:
    apply = staticmethod(_piece)


class _Chunked(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any,  # noqa: ANN401  # autograd's own context
        x: Tensor,
        dt: Tensor,
        a: Tensor,
        b: Tensor,
        c: Tensor,
        d: Tensor,
        h0: Tensor,
        z: Tensor | None,
        rows: Rows,
    ) -> tuple[Tensor, Tensor]:
        h, outputs, bounds = h0, [], []
        for begin in range(0, x.shape[1], CHUNK):
            bounds.append(h)
            y, h = _piece(*_cut(x, dt, a, b, c, d, h, z, rows, begin))
            outputs.append(y)
        ctx.save_for_backward(x, dt, a, b, c, d, z, *bounds)
        ctx.rows = rows
        return torch.cat(outputs, 1), h.clone()

    @staticmethod
    @once_differentiable
    def backward(  # pyright: ignore[reportIncompatibleMethodOverride]  # the decorator hides the parameters' names
        ctx: Any,  # noqa: ANN401  # autograd's own context
        *gradients: Tensor,
    ) -> tuple[Tensor | None, ...]:
        x, dt, a, b, c, d, z, *bounds = ctx.saved_tensors
        dy, dh = gradients
        total: dict[int, Tensor] = {}
        pieces: dict[int, list[Tensor]] = {i: [] for i in (0, 1, 3, 4, 7)}
        for index in range(len(bounds) - 1, -1, -1):
            begin = index * CHUNK
            *given, rows = _cut(x, dt, a, b, c, d, bounds[index], z, ctx.rows, begin)
            with torch.enable_grad():
                leaves = [None if t is None else t.detach().requires_grad_() for t in given]
                outputs = _piece(*leaves, rows)  # pyright: ignore  # as many as it takes, and only z may be None
            wanted = [t for t in leaves if t is not None]
            found = list(torch.autograd.grad(outputs, wanted, (dy[:, begin : begin + CHUNK], dh)))
            for i, piece in pieces.items():
                piece.extend(found[i : i + 1])
            for i in (2, 5):
                total[i] = found[i] if i not in total else total[i] + found[i]
            dh = found[6]
        along = {i: torch.cat(p[::-1], 1) if p else None for i, p in pieces.items()}
        return along[0], along[1], total[2], along[3], along[4], total[5], dh, along[7], None


def _cut(
    x: Tensor,
    dt: Tensor,
    a: Tensor,
    b: Tensor,
    c: Tensor,
    d: Tensor,
    h: Tensor,
    z: Tensor | None,
    rows: Rows,
    begin: int,
) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor, Tensor, Tensor, Tensor | None, Rows]:
    """The chunk that begins there."""
    x, dt, b, c = (t[:, begin : begin + CHUNK] for t in (x, dt, b, c))
    z = None if z is None else z[:, begin : begin + CHUNK]
    starts = None if rows.starts is None else rows.starts[:, begin : begin + CHUNK]
    lengths = None if rows.lengths is None else rows.lengths - begin
    return x, dt, a, b, c, d, h, z, replace(rows, starts=starts, lengths=lengths)


# ---------------------------------------------------------------- compiled; a [N D]


def _compiled_form(load: Callable[[], Any]) -> type[torch.autograd.Function]:
    """The form whose kernels `load` imports when it first runs."""

    class Form(torch.autograd.Function):
        @staticmethod
        def forward(
            ctx: Any,  # noqa: ANN401  # autograd's own context
            x: Tensor,
            dt: Tensor,
            a: Tensor,
            b: Tensor,
            c: Tensor,
            d: Tensor,
            h0: Tensor,
            z: Tensor | None,
            rows: Rows,
            bias: Tensor | None,
        ) -> tuple[Tensor, Tensor]:
            keep = any(ctx.needs_input_grad)
            y, end, bounds = load().forward(x, dt, a, b, c, d, h0, z, bias, rows.starts, rows.lengths, keep=keep)
            if keep:
                ctx.save_for_backward(x, dt, a, b, c, d, z, bias, bounds)
                ctx.rows = rows
            return y, end

        @staticmethod
        @once_differentiable
        def backward(  # pyright: ignore[reportIncompatibleMethodOverride]  # the decorator hides parameters' names
            ctx: Any,  # noqa: ANN401  # autograd's own context
            *gradients: Tensor,
        ) -> tuple[Tensor | None, ...]:
            dy, dh = (g.contiguous() for g in gradients)
            *found, of_bias = load().backward(*ctx.saved_tensors, dy, dh, ctx.rows.starts, ctx.rows.lengths)
            return *found, None, of_bias

    return Form


_Numba = _compiled_form(lambda: import_module("jogak.ops._numba_selective"))
_Triton = _compiled_form(lambda: import_module("jogak.ops._triton_selective"))
