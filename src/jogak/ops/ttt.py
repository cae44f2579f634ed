"""Test-time training: the state is a small model's weights, learned by gradient steps on the sequence itself.

For each head, with an inner model f(x; W) = x + norm(z(x; W)), z = x W (linear) or gelu(x W1) W2 (MLP), biases in the
last rows of the weights, and norm a LayerNorm of the head's own:

    l_t = |f(k_t; W_m) - v_t|^2 / (2 K)                        m: the start of the mini-batch that t is in
    W_t = W_m - c_i sum_s rate_s dl_s / dW                     s: the places of this mini-batch up to t, its i-th
    y_t = f(q_t; W_t)

and W_t at the last of C places is what the next mini-batch starts with. c = 1 / i before it is learned. G is the sum
in the second line, of a mini-batch that is not yet complete.

`dual` does whole mini-batches by matrix products, and loops over mini-batches only; `primal` goes place by place.

Source: Sun et al. 2024 (2407.04620) sections 2.3 to 2.6; the loss is halved and averaged over K, so that rates are
those of the authors' code. Legend: N rows, L length, H heads, K head width, F inner width of the MLP, C places of a
mini-batch, M mini-batches, J = K + 1.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.utils.checkpoint import checkpoint

from jogak.ops._exact import exact
from jogak.ops._ttt_scan import EPS, compiled, gelu, norm, one, read, slopes, walk

GROUP = 1 << 26  # floats of inner weights that are kept for the way back; beyond, they are made again
Result = tuple[Tensor, ...]


def reference(
    q: Tensor,
    k: Tensor,
    v: Tensor,
    rate: Tensor,
    decay: Tensor,
    scale: Tensor,
    shift: Tensor,
    w1: Tensor,
    w2: Tensor | None = None,
    g1: Tensor | None = None,
    g2: Tensor | None = None,
    place: Tensor | None = None,
    lengths: Tensor | None = None,
) -> Result:
    """The equations place by place in float64, the inner gradient by autograd: see `dual`."""
    with torch.inference_mode(False), torch.enable_grad():
        weights, sums = _given([w1, w2], [g1, g2], torch.float64)
        q64, k64, v64, r64 = (x.clone().double() for x in (q, k, v, rate))
        decay64, scale64, shift64 = (x.clone().double() for x in (decay, scale, shift))
        rows, length, size = q.shape[0], q.shape[1], len(decay)
        place = torch.zeros(rows, dtype=torch.int64, device=q.device) if place is None else place
        ys = []

        def f(x: Tensor, weights: Sequence[Tensor]) -> Tensor:
            z = x
            for number, w in enumerate(weights):
                z = (gelu(z) if number else z).unsqueeze(-2) @ w[..., :-1, :] + w[..., -1:, :]
                z = z.squeeze(-2)
            z = z - z.mean(-1, keepdim=True)
            return x + scale64 * z / (z.square().mean(-1, keepdim=True) + EPS).sqrt() + shift64

        for t in range(length):
            start = [w if w.requires_grad else w.clone().requires_grad_() for w in weights]
            loss = (f(k64[:, t], start) - v64[:, t]).square().mean(-1).sum() / 2
            found = torch.autograd.grad(loss, start, create_graph=True)
            there = torch.ones_like(place) if lengths is None else (t < lengths).long()
            on = there.view(-1, 1, 1, 1).bool()
            step = r64[:, t, :, None, None].masked_fill(~on, 0)
            sums = [s + step * g for s, g in zip(sums, found, strict=True)]
            now = [w - decay64[place].view(-1, 1, 1, 1) * s for w, s in zip(weights, sums, strict=True)]
            ys.append(f(q64[:, t], now))
            full = on & (place == size - 1).view(-1, 1, 1, 1)
            weights = [torch.where(full, n, w) for n, w in zip(now, weights, strict=True)]
            sums = [s.masked_fill(full, 0) for s in sums]
            place = (place + there) % size
        y = _within(torch.stack(ys, 1), lengths)
    return (y.to(q.dtype), *(x.to(w1.dtype) for x in (*weights, *sums)))


def _given(
    weights: Sequence[Tensor | None], sums: Sequence[Tensor | None], dtype: torch.dtype
) -> tuple[list[Tensor], list[Tensor]]:
    """Weights, and sums of gradients that are zero where they are not given."""
    held = [w.to(dtype) for w in weights if w is not None]
    return held, [torch.zeros_like(w) if s is None else s.to(dtype) for w, s in zip(held, sums, strict=False)]


def _within(y: Tensor, lengths: Tensor | None) -> Tensor:
    """y [N L H K] with zeros behind each row's end."""
    if lengths is None:
        return y
    behind = torch.arange(y.shape[1], device=y.device) >= lengths.unsqueeze(1)
    return y.masked_fill(behind.unsqueeze(2).unsqueeze(3), 0)


def primal(
    q: Tensor,
    k: Tensor,
    v: Tensor,
    rate: Tensor,
    decay: Tensor,
    scale: Tensor,
    shift: Tensor,
    w1: Tensor,
    w2: Tensor | None = None,
    g1: Tensor | None = None,
    g2: Tensor | None = None,
    place: Tensor | None = None,
    lengths: Tensor | None = None,
) -> Result:
    """Place by place, as in decoding: see `dual`. The sums of gradients are carried, the weights follow from them."""
    dtype = torch.promote_types(q.dtype, torch.float32)
    with exact(q.device):
        weights, sums = _given([w1, w2], [g1, g2], dtype)
        q_, k_, v_, r_ = (x.to(dtype) for x in (q, k, v, rate))
        c, scale, shift = decay.to(dtype), scale.to(dtype), shift.to(dtype)
        aim, gain = scale * (shift - v_ + k_), scale.square().unsqueeze(1)
        place = torch.zeros(q.shape[0], dtype=torch.int64, device=q.device) if place is None else place
        ys = []
        for t in range(q.shape[1]):
            there = torch.ones_like(place) if lengths is None else (t < lengths).long()
            inputs, found = slopes(one(k_[:, t].unsqueeze(2)), aim[:, t].unsqueeze(2), gain, weights)
            step = (r_[:, t] * (there / q.shape[3]).to(dtype).unsqueeze(1)).unsqueeze(2).unsqueeze(3)
            sums = [s + (step * x).mT @ g for s, x, g in zip(sums, inputs, found, strict=True)]
            now = c[place].view(-1, 1, 1, 1)
            x = q_[:, t].unsqueeze(2)
            for number, (w, s) in enumerate(zip(weights, sums, strict=True)):
                x = one(gelu(x) if number else x)
                x = x @ w - now * (x @ s)
            ys.append(q_[:, t] + torch.addcmul(shift, scale, norm(x.squeeze(2))))
            full = (there.bool() & (place == len(c) - 1)).view(-1, 1, 1, 1)
            weights = [torch.where(full, w - now * s, w) for w, s in zip(weights, sums, strict=True)]
            sums = [s.masked_fill(full, 0) for s in sums]
            place = (place + there) % len(c)
        y = _within(torch.stack(ys, 1), lengths)
    return (y.to(q.dtype), *(x.to(w1.dtype) for x in (*weights, *sums)))


def dual(
    q: Tensor,
    k: Tensor,
    v: Tensor,
    rate: Tensor,
    decay: Tensor,
    scale: Tensor,
    shift: Tensor,
    w1: Tensor,
    w2: Tensor | None = None,
    g1: Tensor | None = None,
    g2: Tensor | None = None,
    place: Tensor | None = None,
    lengths: Tensor | None = None,
) -> Result:
    """q, k, v [N L H K], rate [N L H], decay c [C], scale and shift [H K], weights -> y [N L H K], weights, sums G.

    Weights: w1 [N H K+1 K] of a linear model, or w1 [N H K+1 F] and w2 [N H F+1 K] of an MLP. g1, g2: G of the open
    mini-batch, shaped like the weights; None: zero. place: int64 [N], how many places of its mini-batch each row has
    had; None: none, and no gradients either. lengths: int64 [N], real places of each row; behind them nothing is
    learned, and y is zero. Given back are the weights at the start of the mini-batch that is then open, and
    its G, in w1's dtype. Computed in float32 at least.
    """
    dtype = torch.promote_types(q.dtype, torch.float32)
    with exact(q.device):
        weights, sums = _given([w1, w2], [g1, g2], dtype)
        tiles = Tiles.of((q.shape[0], q.shape[1]), len(decay), place, lengths, q.device)
        work = _work(k.to(dtype), v.to(dtype), rate.to(dtype), decay.to(dtype), scale.to(dtype), shift.to(dtype), tiles)
        queries = tiles.cut(one(q.to(dtype)))
        held = None if place is None else [s.flatten(0, 1) for s in sums]
        now = [w.flatten(0, 1) for w in weights]
        ys = []
        # The first mini-batch may have begun before; the same way whether it has or not, it goes by `walk`.
        start = 1 if compiled(queries, now) else 0
        groups = [(0, 1)] * start + [(start + a, start + b) for a, b in _groups(tiles.count - start, now)]
        for first, last in groups:
            part, mine = work.piece(first, last), queries[first:last]
            early = held if first == 0 else None
            if start and first:
                y, *now = read(part.keys, mine, part.aim, part.gain, part.rate * part.close, part.steps(), now)
            elif torch.is_grad_enabled() and len(groups) > 1 + start and not torch.compiler.is_compiling():
                y, *now = checkpoint(_group, part, mine, now, early, use_reentrant=False)
            else:
                y, *now = _group(part, mine, now, early)
            ys.append(y)
        z = ys[0] if len(ys) == 1 else torch.cat(ys)
        y = tiles.join(queries[..., :-1] + torch.addcmul(work.shift, work.scale, norm(z)), q.shape[2])
        y, left = _within(y, lengths), _open(work, tiles, now, held)
    shaped = [x.unflatten(0, (q.shape[0], q.shape[2])) for x in now]
    return (y.to(q.dtype), *(x.to(w1.dtype) for x in (*shaped, *left)))


@dataclass(frozen=True, eq=False)
class Tiles:
    """Rows cut into mini-batches, each row shifted by the places that its open mini-batch has had.

    count: M. source: int64 [N M*C], where each place comes from, real: bool, whether it is one; None: place by
    place, all real but for padding at the end. target: int64 [N L], where each place went. ends: places of each row,
    those of the open mini-batch included: int64 [N], or the same number for all.
    """

    shape: tuple[int, int]  # N, L
    size: int  # C
    count: int
    ends: Tensor | int
    source: Tensor | None = None
    real: Tensor | None = None
    target: Tensor | None = None

    @classmethod
    def of(
        cls, shape: tuple[int, int], size: int, place: Tensor | None, lengths: Tensor | None, device: torch.device
    ) -> "Tiles":
        rows, length = shape
        if place is None and lengths is None:
            return cls(shape, size, -(-length // size), length)
        place = torch.zeros(rows, dtype=torch.int64, device=device) if place is None else place
        lengths = torch.full((rows,), length, dtype=torch.int64, device=device) if lengths is None else lengths
        count = -(-(length + size - 1) // size)
        index = torch.arange(count * size, device=device) - place.unsqueeze(1)
        real = (index >= 0) & (index < lengths.unsqueeze(1))
        target = torch.arange(length, device=device) + place.unsqueeze(1)
        return cls(shape, size, count, place + lengths, index.clamp(0, length - 1), real, target)

    def cut(self, x: Tensor) -> Tensor:
        """x [N L H X] -> [M NH C X]; places that are not real hold anything finite.

        Contiguous however x lies: with the order in memory a matrix product's last bits may change.
        """
        if self.source is None:
            missing = self.count * self.size - self.shape[1]
            x = torch.nn.functional.pad(x, (0, 0, 0, 0, 0, missing)) if missing else x
        else:
            x = x.gather(1, self.source.view(*self.source.shape, 1, 1).expand(-1, -1, *x.shape[2:]))
        x = x.unflatten(1, (self.count, self.size)).permute(1, 0, 3, 2, 4)
        return x.flatten(1, 2).contiguous()

    def join(self, y: Tensor, heads: int) -> Tensor:
        """The inverse: y [M NH C K] -> [N L H K]."""
        y = y.unflatten(1, (self.shape[0], heads)).permute(1, 0, 3, 2, 4).flatten(1, 2)
        if self.target is None:
            return y[:, : self.shape[1]]
        return y.gather(1, self.target.view(*self.shape, 1, 1).expand(-1, -1, *y.shape[2:]))

    def learned(self, rate: Tensor) -> Tensor:
        """rate [N L H] -> [M NH C 1], zero where no real place is."""
        cut = self.cut(rate.unsqueeze(3))
        if self.real is None:
            return cut  # what `cut` has added is zero
        real = self.real.unflatten(1, (self.count, self.size)).transpose(0, 1).unsqueeze(3)  # [M N C 1]
        return cut * real.repeat_interleave(rate.shape[2], dim=1)

    def complete(self, heads: int, device: torch.device) -> Tensor:
        """bool [M NH 1 1] or [M 1 1 1]: the mini-batches that have all their places."""
        last = torch.arange(1, self.count + 1, device=device) * self.size
        if isinstance(self.ends, int):
            return (last <= self.ends).view(-1, 1, 1, 1)
        return (last.unsqueeze(1) <= self.ends).repeat_interleave(heads, dim=1).unsqueeze(2).unsqueeze(3)


@dataclass(frozen=True, eq=False)
class _Work:
    """What the mini-batches are made of: keys [M n C J], aim [M n C K], rate [M n C 1], close [M n|1 1 1].

    aim, gain: see `slope`. close: the decay with which a mini-batch becomes the next weights, 0 if it is not complete.
    """

    keys: Tensor
    aim: Tensor
    rate: Tensor
    close: Tensor
    decay: Tensor  # [C 1]
    gain: Tensor  # [n 1 K], like scale and shift
    scale: Tensor
    shift: Tensor

    def piece(self, first: int, last: int) -> "_Work":
        keys, aim, rate, close = (x[first:last] for x in (self.keys, self.aim, self.rate, self.close))
        return _Work(keys, aim, rate, close, self.decay, self.gain, self.scale, self.shift)

    def steps(self) -> Tensor:
        """By how much the slope at s has changed the weights that c, in the same mini-batch, reads with: [M n c s]."""
        step = self.decay * self.rate.mT
        return step.tril() if len(self.decay) > 1 else step


def _work(k: Tensor, v: Tensor, rate: Tensor, decay: Tensor, scale: Tensor, shift: Tensor, tiles: Tiles) -> _Work:
    rows, heads = k.shape[0], k.shape[2]
    scales, shifts = (x.repeat(rows, 1).unsqueeze(1) for x in (scale, shift))
    aim = tiles.cut(scale * (shift + k - v))
    close = tiles.complete(heads, k.device) * decay[-1]
    per_place = tiles.learned(rate / k.shape[3])
    return _Work(tiles.cut(one(k)), aim, per_place, close, decay.unsqueeze(1), scales.square(), scales, shifts)


def _groups(count: int, weights: Sequence[Tensor]) -> list[tuple[int, int]]:
    """Bounds of groups of mini-batches whose inner weights fit in GROUP, each as large as the others."""
    if not count:
        return []
    most = max(1, GROUP // max(1, sum(w.numel() for w in weights)))
    size = -(-count // -(-count // most))
    return [(first, min(count, first + size)) for first in range(0, count, size)]


def _group(work: _Work, queries: Tensor, weights: Sequence[Tensor], held: Sequence[Tensor] | None) -> Result:
    """z(q_t; W_t) [M n C K] of some mini-batches, and the weights behind them; held: G of the first."""
    offsets = None if held is None else [work.close[0] * g for g in held]
    found = walk(work.keys, work.aim, work.gain, work.rate * work.close, weights, offsets)
    x, step = queries, work.steps()
    for number, (ws, gradients, given) in enumerate(zip(found.weights, found.slopes, found.given, strict=True)):
        x = one(gelu(x)) if number else x
        seen = (x @ given.mT) * step
        z = x @ ws - seen @ gradients
        if held is not None:
            z = torch.cat([z[:1] - work.decay * (x[:1] @ held[number]), z[1:]])
        x = z
    return (x, *found.ends)


def _open(work: _Work, tiles: Tiles, weights: Sequence[Tensor], held: Sequence[Tensor] | None) -> list[Tensor]:
    """G of the mini-batch that is open at each row's end [N H ...], from the weights that it started with."""
    rows, size = tiles.shape[0], tiles.size
    if isinstance(tiles.ends, int):
        tile = min(tiles.ends // size, tiles.count - 1)
        keys, aim, rate = work.keys[tile], work.aim[tile], work.rate[tile]
        some: Tensor | None = None
        if tiles.ends % size == 0:
            return [torch.zeros_like(w).unflatten(0, (rows, -1)) for w in weights]
    else:
        tile = (tiles.ends // size).clamp_max(tiles.count - 1)
        row = torch.arange(rows, device=tile.device)
        parts = (work.keys, work.aim, work.rate)
        keys, aim, rate = (x.unflatten(1, (rows, -1))[tile, row].flatten(0, 1) for x in parts)
        some = (tiles.ends % size > 0).view(-1, 1, 1, 1)
    inputs, found = slopes(keys, aim, work.gain, weights)
    left = [((rate * x).mT @ g).unflatten(0, (rows, -1)) for x, g in zip(inputs, found, strict=True)]
    if some is None or isinstance(tiles.ends, int):
        return left
    if held is not None:
        first = (tiles.ends < size).view(-1, 1, 1, 1)
        left = [s + g.unflatten(0, (rows, -1)) * first for s, g in zip(left, held, strict=True)]
    return [s.masked_fill(~some, 0) for s in left]


def losses(
    k: Tensor,
    v: Tensor,
    rate: Tensor,
    decay: Tensor,
    scale: Tensor,
    shift: Tensor,
    w1: Tensor,
    w2: Tensor | None = None,
    g1: Tensor | None = None,
    g2: Tensor | None = None,
    place: Tensor | None = None,
    lengths: Tensor | None = None,
) -> Tensor:
    """l_t of every place, at the weights whose gradient is taken: those of its mini-batch's start. [N L H].

    Arguments as for `dual`.
    """
    dtype = torch.promote_types(k.dtype, torch.float32)
    with exact(k.device):
        weights, sums = _given([w1, w2], [g1, g2], dtype)
        tiles = Tiles.of((k.shape[0], k.shape[1]), len(decay), place, lengths, k.device)
        work = _work(k.to(dtype), v.to(dtype), rate.to(dtype), decay.to(dtype), scale.to(dtype), shift.to(dtype), tiles)
        now, found = [w.flatten(0, 1) for w in weights], []
        aims = tiles.cut((v - k).to(dtype))
        for first, last in _groups(tiles.count, now):
            part = work.piece(first, last)
            offsets = None if place is None or first else [part.close[0] * s.flatten(0, 1) for s in sums]
            walked = walk(part.keys, part.aim, part.gain, part.rate * part.close, now, offsets)
            now = walked.ends
            z = walked.given[-1] @ walked.weights[-1]
            off = torch.addcmul(part.shift, part.scale, norm(z)) - aims[first:last]
            found.append(off.square().mean(-1, keepdim=True) / 2)
        return tiles.join(torch.cat(found), k.shape[2]).squeeze(3)


FORMS = {"reference": reference, "dual": dual, "primal": primal}
