"""Attention over short sequences on a CPU: all of a head's queries and keys in one visit, its weights kept for the
way back.

Batched products of so few numbers are mostly the copies that they ask for and the calls. A span is a run of queries
and the run of keys that they read: a row of a padded batch, or one of the documents that lie in a row.

Legend: B batch, T queries, S keys, H query heads, G key/value heads, K key, V value.
"""

from typing import Any

import numpy as np
import torch
from torch import Tensor

from jogak.ops import _products, _vectors
from jogak.ops._compiled import Kernel, flat, jit
from jogak.ops._vectors import LOG2E

exp2: Any = _vectors.exp2  # as numba calls it, without what its decorator is told
inner, put, add = _products.inner, _products.put, _products.add
WIDTH = _products.LANES  # K and V must be multiples of it
ZERO, NOTHING = np.float32(0), np.float32(-np.inf)

# ruff: noqa: ANN001, ANN202 (what numba compiles takes its types from the call)


@jit
def _softmax(row, count, scale):
    """row becomes softmax(scale row) over the first `count` of it, where it is not -inf; the rest is 0."""
    held, rest = row[: max(count, 0)], row[max(count, 0) :]
    top = NOTHING
    for s in range(len(held)):
        top = max(top, held[s])
    total = ZERO
    for s in range(len(held)):
        likely = exp2((held[s] - top) * scale)
        likely = likely if held[s] > NOTHING else ZERO
        held[s] = likely
        total += likely
    inverse = np.float32(1) / total if total > ZERO else ZERO
    for s in range(len(held)):
        held[s] *= inverse
    for s in range(len(rest)):
        rest[s] = ZERO


def _forward(first, last, q, k, v, y, p, spans, seen, steps, sizes, causal, scale):
    """Tasks are spans and key heads. q, k, v: flat, with the steps [3 3] between rows, places and heads; y: flat
    [B T H V]; p: flat [H nq nk] of each span; seen [B or 1, T, S], or empty where all of a span is seen that causal
    leaves."""
    places, heads, groups, width, values = sizes
    repeat, masked, row_y = heads // groups, seen.shape[0] > 0, heads * values
    for task in range(first, last):
        group = task % groups
        row, q0, queries, k0, keys, at = spans[task // groups]
        at_k = row * steps[1, 0] + k0 * steps[1, 1] + group * steps[1, 2]
        at_v = row * steps[2, 0] + k0 * steps[2, 1] + group * steps[2, 2]
        for head in range(group * repeat, (group + 1) * repeat):
            at_q = row * steps[0, 0] + q0 * steps[0, 1] + head * steps[0, 2]
            at_p = at + head * queries * keys
            inner(p, at_p, keys, q, at_q, steps[0, 1], k, at_k, steps[1, 1], queries, keys, width)
            for t in range(queries):
                line = p[at_p + t * keys : at_p + (t + 1) * keys]
                if masked:
                    allowed = seen[row % seen.shape[0], q0 + t, k0 : k0 + keys]
                    for s in range(keys):
                        if not allowed[s]:
                            line[s] = NOTHING
                _softmax(line, min(keys, t + keys - queries + 1) if causal else keys, scale)
            at_y = (row * places + q0) * row_y + head * values
            put(y, at_y, row_y, p, at_p, keys, 1, v, at_v, steps[2, 1], queries, keys, values)


@jit
def _slopes(p, ds, scale):
    """ds = scale p (ds - sum p ds)."""
    mean = ZERO
    for s in range(len(p)):
        mean += p[s] * ds[s]
    for s in range(len(p)):
        ds[s] = p[s] * (ds[s] - mean) * scale


def _backward(first, last, q, k, v, p, dy, dq, dk, dv, spans, steps, sizes, scale, most):
    """dy [B T H V] gives dq [B T H K], dk [B S G K], dv [B S G V], all flat: dv = p^T dy, and with
    g = p (dp - sum_s p dp), dp = dy v^T, dq = g k and dk = g^T q, both times the scale."""
    places, others, heads, groups, width, values = sizes
    repeat, row_y, row_q = heads // groups, heads * values, heads * width
    ds = np.empty(most, np.float32)
    for task in range(first, last):
        group = task % groups
        row, q0, queries, k0, keys, at = spans[task // groups]
        at_k = row * steps[1, 0] + k0 * steps[1, 1] + group * steps[1, 2]
        at_v = row * steps[2, 0] + k0 * steps[2, 1] + group * steps[2, 2]
        at_dk = ((row * others + k0) * groups + group) * width
        at_dv = ((row * others + k0) * groups + group) * values
        for head in range(group * repeat, (group + 1) * repeat):
            at_q = row * steps[0, 0] + q0 * steps[0, 1] + head * steps[0, 2]
            at_p, at_dy = at + head * queries * keys, (row * places + q0) * row_y + head * values
            inner(ds, 0, keys, dy, at_dy, row_y, v, at_v, steps[2, 1], queries, keys, values)
            for t in range(queries):
                low, high = t * keys, (t + 1) * keys
                _slopes(p[at_p + low : at_p + high], ds[low:high], scale)
            at_dq = (row * places + q0) * row_q + head * width
            put(dq, at_dq, row_q, ds, 0, keys, 1, k, at_k, steps[1, 1], queries, keys, width)
            if head == group * repeat:
                put(dk, at_dk, groups * width, ds, 0, 1, keys, q, at_q, steps[0, 1], keys, queries, width)
                put(dv, at_dv, groups * values, p, at_p, 1, keys, dy, at_dy, row_y, keys, queries, values)
            else:
                add(dk, at_dk, groups * width, ds, 0, 1, keys, q, at_q, steps[0, 1], keys, queries, width)
                add(dv, at_dv, groups * values, p, at_p, 1, keys, dy, at_dy, row_y, keys, queries, values)


_forward_kernel, _backward_kernel = Kernel(_forward, reorder=True), Kernel(_backward, reorder=True)


class Short(torch.autograd.Function):
    """softmax(q k^T / sqrt(K)) v in float32 over spans [n 5] (row, first query, queries, first key, keys).

    seen: bool [B or 1, T, S], True = visible. causal: the last query of a span sees all of its keys, and each before
    it one less. Keys of no span are read by nobody.
    """

    @staticmethod
    def forward(
        ctx: Any,  # noqa: ANN401  # autograd's own context
        q: Tensor,
        k: Tensor,
        v: Tensor,
        spans: Any,  # noqa: ANN401  # an array of NumPy's
        seen: Tensor | None,
        causal: bool,
    ) -> Tensor:
        q, k, v = (t if t.stride(3) == 1 else t.contiguous() for t in (q.detach(), k.detach(), v.detach()))
        rows, queries, heads, width = q.shape
        _, keys, groups, values = v.shape
        steps = np.array([t.stride()[:3] for t in (q, k, v)])
        cells = spans[:, 2] * spans[:, 4]
        starts = heads * (np.cumsum(cells) - cells)
        spans = np.concatenate((spans, starts[:, None]), 1)
        y, p = q.new_empty(rows, queries, heads, values), q.new_empty(heads * int(cells.sum()))
        hidden = np.empty((0, 0, 0), np.bool_) if seen is None else seen.expand(-1, queries, -1).contiguous().numpy()
        sizes = (queries, heads, groups, width, values)
        scale, work = np.float32(width**-0.5 * LOG2E), len(p) * (width + values) // 4
        arrays = (*map(flat, (q, k, v, y, p)), spans, hidden, steps, sizes, causal, scale)
        _forward_kernel(len(spans) * groups, *arrays, work=work)
        ctx.save_for_backward(q, k, v, p)
        ctx.given = spans, steps, (queries, keys, heads, groups, width, values), work
        return y

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(  # pyright: ignore[reportIncompatibleMethodOverride]  # the decorator hides the parameters' names
        ctx: Any,  # noqa: ANN401  # autograd's own context
        grad: Tensor,
    ) -> tuple[Tensor | None, ...]:
        q, k, v, p = ctx.saved_tensors
        spans, steps, sizes, work = ctx.given
        read = int(spans[:, 4].sum()) == len(k) * k.shape[1]  # every key, so that each gradient is written
        dq = torch.empty(q.shape)
        dk, dv = (torch.empty(t.shape) if read else torch.zeros(t.shape) for t in (k, v))
        arrays = map(flat, (q, k, v, p, grad.contiguous(), dq, dk, dv))
        scale = np.float32(sizes[4] ** -0.5)
        most = int((spans[:, 2] * spans[:, 4]).max(initial=0))
        _backward_kernel(len(spans) * sizes[3], *arrays, spans, steps, sizes, scale, most, work=2 * work)
        return dq, dk, dv, None, None, None


@jit
def _runs(labels, starts):
    """Where the runs of equal labels start, and where the last ends; the number of runs."""
    count = 0
    for t in range(len(labels)):
        if t == 0 or labels[t] != labels[t - 1]:
            starts[count] = t
            count += 1
    starts[count] = len(labels)
    return count


@jit
def _match(mine, theirs, causal, out):
    """mine [B T], theirs [B S]: labels. Writes the span of each run of mine; their number, or -1 where a label's
    places are apart or causal spans are no squares on the diagonal."""
    count = 0
    begin, other = np.empty(mine.shape[1] + 1, np.int64), np.empty(theirs.shape[1] + 1, np.int64)
    for row in range(len(mine)):
        runs, others = _runs(mine[row], begin), _runs(theirs[row], other)
        for run in range(runs):
            label, first, keys = mine[row, begin[run]], 0, 0
            queries = begin[run + 1] - begin[run]
            for later in range(run + 1, runs):
                if mine[row, begin[later]] == label:
                    return -1
            for j in range(others):
                if theirs[row, other[j]] == label:
                    if keys:
                        return -1
                    first, keys = other[j], other[j + 1] - other[j]
            if causal and (keys != queries or first != begin[run]):
                return -1
            out[count, 0], out[count, 1], out[count, 2] = row, begin[run], queries
            out[count, 3], out[count, 4] = first, keys
            count += 1
    return count


def spans(mine: Tensor, theirs: Tensor, *, causal: bool) -> Any | None:  # noqa: ANN401  # an array of NumPy's
    """The spans of labels: int64 mine [B T], theirs [B S], a query reads the keys of its label; None where the places
    of one are no run, or with causal no square on the diagonal."""
    out = np.empty((mine.numel(), 5), np.int64)
    count = _match(mine.contiguous().numpy(), theirs.contiguous().numpy(), causal, out)
    return None if count < 0 else out[:count]


def rows(batch: int, queries: int, keys: int) -> Any:  # noqa: ANN401  # an array of NumPy's
    """A span for every row."""
    out = np.zeros((batch, 5), np.int64)
    out[:, 0], out[:, 2], out[:, 4] = np.arange(batch), queries, keys
    return out
