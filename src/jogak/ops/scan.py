"""First-order linear recurrences h_t = a_t h_(t-1) + b_t, in forms that say the same.

What stands before a_t = 0 does not matter afterwards, not even as rounding: no form divides by products of a or
takes their logarithm. So a document starts where a is zero.

Sources: Blelloch 1990 (CMU-CS-90-190) section 1.4 for the recurrence as a scan and the sweeps over the tree; Martin
& Cundy 2018 (1709.04057) for its gradient, the same recurrence in the other direction.

Legend: B batch, T time, C channels (all dimensions behind time, flattened), N state, L length of a chunk.
"""

from collections.abc import Callable
from importlib.util import find_spec
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.autograd.function import once_differentiable

from jogak.errors import UserError, nearest
from jogak.ops import _compiled, _numba_scan

CHUNK = 32


def scan(
    a: Tensor,
    b: Tensor,
    h0: Tensor | None = None,
    *,
    starts: Tensor | None = None,
    lengths: Tensor | None = None,
    backend: str = "auto",
) -> tuple[Tensor, Tensor]:
    """h_t = a_t h_(t-1) + b_t for all t: a, b [B T ...], h0 [B ...] (None: zeros) -> h [B T ...], the last [B ...].

    a: of as many dimensions as b, of its size or 1 in each (scalar or diagonal), or [B T N N] for b [B T N]
    (matrices; forms `reference` and `associative`). Real or complex; what is narrower than float32 is added up in
    float32. h has b's dtype, the last state h0's. starts: bool [B T], True where a document begins that nothing
    before it matters to. lengths: int64 [B], the places of each row that count; the last state is what those
    leave. backend: a form of `FORMS`.

    Raises: UserError for shapes that do not fit and unknown forms.
    """
    matrix = a.dim() == b.dim() + 1
    _check(a, b, h0, matrix, backend)
    held = b.dtype if h0 is None else h0.dtype
    if b.shape[1] == 0:
        return b, torch.zeros_like(b[:, :0].sum(1)) if h0 is None else h0
    if starts is not None:
        a = a.masked_fill(starts.view(*starts.shape, *[1] * (a.dim() - 2)), 0)
    start = torch.zeros_like(b[:, 0]) if h0 is None else h0
    h, last = FORMS[backend](a, b, start)
    if lengths is not None:
        index = (lengths - 1).clamp_min(0).view(-1, *[1] * (h.dim() - 1)).expand(-1, 1, *h.shape[2:])
        empty = (lengths == 0).view(-1, *[1] * (h.dim() - 2))
        last = torch.where(empty, start.to(h.dtype), h.gather(1, index).squeeze(1))
    return h.to(torch.promote_types(a.dtype, b.dtype)), last.to(held)


def _check(a: Tensor, b: Tensor, h0: Tensor | None, matrix: bool, backend: str) -> None:
    if backend not in FORMS:
        raise UserError(f"scan: there is no form '{backend}'{nearest(backend, FORMS)}")
    if matrix and backend not in ("auto", "reference", "associative"):
        raise UserError(f"scan: form '{backend}' does not take matrices; use 'associative'")
    shape = (*b.shape, b.shape[-1]) if matrix else tuple(b.shape)
    if a.dim() != len(shape) or any(n not in (1, wanted) for n, wanted in zip(a.shape, shape, strict=True)):
        raise UserError(f"scan: a must be {list(shape)}, or 1 in some of these, got {list(a.shape)}")
    if h0 is not None and h0.shape != (b.shape[0], *b.shape[2:]):
        raise UserError(f"scan: h0 must be {[b.shape[0], *b.shape[2:]]}, got {list(h0.shape)}")


# ---------------------------------------------------------------- forms: a, b [B T ...], h0 [B ...]


def reference(a: Tensor, b: Tensor, h0: Tensor) -> tuple[Tensor, Tensor]:
    """The equation, place by place in float64 (complex128)."""
    kind = torch.promote_types(torch.promote_types(a.dtype, b.dtype), h0.dtype)
    wide = torch.promote_types(kind, torch.float64)
    a, given, h = a.to(wide), b.to(wide), h0.to(wide)
    outputs = []
    for t in range(b.shape[1]):
        a_t = a[:, min(t, a.shape[1] - 1)]
        h = _times(a_t, h, a.dim() > b.dim()) + given[:, t]
        outputs.append(h)
    return torch.stack(outputs, 1).to(kind), h.to(kind)


def associative(a: Tensor, b: Tensor, h0: Tensor) -> tuple[Tensor, Tensor]:
    """Blelloch's up- and down-sweep over a binary tree: pairs (a, b) join to (a' a, a' b + b'); 2 log T steps.

    Going down, each node is told the state before its first place: h0 at the root, the same for a left child, and
    a h + b of its left sibling for a right one.
    """
    a, b, h0, kind = _same(a, b, h0)
    matrix, length = a.dim() > b.dim(), b.shape[1]
    levels = []
    while True:
        levels.append((a, b))
        if b.shape[1] == 1:
            break
        odd = b.shape[1] % 2
        left_a, right_a = a[:, : a.shape[1] - odd : 2], a[:, 1::2]
        left_b, right_b = b[:, : b.shape[1] - odd : 2], b[:, 1::2]
        joined_a = right_a @ left_a if matrix else right_a * left_a
        joined_b = _times(right_a, left_b, matrix) + right_b
        if odd:  # the last one has no sibling and goes up alone
            joined_a, joined_b = torch.cat([joined_a, a[:, -1:]], 1), torch.cat([joined_b, b[:, -1:]], 1)
        a, b = joined_a, joined_b
    before = h0.unsqueeze(1)
    for a, b in levels[-2::-1]:
        count = b.shape[1] // 2
        right = _times(a[:, 0 : 2 * count : 2], before[:, :count], matrix) + b[:, 0 : 2 * count : 2]
        pairs = torch.stack([before[:, :count], right], 2).flatten(1, 2)
        before = torch.cat([pairs, before[:, count:]], 1)
    a, b = levels[0]
    h = _times(a, before, matrix) + b
    return h.to(kind), h[:, length - 1].clone().to(kind)


def chunked(a: Tensor, b: Tensor, h0: Tensor) -> tuple[Tensor, Tensor]:
    """Chunks side by side, each from zero; then what the chunks before it left, times the products of a so far."""
    return _apply(a, b, h0, "chunked")


def fused(a: Tensor, b: Tensor, h0: Tensor) -> tuple[Tensor, Tensor]:
    """One compiled pass over memory: numba on a CPU, Triton on a GPU, and `chunked` where neither can run."""
    return _apply(a, b, h0, _kernel(b))


def auto(a: Tensor, b: Tensor, h0: Tensor) -> tuple[Tensor, Tensor]:
    """The form that is fast where b is; while it is traced, plain torch."""
    matrix = a.dim() > b.dim()
    if b.shape[1] == 1:
        a, b, h0, kind = _same(a, b, h0)
        h = (_times(a[:, 0], h0, matrix) + b[:, 0]).to(kind)
        return h.unsqueeze(1), h
    if matrix or torch.compiler.is_compiling():
        return associative(a, b, h0)
    return fused(a, b, h0)


FORMS: dict[str, Callable[[Tensor, Tensor, Tensor], tuple[Tensor, Tensor]]] = {
    "reference": reference,
    "associative": associative,
    "chunked": chunked,
    "fused": fused,
    "auto": auto,
}


def _times(a: Tensor, h: Tensor, matrix: bool) -> Tensor:
    return (a @ h.unsqueeze(-1)).squeeze(-1) if matrix else a * h


def _same(a: Tensor, b: Tensor, h0: Tensor) -> tuple[Tensor, Tensor, Tensor, torch.dtype]:
    """All of one dtype, float32 at least, a as long as b; and the dtype that the result is given in."""
    kind = torch.promote_types(torch.promote_types(a.dtype, b.dtype), h0.dtype)
    wide = torch.promote_types(kind, torch.float32)
    shape = (*b.shape, *a.shape[b.dim() :])
    return a.expand(shape).to(wide), b.to(wide), h0.to(wide), kind


# ---------------------------------------------------------------- forms with a gradient of their own, a, b [B T C]


def _chunked(a: Tensor, b: Tensor, h0: Tensor) -> tuple[Tensor, Tensor]:
    length = b.shape[1]
    pad = -length % CHUNK
    a = F.pad(a, (0, 0, 0, pad), value=1.0).unflatten(1, (-1, CHUNK))
    b = F.pad(b, (0, 0, 0, pad)).unflatten(1, (-1, CHUNK))
    product, state = a[:, :, 0], b[:, :, 0]
    products, states = [product], [state]
    for place in range(1, CHUNK):
        product = product * a[:, :, place]
        state = torch.addcmul(b[:, :, place], a[:, :, place], state)
        products.append(product)
        states.append(state)
    after, _ = associative(product, state, h0)
    before = torch.cat([h0.unsqueeze(1), after[:, :-1]], 1)
    h = torch.stack(states, 2) + torch.stack(products, 2) * before.unsqueeze(2)
    h = h.flatten(1, 2)[:, :length]
    return h, h[:, -1].clone()


def _kernel(b: Tensor) -> str:
    """Which form with a gradient of its own is fastest for b."""
    if b.device.type in ("cpu", "meta") and _compiled.AVAILABLE:  # on meta, only what it would allocate
        return "numba"
    if b.device.type == "cuda" and find_spec("triton") and not b.is_complex():
        return "triton"
    return "chunked"


def _run(form: str, a: Tensor, b: Tensor, h0: Tensor) -> tuple[Tensor, Tensor]:
    if form == "numba":
        return _numba_scan.forward(a, b, h0)
    if form == "triton":
        from jogak.ops import _triton_scan

        return _triton_scan.forward(a, b, h0)
    return _chunked(a, b, h0)


class _Scan(torch.autograd.Function):
    """The recurrence; its gradient is the same recurrence from the end, g_t = dh_t + a*_(t+1) g_(t+1)."""

    @staticmethod
    def forward(ctx: Any, a: Tensor, b: Tensor, h0: Tensor, form: str) -> tuple[Tensor, Tensor]:  # noqa: ANN401
        h, last = _run(form, a, b, h0)
        ctx.save_for_backward(a, h, h0)
        ctx.form = form
        return h, last

    @staticmethod
    @once_differentiable
    def backward(  # pyright: ignore[reportIncompatibleMethodOverride]  # the decorator hides the parameters' names
        ctx: Any,  # noqa: ANN401  # autograd's own context
        *gradients: Tensor,
    ) -> tuple[Tensor | None, ...]:
        a, h, h0 = ctx.saved_tensors
        dh, dlast = (g.contiguous() for g in gradients)
        if ctx.form == "numba":
            return *_numba_scan.backward(a, h, h0, dh, dlast), None
        later = torch.cat([torch.ones_like(a[:, :1]), a[:, 1:].flip(1).conj().resolve_conj()], 1)
        g = _run(ctx.form, later, dh.flip(1), dlast)[0].flip(1)
        before = torch.cat([h0.unsqueeze(1), h[:, :-1]], 1)
        return g * before.conj(), g, g[:, 0] * a[:, 0].conj(), None


def _apply(a: Tensor, b: Tensor, h0: Tensor, form: str) -> tuple[Tensor, Tensor]:
    """a, b [B T ...], h0 [B ...] as contiguous [B T C], and back."""
    shape = b.shape
    a, b, h0, kind = _same(a, b, h0)
    rows, length = shape[:2]
    a, b = (x.reshape(rows, length, -1).contiguous() for x in (a, b))
    h, last = _Scan.apply(a, b, h0.reshape(rows, -1).contiguous(), form)
    return h.view(shape).to(kind), last.view(rows, *shape[2:]).to(kind)
