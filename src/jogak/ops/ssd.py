"""State space duality: a linear recurrence with one decay a head, which chunks turn into matrix products.

h_t = exp(dt_t A) h_(t-1) + dt_t x_t B_t^T, y_t = h_t C_t + D x_t: in each head a state [P N], with scalar A and D.

Within a chunk y is (L * C B^T) (dt x) with L_ij = exp(dt_(j+1) A + ... + dt_i A) for i >= j; the states at the ends
of chunks are a scan over chunks. Documents mask L, so that nothing of another one is even multiplied by zero.

Source: Dao & Gu 2024 (2405.21060) sections 5 and 6.

Legend: B batch, T time, H heads, P head width, G groups (H a multiple of G), N state, C chunks, L length of a chunk.
"""

from collections.abc import Callable
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from jogak.errors import UserError, nearest
from jogak.ops import _compiled, _numba_ssd
from jogak.ops.scan import scan
from jogak.ops.selective_scan import EVERYWHERE, Rows

CHUNK = 64


def ssd(
    x: Tensor,
    dt: Tensor,
    a: Tensor,
    b: Tensor,
    c: Tensor,
    d: Tensor,
    h0: Tensor,
    rows: Rows = EVERYWHERE,
    *,
    backend: str = "auto",
) -> tuple[Tensor, Tensor]:
    """x [B T H P], dt [B T H] > 0, a [H] < 0, b, c [B T G N], d [H], h0 [B H P N] -> y [B T H P], the last state.

    backend: a form of `FORMS`.

    Raises: UserError for an unknown form and for groups that do not divide heads.
    """
    if backend not in FORMS:
        raise UserError(f"ssd: there is no form '{backend}'{nearest(backend, FORMS)}")
    if x.shape[2] % b.shape[2]:
        raise UserError(f"ssd: heads ({x.shape[2]}) must be a multiple of groups ({b.shape[2]})")
    return FORMS[backend](x, dt, a, b, c, d, h0, rows)


def reference(
    x: Tensor, dt: Tensor, a: Tensor, b: Tensor, c: Tensor, d: Tensor, h0: Tensor, rows: Rows = EVERYWHERE
) -> tuple[Tensor, Tensor]:
    """The equation, place by place in float64."""
    kind, held, each = x.dtype, h0.dtype, x.shape[2] // b.shape[2]
    x, dt, a, b, c, d, h = (t.double() for t in (x, dt, a, b, c, d, h0))
    b, c = b.repeat_interleave(each, 2), c.repeat_interleave(each, 2)
    outputs = []
    for t in range(x.shape[1]):
        if rows.starts is not None:
            h = h.masked_fill(rows.starts[:, t, None, None, None], 0)
        put = (dt[:, t].unsqueeze(2) * x[:, t]).unsqueeze(3) * b[:, t].unsqueeze(2)
        after = torch.exp(dt[:, t] * a)[:, :, None, None] * h + put
        y = (after * c[:, t].unsqueeze(2)).sum(3) + d.unsqueeze(1) * x[:, t]
        if rows.lengths is not None:
            real = (rows.lengths > t)[:, None, None]
            after, y = torch.where(real.unsqueeze(3), after, h), y.masked_fill(~real, 0)
        h = after
        outputs.append(y)
    return torch.stack(outputs, 1).to(kind), h.to(held)


def chunked(
    x: Tensor, dt: Tensor, a: Tensor, b: Tensor, c: Tensor, d: Tensor, h0: Tensor, rows: Rows = EVERYWHERE
) -> tuple[Tensor, Tensor]:
    """Matrix products within chunks, a scan over the states between them; float32 inside, under autocast too."""
    kind, held = x.dtype, h0.dtype
    wide = torch.promote_types(kind, torch.float32)
    with torch.autocast(x.device.type, enabled=False) if x.device.type != "meta" else _Nothing():
        x, dt, a, b, c, d, h0 = (t.to(wide) for t in (x, dt, a, b, c, d, h0))
        y, h = _chunked(x, dt, a, b, c, d, h0, rows)
    return y.to(kind), h.to(held)


class _Nothing:
    def __enter__(self) -> None: ...

    def __exit__(self, *error: object) -> None: ...


def _chunked(
    x: Tensor, dt: Tensor, a: Tensor, b: Tensor, c: Tensor, d: Tensor, h0: Tensor, rows: Rows
) -> tuple[Tensor, Tensor]:
    length, groups, real = x.shape[1], b.shape[2], None
    if rows.lengths is not None:
        real = torch.arange(length, device=x.device) < rows.lengths.unsqueeze(1)
        dt = dt.masked_fill(~real.unsqueeze(2), 0)  # the state stays
    size = min(CHUNK, length)
    skip = d.unsqueeze(1) * x
    put = dt.unsqueeze(3) * x
    # [B C G (H/G) L ...]: heads of a group side by side, which share B and C
    put = _split(put, size).unflatten(2, (groups, -1))
    b, c = _split(b, size), _split(c, size)  # [B C G L N]
    decay = _split((dt * a).unsqueeze(3), size).squeeze(4).unflatten(2, (groups, -1))  # [B C G (H/G) L]
    total = decay.double().cumsum(-1)  # differences of float32 sums would lose what is left of them
    document = None if rows.starts is None else _split(rows.starts[:, :, None, None].to(x.dtype), size).cumsum(3)
    inside = _inside(total, document).to(x.dtype)  # [B C G (H/G) L L]
    y = (inside * (c @ b.transpose(3, 4)).unsqueeze(3)) @ put

    to_end = torch.exp(total[..., -1:] - total).to(x.dtype)
    carry = torch.exp(total[..., -1]).to(x.dtype)  # [B C G (H/G)]
    from_start = torch.exp(total).to(x.dtype)
    if document is not None:
        last = document[:, :, :, -1:]  # documents [B C 1 L 1]
        to_end = to_end.masked_fill((document != last).squeeze(4).unsqueeze(3), 0)
        carry = carry.masked_fill((last != 0)[..., 0, 0].unsqueeze(3), 0)
        from_start = from_start.masked_fill((document != 0).squeeze(4).unsqueeze(3), 0)
    left = (put * to_end.unsqueeze(5)).transpose(4, 5) @ b.unsqueeze(3)  # [B C G (H/G) P N]
    start = h0.unflatten(1, (groups, -1))
    states, end = scan(carry[..., None, None], left, start)
    before = torch.cat([start.unsqueeze(1), states[:, :-1]], 1)
    y = y + (c.unsqueeze(3) @ before.transpose(4, 5)) * from_start.unsqueeze(5)
    y = y.flatten(2, 3).transpose(2, 3).flatten(1, 2)[:, :length] + skip
    if real is not None:
        y = y.masked_fill(~real[:, :, None, None], 0)
    return y, end.flatten(1, 2)


def _split(x: Tensor, size: int) -> Tensor:
    """[B T H ...] -> chunks [B C H L ...], zeros behind the end."""
    padded = F.pad(x, (0, 0) * (x.dim() - 2) + (0, -x.shape[1] % size))
    return padded.unflatten(1, (-1, size)).transpose(2, 3)


def _inside(total: Tensor, document: Tensor | None) -> Tensor:
    """exp(total_i - total_j) where place j comes before i, or is i, in the same document; 0 elsewhere: [... L L]."""
    size = total.shape[-1]
    later = torch.ones(size, size, dtype=torch.bool, device=total.device).triu(1)
    difference = total.unsqueeze(-1) - total.unsqueeze(-2)
    if document is not None:
        later = later | (document != document.transpose(3, 4)).unsqueeze(3)
    return difference.masked_fill(later, -torch.inf).exp()


def step(
    x: Tensor, dt: Tensor, a: Tensor, b: Tensor, c: Tensor, d: Tensor, h0: Tensor, rows: Rows = EVERYWHERE
) -> tuple[Tensor, Tensor]:
    """One place without documents, T = 1: the recurrence itself, in one compiled pass where no gradients are kept."""
    kind, held, each = x.dtype, h0.dtype, x.shape[2] // b.shape[2]
    wide = torch.promote_types(kind, torch.float32)
    x, dt, a, b, c, d, h = (t.to(wide) for t in (x[:, 0], dt[:, 0], a, b[:, 0], c[:, 0], d, h0))
    if _in_one_pass(x, dt, a, b, c, d, h):
        y, h = _numba_ssd.step(x, dt, a, b, c, d, h)
        return y.unsqueeze(1).to(kind), h.to(held)
    b, c = (t.repeat_interleave(each, 1) if each > 1 else t for t in (b, c))
    h = torch.exp(dt * a)[:, :, None, None] * h + (dt.unsqueeze(2) * x).unsqueeze(3) * b.unsqueeze(2)
    y = (h * c.unsqueeze(2)).sum(3) + d.unsqueeze(1) * x
    return y.unsqueeze(1).to(kind), h.to(held)


def _in_one_pass(*given: Tensor) -> bool:
    if torch.compiler.is_compiling() or not _compiled.AVAILABLE or given[0].device.type != "cpu":
        return False
    return not (torch.is_grad_enabled() and any(t.requires_grad for t in given))


def auto(
    x: Tensor, dt: Tensor, a: Tensor, b: Tensor, c: Tensor, d: Tensor, h0: Tensor, rows: Rows = EVERYWHERE
) -> tuple[Tensor, Tensor]:
    """`step` for one place, else `chunked`."""
    alone = x.shape[1] == 1 and rows.starts is None and rows.lengths is None
    return (step if alone else chunked)(x, dt, a, b, c, d, h0, rows)


FORMS: dict[str, Callable[..., tuple[Any, Any]]] = {"reference": reference, "chunked": chunked, "auto": auto}
