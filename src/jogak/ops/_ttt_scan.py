"""The only part of test-time training that must go from one mini-batch to the next: the inner weights.

For each mini-batch the gradients of the inner loss at its first weights are found, and the weights of the next one;
what is read out, and the steps inside of a mini-batch, follow from those for all mini-batches at once (ops.ttt). The
way back walks over the same mini-batches from the last to the first, with second derivatives written out.

Legend: M mini-batches, n rows times heads, C places of a mini-batch, K head width, F inner width of the MLP. A weight
[K+1 F] holds its bias as its last row, and what it is applied to ends in a one.
"""

from collections.abc import Sequence
from typing import Any, NamedTuple, cast

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.autograd.function import once_differentiable

from jogak.ops import _compiled
from jogak.ops._exact import exact

EPS = 1e-6  # of the inner LayerNorm


class Norm(NamedTuple):
    """What LayerNorm without scale and shift makes of z, and what its gradient needs."""

    y: Tensor
    mean: Tensor
    rstd: Tensor

    @classmethod
    def of(cls, z: Tensor) -> "Norm":
        return cls(*torch.native_layer_norm(z, z.shape[-1:], None, None, EPS))

    def back(self, gradient: Tensor, z: Tensor) -> Tensor:
        """rstd (g - mean(g) - y mean(g y)), g = gradient."""
        arguments = (gradient, z, z.shape[-1:], self.mean, self.rstd, None, None, [True, False, False])
        return torch.ops.aten.native_layer_norm_backward(*arguments)[0]


def norm(z: Tensor) -> Tensor:
    """LayerNorm without scale and shift, over the last dimension."""
    return F.layer_norm(z, z.shape[-1:], None, None, EPS)


def slope(z: Tensor, aim: Tensor, gain: Tensor) -> Tensor:
    """K times the gradient at z of |scale norm(z) + shift - t|^2 / (2 K); aim = scale (shift - t), gain = scale^2.

    In operations that can be differentiated again.
    """
    centred = z - z.mean(-1, keepdim=True)
    rstd = (centred.square().mean(-1, keepdim=True) + EPS).rsqrt()
    y = centred * rstd
    e = torch.addcmul(aim, gain, y)
    return rstd * (e - e.mean(-1, keepdim=True) - y * (e * y).mean(-1, keepdim=True))


def slopes(keys: Tensor, aim: Tensor, gain: Tensor, weights: Sequence[Tensor]) -> tuple[list[Tensor], list[Tensor]]:
    """What each layer is given [.. C K+1], and K times the gradient of what it gives [.. C F], in plain operations."""
    if len(weights) == 1:
        return [keys], [slope(keys @ weights[0], aim, gain)]
    first, second = weights
    hidden = keys @ first
    inside = one(gelu(hidden))
    after = slope(inside @ second, aim, gain)
    before = (after @ second[..., :-1, :].mT) * gelu_slope(hidden)
    return [keys, inside], [before, after]


def one(x: Tensor) -> Tensor:
    """x [.. K] with a one behind it: [.. K+1]."""
    return F.pad(x, (0, 1), value=1.0)


def gelu(x: Tensor) -> Tensor:
    return F.gelu(x, approximate="tanh")


def _gelu_parts(x: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """t = tanh(u), 1 - t^2 and u' for u = sqrt(2 / pi) (x + 0.044715 x^3)."""
    square = x.square()
    t = (0.7978845608028654 * x * (1 + 0.044715 * square)).tanh()
    return t, 1 - t.square(), 0.7978845608028654 * (1 + 3 * 0.044715 * square)


def gelu_slope(x: Tensor) -> Tensor:
    t, rest, inner = _gelu_parts(x)
    return 0.5 * (1 + t + x * rest * inner)


def _gelu_slopes(x: Tensor) -> tuple[Tensor, Tensor]:
    """The first and second derivative."""
    t, rest, inner = _gelu_parts(x)
    bend = 0.5 * 6 * 0.044715 * 0.7978845608028654 * x.square()
    return 0.5 * (1 + t + x * rest * inner), rest * (inner + bend - x * t * inner.square())


def _curve(
    a: Tensor, z: Tensor, at: Norm, gain: Tensor, e: Tensor, found: Tensor, pull: Tensor
) -> tuple[Tensor, Tensor]:
    """From the gradient a of `found` = slope(z) to those of z and of e = aim + gain y; pull = rstd mean(e y)."""
    of_e = at.back(a, z)
    along = at.rstd * (a * at.y).mean(-1, keepdim=True)
    of_y = torch.addcmul(gain * of_e, a, pull, value=-1).addcmul_(e, along, value=-1)
    of_rstd = at.rstd * (a * found).mean(-1, keepdim=True)
    return at.back(of_y, z).addcmul_(at.y, of_rstd, value=-1), of_e


def _minus(x: Tensor | None) -> Tensor | None:
    return None if x is None else -x


class _Linear(torch.autograd.Function):
    """keys [M n C K+1], aim [M n C K], gain [n 1 K], rate [M n C 1], w and offset [n K+1 K] -> slopes, weights.

    g_m = slope(k_m w_m), w_(m+1) = w_m - (rate_m k_m)^T g_m (- offset, for m = 0): g [M n C K],
    w at the start of each mini-batch [M n K+1 K] and behind the last [n K+1 K].
    """

    @staticmethod
    def forward(
        ctx: Any,  # noqa: ANN401  # autograd's own context
        keys: Tensor,
        aim: Tensor,
        gain: Tensor,
        rate: Tensor,
        w: Tensor,
        offset: Tensor | None,
    ) -> tuple[Tensor, Tensor, Tensor]:
        count = keys.shape[0]
        zs, found, weights = torch.empty_like(aim), torch.empty_like(aim), w.new_empty(count + 1, *w.shape)
        weights[0] = w
        given = (rate * keys).mT
        for m in range(count):
            torch.bmm(keys[m], weights[m], out=zs[m])
            at = Norm.of(zs[m])
            found[m] = at.back(torch.addcmul(aim[m], gain, at.y), zs[m])
            torch.baddbmm(weights[m], given[m], found[m], alpha=-1, out=weights[m + 1])
            if m == 0 and offset is not None:
                weights[1].sub_(offset)
        ctx.save_for_backward(keys, aim, gain, rate, zs, found, weights)
        ctx.shifted = offset is not None
        return found, weights[:-1], weights[-1].clone()

    @staticmethod
    @once_differentiable
    def backward(  # pyright: ignore[reportIncompatibleMethodOverride]  # the decorator makes ctx position-only
        ctx: Any,  # noqa: ANN401  # autograd's own context
        *grads: Tensor,
    ) -> tuple[Tensor | None, ...]:
        of_found, of_weights, of_w = grads
        keys, aim, gain, rate, zs, found, weights = ctx.saved_tensors
        with exact(keys.device):
            at = Norm.of(zs)
            e = torch.addcmul(aim, gain, at.y)
            pull = at.rstd * (e * at.y).mean(-1, keepdim=True)
            given, turned = rate * keys, keys.mT
            of_z, of_aim, of_given = torch.empty_like(zs), torch.empty_like(zs), torch.empty_like(keys)
            of_offset = None
            for m in reversed(range(keys.shape[0])):
                of_offset = of_w
                a = torch.baddbmm(of_found[m], given[m], of_w, alpha=-1)
                torch.bmm(found[m], of_w.mT, out=of_given[m])
                here = Norm(at.y[m], at.mean[m], at.rstd[m])
                of_z[m], of_aim[m] = _curve(a, zs[m], here, gain, e[m], found[m], pull[m])
                of_w = torch.baddbmm(of_w, turned[m], of_z[m]).add_(of_weights[m])
            of_keys = torch.matmul(of_z, weights[:-1].mT).addcmul_(rate, of_given, value=-1)
            of_rate = -(keys * of_given).sum(-1, keepdim=True)
            of_gain = (of_aim * at.y).sum((0, 2)).unsqueeze(1)
        return of_keys, of_aim, of_gain, of_rate, of_w, _minus(of_offset) if ctx.shifted else None


class _Mlp(torch.autograd.Function):
    """The same for z = gelu(k w1) w2: hidden k w1 and its slopes [M n C F], slopes of z, weights of both layers.

    aim, gain, rate as for _Linear; w1 [n K+1 F], w2 [n F+1 K], offsets likewise.
    """

    @staticmethod
    def forward(
        ctx: Any,  # noqa: ANN401  # autograd's own context
        keys: Tensor,
        aim: Tensor,
        gain: Tensor,
        rate: Tensor,
        w1: Tensor,
        w2: Tensor,
        offset1: Tensor | None,
        offset2: Tensor | None,
    ) -> tuple[Tensor, ...]:
        count, inner = keys.shape[0], w1.shape[-1]
        hidden = keys.new_empty(*keys.shape[:-1], inner)
        before, zs, after = torch.empty_like(hidden), torch.empty_like(aim), torch.empty_like(aim)
        firsts, seconds = w1.new_empty(count + 1, *w1.shape), w2.new_empty(count + 1, *w2.shape)
        firsts[0], seconds[0] = w1, w2
        given = (rate * keys).mT
        for m in range(count):
            torch.bmm(keys[m], firsts[m], out=hidden[m])
            inside = one(gelu(hidden[m]))
            torch.bmm(inside, seconds[m], out=zs[m])
            at = Norm.of(zs[m])
            after[m] = at.back(torch.addcmul(aim[m], gain, at.y), zs[m])
            back = torch.bmm(after[m], seconds[m][:, :-1].mT)
            before[m] = torch.ops.aten.gelu_backward(back, hidden[m], approximate="tanh")
            torch.baddbmm(firsts[m], given[m], before[m], alpha=-1, out=firsts[m + 1])
            torch.baddbmm(seconds[m], inside.mT, rate[m] * after[m], alpha=-1, out=seconds[m + 1])
            if m == 0 and offset1 is not None and offset2 is not None:
                firsts[1].sub_(offset1)
                seconds[1].sub_(offset2)
        ctx.save_for_backward(keys, aim, gain, rate, hidden, zs, before, after, firsts, seconds)
        ctx.shifted = offset1 is not None
        ends = (firsts[-1].clone(), seconds[-1].clone())
        return hidden, before, after, firsts[:-1], seconds[:-1], *ends

    @staticmethod
    @once_differentiable
    def backward(  # pyright: ignore[reportIncompatibleMethodOverride]  # the decorator makes ctx position-only
        ctx: Any,  # noqa: ANN401  # autograd's own context
        *grads: Tensor,
    ) -> tuple[Tensor | None, ...]:
        of_hidden, of_before, of_after, of_firsts, of_seconds, of_1, of_2 = grads
        keys, aim, gain, rate, hidden, zs, before, after, firsts, seconds = ctx.saved_tensors
        with exact(keys.device):
            at = Norm.of(zs)
            e = torch.addcmul(aim, gain, at.y)
            pull = at.rstd * (e * at.y).mean(-1, keepdim=True)
            inside = one(gelu(hidden))
            given, given_inside = rate * keys, rate * inside
            of_h = torch.empty_like(hidden)
            of_aim, of_given, of_rate = torch.empty_like(zs), torch.empty_like(keys), torch.empty_like(rate)
            of_offsets: tuple[Tensor | None, Tensor | None] = (None, None)
            for m in reversed(range(keys.shape[0])):
                of_offsets = (of_1, of_2)
                w2 = seconds[m]
                first, second = _gelu_slopes(hidden[m])
                a1 = torch.baddbmm(of_before[m], given[m], of_1, alpha=-1)
                a2 = torch.baddbmm(of_after[m], given_inside[m], of_2, alpha=-1)
                torch.bmm(before[m], of_1.mT, out=of_given[m])
                of_inside = torch.bmm(after[m], of_2.mT)
                of_rate[m] = -(inside[m] * of_inside).sum(-1, keepdim=True)
                # before = back * gelu'(hidden), back = after w2^T
                of_back = a1 * first
                back = torch.bmm(after[m], w2[:, :-1].mT)
                a2 = torch.baddbmm(a2, of_back, w2[:, :-1])
                here = Norm(at.y[m], at.mean[m], at.rstd[m])
                of_z, of_aim[m] = _curve(a2, zs[m], here, gain, e[m], after[m], pull[m])
                of_inside = torch.baddbmm(of_inside.mul_(-rate[m]), of_z, w2.mT)
                of_h[m] = torch.addcmul(of_inside[..., :-1] * first, a1 * back, second).add_(of_hidden[m])
                of_2 = torch.baddbmm(of_2, inside[m].mT, of_z).add_(of_seconds[m])
                of_2[:, :-1].baddbmm_(of_back.mT, after[m])
                of_1 = torch.baddbmm(of_1, keys[m].mT, of_h[m]).add_(of_firsts[m])
            of_keys = torch.matmul(of_h, firsts[:-1].mT).addcmul_(rate, of_given, value=-1)
            of_rate = of_rate.sub_((keys * of_given).sum(-1, keepdim=True))
            of_gain = (of_aim * at.y).sum((0, 2)).unsqueeze(1)
        offsets = [_minus(o) if ctx.shifted else None for o in of_offsets]
        return of_keys, of_aim, of_gain, of_rate, of_1, of_2, *offsets


class _Pass(torch.autograd.Function):
    """The walk of an MLP and what is read on the way, in one compiled pass: see `read`; rate [M n C], gain [n K]."""

    @staticmethod
    def forward(
        ctx: Any,  # noqa: ANN401  # autograd's own context
        *given: Tensor,
    ) -> tuple[Tensor, ...]:
        from jogak.ops import _numba_ttt as kernels

        given = tuple(x.contiguous() for x in given)
        keep = any(ctx.needs_input_grad)
        found, rooms = kernels.forward(*given, keep=keep)
        if keep:
            ctx.save_for_backward(*given[:6], *rooms)
        return found

    @staticmethod
    @once_differentiable
    def backward(  # pyright: ignore[reportIncompatibleMethodOverride]  # the decorator makes ctx position-only
        ctx: Any,  # noqa: ANN401  # autograd's own context
        *grads: Tensor,
    ) -> tuple[Tensor, ...]:
        from jogak.ops import _numba_ttt as kernels

        saved = ctx.saved_tensors
        return kernels.backward(saved[:6], saved[6:], *(g.contiguous() for g in grads))


def compiled(x: Tensor, weights: Sequence[Tensor]) -> bool:
    """Whether `read` can run there: an MLP in float32 on a CPU with numba, not while it is traced."""
    usable = _compiled.AVAILABLE and not torch.compiler.is_compiling()
    kinds = {x.dtype, *(w.dtype for w in weights)}
    return usable and x.device.type == "cpu" and len(weights) == 2 and kinds == {torch.float32}


def read(
    keys: Tensor,
    queries: Tensor,
    aim: Tensor,
    gain: Tensor,
    rate: Tensor,
    step: Tensor,
    weights: Sequence[Tensor],
) -> tuple[Tensor, ...]:
    """z of the queries [M n C K] at their places' weights, and the weights [n K+1 F], [n F+1 K] behind them all.

    keys, queries [M n C K+1], aim [M n C K], gain [n 1 K], rate of closing a mini-batch [M n C 1], step [M n C C]:
    by how much the slope at s (second) has changed the weights that c (first) reads with.
    """
    return cast(tuple[Tensor, ...], _Pass.apply(keys, queries, aim, gain.squeeze(1), rate.squeeze(3), step, *weights))


class Walk(NamedTuple):
    """What a scan has found, for each layer: slopes [M n C F], weights [M n K+1 F], what it is given [M n C K+1],
    and the weights behind the last mini-batch [n K+1 F]."""

    slopes: list[Tensor]
    weights: list[Tensor]
    given: list[Tensor]
    ends: list[Tensor]


def walk(
    keys: Tensor, aim: Tensor, gain: Tensor, rate: Tensor, weights: Sequence[Tensor], offsets: Sequence[Tensor] | None
) -> Walk:
    """The inner weights at the start of every mini-batch and after the last; rate: of closing a mini-batch."""
    if torch.compiler.is_compiling():
        return _plain(keys, aim, gain, rate, weights, offsets)
    if len(weights) == 1:
        linear = _Linear.apply(keys, aim, gain, rate, weights[0], offsets[0] if offsets else None)
        found, starts, end = cast(list[Tensor], linear)
        return Walk([found], [starts], [keys], [end])
    mlp = _Mlp.apply(keys, aim, gain, rate, *weights, *(offsets or (None, None)))
    hidden, before, after, firsts, seconds, *ends = cast(list[Tensor], mlp)
    return Walk([before, after], [firsts, seconds], [keys, one(gelu(hidden))], ends)


def _plain(
    keys: Tensor, aim: Tensor, gain: Tensor, rate: Tensor, weights: Sequence[Tensor], offsets: Sequence[Tensor] | None
) -> Walk:
    """The same in operations that a compiler can follow and differentiate."""
    now = list(weights)
    found, held, given = [], [], []
    for m in range(keys.shape[0]):
        inputs, gradients = slopes(keys[m], aim[m], gain, now)
        found.append(gradients)
        held.append(now)
        given.append(inputs)
        now = [w - (rate[m] * x).mT @ g for w, x, g in zip(now, inputs, gradients, strict=True)]
        if m == 0 and offsets is not None:
            now = [w - o for w, o in zip(now, offsets, strict=True)]
    gradients, starts, inputs = (
        [torch.stack(layer) for layer in zip(*each, strict=True)] for each in (found, held, given)
    )
    return Walk(gradients, starts, inputs, now)
