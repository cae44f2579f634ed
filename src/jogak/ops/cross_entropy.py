"""Cross-entropy of a linear head, label smoothing included, without keeping the logits.

loss_n = -(1 - e) log p_n(y_n) - e/V sum_v log p_n(v), p_n = softmax(W h_n): what a model is told that is asked to
put 1 - e on the right unit and to spread e over all (Szegedy et al. 2016, 1512.00567, section 7).

Legend: N positions, D model width, V vocabulary, e smoothing.
"""

from collections.abc import Callable
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from jogak.ops import linear
from jogak.ops._compiled import AVAILABLE

CHUNK = 1 << 22  # logits held at a time: 16 MiB of float32, which an L3 cache keeps between the passes over it
STEP = 128  # a chunk's rows are filled up to a multiple: few shapes, since a bfloat16 kernel is made for each new one


def reference(hidden: Tensor, weight: Tensor, targets: Tensor, smoothing: float) -> tuple[Tensor, Tensor]:
    """(sum of loss_n, sum of -log p_n(y_n)) in float64: hidden [N D], weight [V D], targets [N]."""
    log_p = (hidden.double() @ weight.double().T).log_softmax(-1)
    nll = -log_p.gather(1, targets.unsqueeze(1)).sum()
    spread = -log_p.mean(-1).sum()
    return ((1 - smoothing) * nll + smoothing * spread).to(hidden.dtype), nll.detach().to(hidden.dtype)


def chunked(hidden: Tensor, weight: Tensor, targets: Tensor, smoothing: float) -> tuple[Tensor, Tensor]:
    """The same in O(chunk V + V D) memory: each chunk of positions gives its gradients at once, in the forward pass."""
    return _Chunked.apply(hidden, weight, targets, smoothing, _gradient_)  # pyright: ignore[reportReturnType]  # apply is untyped


def fused(hidden: Tensor, weight: Tensor, targets: Tensor, smoothing: float) -> tuple[Tensor, Tensor]:
    """The same with one loop over each row of a chunk's logits in place of a dozen operations over all; on a CPU."""
    from jogak.ops._numba_cross_entropy import gradient_

    return _Chunked.apply(hidden, weight, targets, smoothing, gradient_)  # pyright: ignore[reportReturnType]  # apply is untyped


def auto(hidden: Tensor, weight: Tensor, targets: Tensor, smoothing: float) -> tuple[Tensor, Tensor]:
    """`fused` where there is a CPU and numba, otherwise `chunked`."""
    plain = hidden.device.type != "cpu" or hidden.dtype == torch.float64 or torch.compiler.is_compiling()
    return (chunked if plain or not AVAILABLE else fused)(hidden, weight, targets, smoothing)


def _gradient_(logits: Tensor, targets: Tensor, smoothing: float) -> tuple[Tensor, Tensor]:
    """Logits [N V] become the gradient of the summed loss; the losses and -log p of the targets [n], n <= N.

    d loss / d logits = p - (1 - e) [v = y] - e / V; rows behind the targets become zero.
    """
    count, y = len(targets), targets.unsqueeze(1)
    log_p = logits.float().log_softmax(-1)
    nll = -log_p[:count].gather(1, y).squeeze(1)
    loss = (1 - smoothing) * nll
    if smoothing:
        loss -= smoothing * log_p[:count].mean(-1)
    grad = log_p.exp_()
    if smoothing:
        grad -= smoothing / logits.shape[1]
    grad[:count].scatter_add_(1, y, grad.new_full(y.shape, smoothing - 1))
    grad[count:] = 0
    logits.copy_(grad)
    return loss, nll


class _Chunked(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any,  # noqa: ANN401  # autograd's own context
        hidden: Tensor,
        weight: Tensor,
        targets: Tensor,
        smoothing: float,
        gradient_: Callable[[Tensor, Tensor, float], tuple[Tensor, Tensor]],
    ) -> tuple[Tensor, Tensor]:
        device = hidden.device.type
        low = torch.get_autocast_dtype(device) if torch.is_autocast_enabled(device) else hidden.dtype
        with torch.autocast(device, enabled=False):
            need = any(ctx.needs_input_grad[:2])
            d_hidden = torch.empty_like(hidden) if need else None
            d_weight: Tensor | None = None
            w = weight.to(low)
            loss, nll = hidden.new_zeros((), dtype=torch.float32), hidden.new_zeros((), dtype=torch.float32)
            rows = max(STEP, CHUNK // weight.shape[0] // STEP * STEP)
            for h, y, dh in zip(
                hidden.split(rows),
                targets.split(rows),
                (d_hidden if d_hidden is not None else hidden).split(rows),
                strict=True,
            ):
                count = len(h)
                filled = F.pad(h.to(low), (0, 0, 0, -count % STEP))
                grad = linear.auto(filled, w, None)
                losses, nlls = gradient_(grad, y, smoothing)
                loss += losses.sum()
                nll += nlls.sum()
                if need:
                    dh.copy_(linear.auto(grad, w.T, None)[:count])
                    d_weight = _accumulated(d_weight, grad, filled, weight.dtype)
            if need and d_weight is None:  # there is no position
                d_weight = torch.zeros_like(weight)
        ctx.save_for_backward(d_hidden, d_weight)
        ctx.mark_non_differentiable(nll)
        return loss, nll

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor | None, ...]:  # noqa: ANN401  # autograd's own context
        d_hidden, d_weight = ctx.saved_tensors
        return d_hidden * grads[0], d_weight * grads[0], None, None, None


def _accumulated(total: Tensor | None, grad: Tensor, h: Tensor, dtype: torch.dtype) -> Tensor:
    """total + grad^T h, in one call where the dtypes allow."""
    if total is None:
        return (grad.T @ h).to(dtype)
    return total.addmm_(grad.T, h) if grad.dtype == dtype else total.add_(grad.T @ h)


FORMS = {"reference": reference, "chunked": chunked, "fused": fused, "auto": auto}
