"""Attention over short sequences on a CPU: all of a row's head in one visit, its weights kept for the way back.

Batched products of so few numbers are mostly the copies that they ask for and the calls.

Legend: B batch, T queries, S keys, H query heads, G key/value heads, K key, V value.
"""

from collections.abc import Callable
from typing import Any

import numpy as np
import torch
from torch import Tensor

from jogak.ops import _vectors
from jogak.ops._compiled import Kernel, jit
from jogak.ops._vectors import LOG2E

exp2: Any = _vectors.exp2  # as numba calls it, without what its decorator is told


def _summing(function: Callable[..., Any]) -> Callable[..., Any]:
    return jit(function, reorder=True)


@_summing
def _dot(a, b):  # noqa: ANN001, ANN202 (numba)
    total = np.float32(0)
    for i in range(len(a)):
        total += a[i] * b[i]
    return total


@jit
def _add(total, a, factor):  # noqa: ANN001, ANN202 (numba)
    for i in range(len(total)):
        total[i] += factor * a[i]


def _forward(first, last, q, k, v, y, p, seen, steps, sizes, causal, scale):  # noqa: ANN001, ANN202 (numba)
    """Tasks are rows and key heads. q, k, v: flat, with the steps [3 3] between rows, places and heads; y [B T H V],
    p [B H T S]; seen [B or 1, T, S], or empty where all is seen that causal leaves."""
    queries, keys, heads, groups, width, values = sizes
    repeat, masked = heads // groups, seen.shape[0] > 0
    for task in range(first, last):
        row, group = task // groups, task % groups
        at_k, at_v = row * steps[1, 0] + group * steps[1, 2], row * steps[2, 0] + group * steps[2, 2]
        for head in range(group * repeat, (group + 1) * repeat):
            for t in range(queries):
                at = row * steps[0, 0] + t * steps[0, 1] + head * steps[0, 2]
                query, weights, out = q[at : at + width], p[row, head, t], y[row, t, head]
                count = min(keys, t + keys - queries + 1) if causal else keys
                top = np.float32(-np.inf)
                for s in range(count):
                    if masked and not seen[row % seen.shape[0], t, s]:
                        weights[s] = -np.inf
                        continue
                    start = at_k + s * steps[1, 1]
                    weights[s] = _dot(query, k[start : start + width])
                    top = max(top, weights[s])
                total = np.float32(0)
                for s in range(count):
                    likely = exp2((weights[s] - top) * np.float32(scale * LOG2E))
                    weights[s] = likely if weights[s] > -np.inf else np.float32(0)
                    total += weights[s]
                weights[max(count, 0) :] = 0
                out[:] = 0
                inverse = np.float32(1) / total if total > 0 else np.float32(0)
                for s in range(count):
                    weights[s] *= inverse
                    start = at_v + s * steps[2, 1]
                    _add(out, v[start : start + values], weights[s])


def _backward(first, last, q, k, v, p, dy, dq, dk, dv, steps, sizes, causal, scale):  # noqa: ANN001, ANN202 (numba)
    """dy [B T H V] gives dq [B T H K], dk [B S G K], dv [B S G V]: dv = p^T dy, and with g = p (dp - sum_s p dp),
    dp = dy v^T, dq = g k and dk = g^T q, both times the scale."""
    queries, keys, heads, groups, width, values = sizes
    repeat, slopes = heads // groups, np.empty(keys, np.float32)
    for task in range(first, last):
        row, group = task // groups, task % groups
        at_k, at_v = row * steps[1, 0] + group * steps[1, 2], row * steps[2, 0] + group * steps[2, 2]
        for s in range(keys):
            dk[row, s, group] = 0
            dv[row, s, group] = 0
        for head in range(group * repeat, (group + 1) * repeat):
            for t in range(queries):
                at = row * steps[0, 0] + t * steps[0, 1] + head * steps[0, 2]
                query, weights, grad, out = q[at : at + width], p[row, head, t], dy[row, t, head], dq[row, t, head]
                count = min(keys, t + keys - queries + 1) if causal else keys
                mean = np.float32(0)
                for s in range(count):
                    start = at_v + s * steps[2, 1]
                    slopes[s] = _dot(grad, v[start : start + values])
                    mean += weights[s] * slopes[s]
                    _add(dv[row, s, group], grad, weights[s])
                out[:] = 0
                for s in range(count):
                    slope = weights[s] * (slopes[s] - mean) * np.float32(scale)
                    start = at_k + s * steps[1, 1]
                    _add(out, k[start : start + width], slope)
                    _add(dk[row, s, group], query, slope)


_forward_kernel, _backward_kernel = Kernel(_forward), Kernel(_backward)


class Short(torch.autograd.Function):
    """softmax(q k^T / sqrt(K)) v in float32; seen: bool [B or 1, T, S], True = visible."""

    @staticmethod
    def forward(
        ctx: Any,  # noqa: ANN401  # autograd's own context
        q: Tensor,
        k: Tensor,
        v: Tensor,
        seen: Tensor | None,
        causal: bool,
    ) -> Tensor:
        q, k, v = (t if t.stride(3) == 1 else t.contiguous() for t in (q.detach(), k.detach(), v.detach()))
        rows, queries, heads, width = q.shape
        _, keys, groups, values = v.shape
        sizes = (queries, keys, heads, groups, width, values)
        steps = np.array([t.stride()[:3] for t in (q, k, v)])
        y, p = q.new_empty(rows, queries, heads, values), q.new_empty(rows, heads, queries, keys)
        hidden = np.empty((0, 0, 0), np.bool_) if seen is None else seen.expand(-1, queries, -1).contiguous().numpy()
        arrays = (*map(_flat, (q, k, v)), y.numpy(), p.numpy(), hidden, steps, sizes, causal, width**-0.5)
        work = rows * heads * queries * keys * (width + values)
        _forward_kernel(rows * groups, *arrays, work=work)
        ctx.save_for_backward(q, k, v, p)
        ctx.given = steps, sizes, causal, work
        return y

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(  # pyright: ignore[reportIncompatibleMethodOverride]  # the decorator hides the parameters' names
        ctx: Any,  # noqa: ANN401  # autograd's own context
        grad: Tensor,
    ) -> tuple[Tensor | None, ...]:
        q, k, v, p = ctx.saved_tensors
        steps, sizes, causal, work = ctx.given
        dq, dk, dv = (torch.empty(t.shape) for t in (q, k, v))
        arrays = (*map(_flat, (q, k, v)), p.numpy(), grad.contiguous().numpy(), dq.numpy(), dk.numpy(), dv.numpy())
        _backward_kernel(len(q) * sizes[3], *arrays, steps, sizes, causal, sizes[4] ** -0.5, work=2 * work)
        return dq, dk, dv, None, None


def _flat(tensor: Tensor) -> Any:  # noqa: ANN401  # an array of NumPy's
    """All numbers from the first to the last of a tensor, those between its parts too."""
    size = 1 + sum((n - 1) * step for n, step in zip(tensor.shape, tensor.stride(), strict=True))
    return tensor.as_strided((max(size, 0),), (1,)).numpy()
