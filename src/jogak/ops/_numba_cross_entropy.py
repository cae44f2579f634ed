"""Softmax, loss and gradient of each row of logits in one visit, in place: three passes over a row that a cache keeps.

Legend: N rows, V vocabulary.
"""

from typing import Any

import numpy as np
import torch
from torch import Tensor

from jogak.ops import _vectors
from jogak.ops._compiled import Kernel, jit
from jogak.ops._vectors import LOG2E

STEPS = 24  # of a loop, for each entry
LANES = 64
exp2: Any = _vectors.exp2  # as numba calls it, without what its decorator is told


@jit
def _row(x, targets, row, smoothing, loss, nll):  # noqa: ANN001, ANN202 (numba)
    """x [V] becomes p - (1 - e) [v = y] - e / V; rows behind the targets are filling and become zero."""
    if row >= len(targets):
        x[:] = 0
        return
    size, target = len(x), targets[row]
    # Sums in LANES parts, which vector instructions can add: in one part, each addition would wait for the last.
    tops, totals, plains = np.full(LANES, x[0]), np.zeros(LANES, np.float32), np.zeros(LANES, np.float32)
    whole = size - size % LANES
    for v in range(0, whole, LANES):
        for lane in range(LANES):
            tops[lane] = max(tops[lane], x[v + lane])
    top = tops.max()
    for v in range(whole, size):
        top = max(top, x[v])
    here = x[target]
    for v in range(0, whole, LANES):
        for lane in range(LANES):
            below = x[v + lane] - top
            plains[lane] += below
            x[v + lane] = exp2(below * np.float32(LOG2E))
            totals[lane] += x[v + lane]
    for v in range(whole, size):
        below = x[v] - top
        plains[0] += below
        x[v] = exp2(below * np.float32(LOG2E))
        totals[0] += x[v]
    total, plain = totals.sum(), plains.sum()
    log_total = np.log(total)
    nll[row] = log_total + top - here
    loss[row] = (1 - smoothing) * nll[row] + smoothing * (log_total - plain / size)
    scale, spread = np.float32(1) / total, np.float32(smoothing / size)
    for v in range(size):
        x[v] = x[v] * scale - spread
    x[target] -= np.float32(1 - smoothing)


def _float32(first, last, logits, targets, smoothing, loss, nll):  # noqa: ANN001, ANN202 (numba)
    for row in range(first, last):
        _row(logits[row], targets, row, smoothing, loss, nll)


def _bfloat16(first, last, logits, targets, smoothing, loss, nll):  # noqa: ANN001, ANN202 (numba)
    """logits are the upper halves of floats, as uint16."""
    values = np.empty(logits.shape[1], np.float32)
    bits = values.view(np.uint32)
    for row in range(first, last):
        half = logits[row]
        for v in range(len(half)):
            bits[v] = np.uint32(half[v]) << np.uint32(16)
        _row(values, targets, row, smoothing, loss, nll)
        for v in range(len(half)):  # to the nearest, ties to even
            u = bits[v]
            half[v] = np.uint16((u + np.uint32(0x7FFF) + ((u >> np.uint32(16)) & np.uint32(1))) >> np.uint32(16))


_float32_kernel, _bfloat16_kernel = Kernel(_float32), Kernel(_bfloat16)


def gradient_(logits: Tensor, targets: Tensor, smoothing: float) -> tuple[Tensor, Tensor]:
    """Logits [N V] become the gradient of the summed loss; the losses and -log p of the targets [n], n <= N: float32.

    Rows behind the targets become zero.
    """
    loss, nll = torch.empty(2, len(targets)).unbind(0)
    half = logits.dtype == torch.bfloat16
    given = logits.view(torch.uint16) if half else logits
    arrays = (given.numpy(), targets.numpy(), smoothing, loss.numpy(), nll.numpy())
    (_bfloat16_kernel if half else _float32_kernel)(len(logits), *arrays, work=logits.numel() * STEPS)
    return loss, nll
