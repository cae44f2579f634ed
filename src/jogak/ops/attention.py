"""Scaled dot-product attention: y = softmax(q k^T / sqrt(K) + bias) v over the keys that a query may see.

Forms of one function (`FORMS`): `reference` in float64 straight from the equation; `tiled`, which shows how
attention is computed without ever holding T x S numbers; `sdpa`, torch's kernels (flash where they exist); `dense`,
plain matrix products for training on short sequences; `short`, compiled loops for the same on a CPU; `auto`, the
fastest of the last three.

Sources: Vaswani et al. 2017 (1706.03762) section 3.2; online softmax, Milakov & Gimelshein 2018 (1805.02867);
tiling and its backward pass, Dao et al. 2022 (2205.14135) and Dao 2023 (2307.08691); grouped heads, Ainslie et al.
2023 (2305.13245).

Legend: B batch, T queries, S keys, H query heads, G key/value heads (H a multiple of G), R = H / G, K key, V value.
"""

from dataclasses import dataclass
from typing import Any, Protocol

import torch
import torch.nn.functional as F
from torch import Tensor

from jogak.ops._compiled import AVAILABLE
from jogak.ops._exact import exact

ALL = slice(None)
TILE = 128  # queries and keys in one tile: 128 x 128 float32 scores are 64 KiB, an L2 cache's size
# Queries x keys up to which `short` trains faster on a CPU than torch's flash kernels (bench/mixers.py).
SHORT = {torch.float32: 96 * 96, torch.bfloat16: 160 * 160}


class Bias(Protocol):
    """A number added to each score, computed from positions for whichever tile is asked."""

    @property
    def parameter(self) -> Tensor | None:
        """What is learned, if anything is."""
        ...

    def tile(self, parameter: Tensor | None, q_positions: Tensor, k_positions: Tensor) -> Tensor:
        """q_positions [B T], k_positions [B S] (or [1 ..]) -> [B H T S] (or [1 H T S])."""
        ...

    def gradient(self, parameter: Tensor, q_positions: Tensor, k_positions: Tensor, grad: Tensor) -> Tensor:
        """The gradient of `parameter` where that of this tile's scores [B H T S] is `grad`; for what is learned."""
        ...


@dataclass(frozen=True, eq=False)
class Visible:
    """Which keys a query may see, told without a T x S matrix.

    causal: the T queries are the last T of the S places, and see no later place. window: only keys less than so
    many positions away (looking back, and ahead too where not causal). mask: bool [B S], True = a real key.
    segments: int64, a query [B T] sees only keys [B S] of its own document. positions: int64 [B T] and [B S];
    None: places are positions.
    """

    queries: int
    keys: int
    causal: bool = False
    window: int | None = None
    mask: Tensor | None = None
    q_segments: Tensor | None = None
    k_segments: Tensor | None = None
    q_positions: Tensor | None = None
    k_positions: Tensor | None = None

    @property
    def everything(self) -> bool:
        """Every query sees every key."""
        one_by_one = not self.causal or self.queries == 1
        return one_by_one and self.window is None and self.mask is None and self.q_segments is None

    @property
    def triangle(self) -> bool:
        """The plain causal mask of as many queries as keys."""
        plain = self.window is None and self.mask is None and self.q_segments is None
        return plain and self.causal and self.queries == self.keys

    def positions(self, device: torch.device) -> tuple[Tensor, Tensor]:
        """Positions of queries and keys, [B T] or [1 T], and [B S] or [1 S]."""
        places = torch.arange(self.keys, device=device).unsqueeze(0)
        k_positions = places if self.k_positions is None else self.k_positions
        q_positions = places[:, self.keys - self.queries :] if self.q_positions is None else self.q_positions
        return q_positions, k_positions

    def tile(self, rows: slice, columns: slice, device: torch.device) -> Tensor | None:
        """bool [B t s] or [1 t s] for some queries and some keys, True = visible; None = all of them."""
        seen: Tensor | None = None
        if self.causal:
            places = torch.arange(self.keys, device=device)
            mine = places[self.keys - self.queries :][rows].unsqueeze(1)
            seen = _both(seen, (places[columns] <= mine).unsqueeze(0))
        if self.window is not None:
            q_positions, k_positions = self.positions(device)
            back = q_positions[:, rows].unsqueeze(2) - k_positions[:, columns].unsqueeze(1)
            seen = _both(seen, back.abs() < self.window)
        if self.mask is not None:
            seen = _both(seen, self.mask[:, columns].unsqueeze(1))
        if self.q_segments is not None and self.k_segments is not None:
            seen = _both(seen, self.q_segments[:, rows].unsqueeze(2) == self.k_segments[:, columns].unsqueeze(1))
        return seen

    def hidden(self, rows: range, columns: range) -> bool:
        """Whether all of a tile lies in the future: the tiles that a causal kernel never visits."""
        return self.causal and columns.start > rows.stop - 1 + self.keys - self.queries


def _both(a: Tensor | None, b: Tensor) -> Tensor:
    return b if a is None else a & b


def weights(
    q: Tensor,
    k: Tensor,
    visible: Visible,
    bias: Bias | None = None,
    *,
    rows: slice = ALL,
    scale: float | None = None,
    softcap: float | None = None,
) -> Tensor:
    """The attention weights themselves, float64: q [B T H K], k [B S G K] -> [B H t S] for the queries in `rows`.

    A query that sees nothing has weights of zero. For looking at and for references: no fast path makes them.
    """
    heads, groups = q.shape[2], k.shape[2]
    q, k = q[:, rows].double(), k.double().repeat_interleave(heads // groups, dim=2)
    scores = torch.einsum("bthk,bshk->bhts", q, k) * (scale or k.shape[-1] ** -0.5)
    scores = _cap(scores, softcap)
    if bias is not None:
        q_positions, k_positions = visible.positions(q.device)
        parameter = None if bias.parameter is None else bias.parameter.double()
        scores = scores + bias.tile(parameter, q_positions[:, rows], k_positions)
    seen = visible.tile(rows, ALL, q.device)
    if seen is None:
        return scores.softmax(-1)
    seen = seen.unsqueeze(1)
    return scores.masked_fill(~seen, -torch.inf).softmax(-1).masked_fill(~seen, 0)


def reference(
    q: Tensor, k: Tensor, v: Tensor, visible: Visible, bias: Bias | None = None, softcap: float | None = None
) -> Tensor:
    """The equation itself in float64: q [B T H K], k [B S G K], v [B S G V] -> [B T H V] in q's dtype."""
    v = v.double().repeat_interleave(q.shape[2] // v.shape[2], dim=2)
    return torch.einsum("bhts,bshv->bthv", weights(q, k, visible, bias, softcap=softcap), v).to(q.dtype)


def sdpa(
    q: Tensor, k: Tensor, v: Tensor, visible: Visible, bias: Bias | None = None, softcap: float | None = None
) -> Tensor:
    """The same through torch's fused kernels, which build no T x S matrix where no mask is needed.

    They cannot cap scores: with a softcap this is `dense`.
    """
    if softcap is not None:
        return dense(q, k, v, visible, bias, softcap)
    mask = None
    # By `if`, which under compile makes a plain bool of a comparison of symbolic sizes.
    causal = True if visible.triangle and bias is None else False  # noqa: SIM210
    if not causal and not visible.everything:
        seen = visible.tile(ALL, ALL, q.device)
        mask = None if seen is None else seen.unsqueeze(1)
    if bias is not None:
        added = bias.tile(bias.parameter, *visible.positions(q.device)).to(q.dtype)
        mask = added if mask is None else added.masked_fill(~mask, -torch.inf)
    if q.is_meta and mask is None:
        # What a fused kernel keeps for its backward pass; by itself torch would plan the unfused form's T x S weights.
        fused = torch.ops.aten._scaled_dot_product_flash_attention_for_cpu
        return fused(q.transpose(1, 2), k.transpose(1, 2), v.transpose(1, 2), 0.0, causal)[0].transpose(1, 2)
    y = F.scaled_dot_product_attention(
        q.transpose(1, 2),
        k.transpose(1, 2),
        v.transpose(1, 2),
        attn_mask=mask,
        is_causal=causal,
        enable_gqa=q.shape[2] != k.shape[2],
    )
    return y.transpose(1, 2)


def dense(
    q: Tensor, k: Tensor, v: Tensor, visible: Visible, bias: Bias | None = None, softcap: float | None = None
) -> Tensor:
    """The same through batched matrix products that hold all T x S weights, in float32 where q is shorter.

    On a CPU the backward pass of torch's flash kernel in bfloat16 takes twice to three times as long as this one at
    sentence lengths, and products of so few numbers gain nothing from bfloat16.
    """
    wide = torch.promote_types(q.dtype, torch.float32)
    groups = k.shape[2]
    # Query heads that share keys stand behind one another in one product: [B G (H/G T) K].
    queries = (q.to(wide) * k.shape[-1] ** -0.5).unflatten(2, (groups, -1)).permute(0, 2, 3, 1, 4).flatten(2, 3)
    keys, values = (t.to(wide).transpose(1, 2) for t in (k, v))
    with exact(q.device):
        scores = (queries @ keys.transpose(2, 3)).view(q.shape[0], q.shape[2], q.shape[1], -1)
        scores = _cap(scores, softcap)
        if bias is not None:
            scores = scores + bias.tile(bias.parameter, *visible.positions(q.device)).to(wide)
        seen = None if visible.everything else visible.tile(ALL, ALL, q.device)
        if seen is not None:
            # Adding costs nothing in the backward pass; the lowest number instead of -inf keeps NaN away from queries
            # that see nothing, whose answer is then made zero.
            hidden = torch.zeros(seen.shape, dtype=wide, device=q.device).masked_fill_(~seen, torch.finfo(wide).min)
            scores = scores + hidden.unsqueeze(1)
        y = scores.softmax(-1).view(*queries.shape[:3], -1) @ values
    y = y.unflatten(2, (-1, q.shape[1])).permute(0, 3, 1, 2, 4).flatten(2, 3).to(q.dtype)
    if seen is None:
        return y
    blind = ~seen.any(-1)
    if y.is_meta or torch.compiler.is_compiling() or bool(blind.any()):
        y = y.masked_fill(blind[:, :, None, None], 0)
    return y


def short(
    q: Tensor, k: Tensor, v: Tensor, visible: Visible, bias: Bias | None = None, softcap: float | None = None
) -> Tensor:
    """The same in compiled loops on a CPU, in float32, without a copy of what it reads; the weights are kept.

    Documents that lie in a row cost what they would cost in rows of their own. With a bias or a softcap, in float64,
    elsewhere, and for heads whose width is no multiple of 16, this is `dense`.
    """
    if not _loops(q, v, bias, softcap):
        return dense(q, k, v, visible, bias, softcap)
    return _short(q, k, v, visible, _spans(visible, len(q)))


def _loops(q: Tensor, v: Tensor, bias: Bias | None, softcap: float | None) -> bool:
    here = AVAILABLE and q.device.type == "cpu" and q.dtype != torch.float64 and not torch.compiler.is_compiling()
    return here and bias is None and softcap is None and q.shape[3] % 16 == 0 and v.shape[3] % 16 == 0


def _short(q: Tensor, k: Tensor, v: Tensor, visible: Visible, spans: Any | None) -> Tensor:  # noqa: ANN401
    """spans: an array of NumPy's; None where what is visible does not lie in runs."""
    from jogak.ops._numba_attention import Short, rows

    causal, seen = visible.causal, None
    if spans is None:
        spans, causal, seen = rows(len(q), visible.queries, visible.keys), False, visible.tile(ALL, ALL, q.device)
    y = Short.apply(q.float(), k.float(), v.float(), spans, seen, causal)
    return y.to(q.dtype)  # pyright: ignore[reportOptionalMemberAccess]  # apply is untyped


def _spans(visible: Visible, batch: int) -> Any | None:  # noqa: ANN401  # an array of NumPy's
    """The runs of queries, with the run of keys that each of them reads, or None where they are none."""
    from jogak.ops._numba_attention import rows, spans

    if visible.triangle or visible.everything:
        return rows(batch, visible.queries, visible.keys)
    if visible.window is not None:
        return None
    mine, theirs = visible.q_segments, visible.k_segments
    if mine is None or theirs is None:
        mine, theirs = (torch.zeros(batch, n, dtype=torch.int64) for n in (visible.queries, visible.keys))
    if visible.mask is not None:
        theirs = theirs.masked_fill(~visible.mask, torch.iinfo(torch.int64).min)  # what is no document's number
    return spans(mine.expand(batch, -1), theirs.expand(batch, -1), causal=visible.causal)


def auto(
    q: Tensor, k: Tensor, v: Tensor, visible: Visible, bias: Bias | None = None, softcap: float | None = None
) -> Tensor:
    """`short` for training on short sequences on a CPU, `sdpa` for everything else."""
    trains = torch.is_grad_enabled() and (q.requires_grad or k.requires_grad or v.requires_grad)
    few, whole = SHORT.get(q.dtype, 0), visible.queries * visible.keys
    if not trains or q.device.type != "cpu" or (whole > few and visible.q_segments is None):
        return sdpa(q, k, v, visible, bias, softcap)
    spans = _spans(visible, len(q)) if _loops(q, v, bias, softcap) else None
    if spans is None:
        return (sdpa if whole > few else dense)(q, k, v, visible, bias, softcap)
    read = spans[:, 2] * spans[:, 4]
    # Torch's kernels would ask of every place of a row about every other.
    if read.max(initial=0) > few and 2 * read.sum() > whole * len(q):
        return sdpa(q, k, v, visible, bias, softcap)
    return _short(q, k, v, visible, spans)


def in_a_row(longest: int, width: int) -> bool:
    """Whether training on a CPU costs no more for documents of at most so many places where they lie in one row."""
    return AVAILABLE and width % 16 == 0 and longest * longest <= min(SHORT.values())


def tiled(
    q: Tensor, k: Tensor, v: Tensor, visible: Visible, bias: Bias | None = None, softcap: float | None = None
) -> Tensor:
    """The same tile by tile with an online softmax, forward and backward: memory O(B H (T + S)), never T x S.

    Written to be read, in torch operations on tiles; a kernel does the same with a tile in fast memory.
    """
    parameter = None if bias is None else bias.parameter
    return _Tiled.apply(q, k, v, parameter, visible, bias, softcap)  # pyright: ignore[reportReturnType]  # apply is untyped


class _Tiled(torch.autograd.Function):
    """Tiled attention with the backward pass of FlashAttention-2: weights are made again from saved log-sums."""

    @staticmethod
    def forward(
        ctx: Any,  # noqa: ANN401  # autograd's own context
        q: Tensor,
        k: Tensor,
        v: Tensor,
        parameter: Tensor | None,
        visible: Visible,
        bias: Bias | None,
        softcap: float | None,
    ) -> Tensor:
        tiles = _Tiles(q, k, visible, bias, parameter, softcap)
        y = q.new_zeros(*q.shape[:3], v.shape[3])
        log_sum = q.new_full((q.shape[0], q.shape[2], q.shape[1]), -torch.inf, dtype=torch.float32)  # [B H T]
        for rows in tiles.rows:
            top = log_sum[:, :, _slice(rows)]  # largest score so far, [B H t]
            total = torch.zeros_like(top)  # sum of exp(score - top)
            part = q.new_zeros(*top.shape, v.shape[3], dtype=torch.float32)  # sum of exp(score - top) v
            for columns in tiles.columns_of(rows):
                scores = tiles.scores(rows, columns)
                higher = torch.maximum(top, scores.amax(-1))
                safe = higher.masked_fill(higher == -torch.inf, 0)  # nothing seen yet: exp(-inf - 0) = 0
                shrink = (top - safe).exp()
                probable = (scores - safe.unsqueeze(-1)).exp()
                total = total * shrink + probable.sum(-1)
                part = part * shrink.unsqueeze(-1) + probable @ tiles.expand(v, columns)
                top = higher
            y[:, _slice(rows)] = (part / total.clamp_min(1e-30).unsqueeze(-1)).transpose(1, 2).to(y.dtype)
            log_sum[:, :, _slice(rows)] = top + total.log()
        ctx.save_for_backward(q, k, v, parameter, y, log_sum)
        ctx.visible, ctx.bias, ctx.softcap = visible, bias, softcap
        return y

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor | None, ...]:  # noqa: ANN401  # autograd's own context
        q, k, v, parameter, y, log_sum = ctx.saved_tensors
        dy = grads[0]
        tiles = _Tiles(q, k, ctx.visible, ctx.bias, parameter, ctx.softcap)
        dq, dk, dv = (torch.zeros_like(t, dtype=torch.float32) for t in (q, k, v))
        d_parameter = None if parameter is None else torch.zeros_like(parameter)
        # sum_s P dP, which softmax's derivative subtracts, equals dy . y: [B H T]
        inner = (dy.float() * y.float()).sum(-1).transpose(1, 2)
        for rows in tiles.rows:
            span = _slice(rows)
            dy_rows = dy[:, span].transpose(1, 2).float()
            floor = log_sum[:, :, span].masked_fill(log_sum[:, :, span] == -torch.inf, 0).unsqueeze(-1)
            for columns in tiles.columns_of(rows):
                part = _slice(columns)
                p = (tiles.scores(rows, columns) - floor).exp()
                dv[:, part] += tiles.collapse(p.transpose(2, 3) @ dy_rows)
                d_scores = p * (dy_rows @ tiles.expand(v, columns).transpose(2, 3) - inner[:, :, span].unsqueeze(-1))
                if d_parameter is not None:
                    d_parameter += tiles.bias_gradient(rows, columns, d_scores)
                d_scores = d_scores * tiles.slope(rows, columns)
                dq[:, span] += (d_scores @ tiles.expand(k, columns)).transpose(1, 2) * tiles.scale
                dk[:, part] += tiles.collapse(d_scores.transpose(2, 3) @ tiles.queries(rows)) * tiles.scale
        return dq.to(q.dtype), dk.to(k.dtype), dv.to(v.dtype), d_parameter, None, None, None


class _Tiles:
    """What both passes need of a tile: its scores, and keys and values spread over grouped heads."""

    def __init__(
        self,
        q: Tensor,
        k: Tensor,
        visible: Visible,
        bias: Bias | None,
        parameter: Tensor | None,
        softcap: float | None,
    ) -> None:
        self.softcap = softcap
        self.q, self.k, self.visible, self.bias, self.parameter = q, k, visible, bias, parameter
        self.scale = q.shape[3] ** -0.5
        self.groups, self.repeat = k.shape[2], q.shape[2] // k.shape[2]
        self.rows = [range(i, min(i + TILE, q.shape[1])) for i in range(0, q.shape[1], TILE)]

    def columns_of(self, rows: range) -> list[range]:
        """The key tiles that these queries may see something of."""
        keys = self.k.shape[1]
        tiles = (range(j, min(j + TILE, keys)) for j in range(0, keys, TILE))
        return [t for t in tiles if not self.visible.hidden(rows, t)]

    def queries(self, rows: range) -> Tensor:
        """[B H t K]."""
        return self.q[:, _slice(rows)].transpose(1, 2).float()

    def expand(self, kv: Tensor, columns: range) -> Tensor:
        """Keys or values of a tile for every query head: [B S G K] -> [B H s K]."""
        return kv[:, _slice(columns)].float().transpose(1, 2).repeat_interleave(self.repeat, dim=1)

    def collapse(self, grad: Tensor) -> Tensor:
        """The adjoint of `expand`: [B H s K] -> [B s G K], summed over the query heads of a group."""
        return grad.unflatten(1, (self.groups, self.repeat)).sum(2).transpose(1, 2)

    def scores(self, rows: range, columns: range) -> Tensor:
        """Scores of a tile, -inf where a query must not look: float32 [B H t s]."""
        scores = _cap(self._products(rows, columns), self.softcap)
        if self.bias is not None:
            scores = scores + self._bias(self.parameter, rows, columns)
        seen = self.visible.tile(_slice(rows), _slice(columns), self.q.device)
        return scores if seen is None else scores.masked_fill(~seen.unsqueeze(1), -torch.inf)

    def slope(self, rows: range, columns: range) -> Tensor | float:
        """The derivative of the cap at each score: 1 - tanh(score / c)^2."""
        if self.softcap is None:
            return 1.0
        return 1 - (self._products(rows, columns) / self.softcap).tanh().square()

    def _products(self, rows: range, columns: range) -> Tensor:
        return self.queries(rows) @ self.expand(self.k, columns).transpose(2, 3) * self.scale

    def _bias(self, parameter: Tensor | None, rows: range, columns: range) -> Tensor:
        assert self.bias is not None
        q_positions, k_positions = self.visible.positions(self.q.device)
        return self.bias.tile(parameter, q_positions[:, _slice(rows)], k_positions[:, _slice(columns)])

    def bias_gradient(self, rows: range, columns: range, d_scores: Tensor) -> Tensor:
        """What this tile adds to the gradient of the bias's parameter."""
        assert self.parameter is not None
        assert self.bias is not None
        q_positions, k_positions = self.visible.positions(self.q.device)
        return self.bias.gradient(
            self.parameter, q_positions[:, _slice(rows)], k_positions[:, _slice(columns)], d_scores
        )


def _cap(scores: Tensor, softcap: float | None) -> Tensor:
    """c tanh(score / c): large scores stay below c. Source: Gemma Team 2024 (2408.00118) section 2."""
    return scores if softcap is None else (scores / softcap).tanh() * softcap


def _slice(r: range) -> slice:
    return slice(r.start, r.stop)


class Form(Protocol):
    """A way to work attention out; softcap: c in c tanh(score / c), before the bias."""

    def __call__(
        self, q: Tensor, k: Tensor, v: Tensor, visible: Visible, bias: Bias | None = None, softcap: float | None = None
    ) -> Tensor: ...


FORMS: dict[str, Form] = {
    "reference": reference,
    "tiled": tiled,
    "sdpa": sdpa,
    "dense": dense,
    "short": short,
    "auto": auto,
}
