"""Test-time training: each head's state is a small model, trained by gradient steps on the sequence that it reads.

Source: Sun et al. 2024 (2407.04620) section 2. Legend: B batch, T time, D model width, H heads, K head width, F inner
width of the MLP, C places of a mini-batch, N rows of documents, L their length.
"""

from dataclasses import dataclass
from typing import Literal

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from jogak.errors import UserError, nearest
from jogak.layers.linear import Linear
from jogak.layers.position import Rotary
from jogak.mixers.contract import EMPTY, Context, Mixer, State
from jogak.ops import convolution, rotary
from jogak.ops.documents import Documents
from jogak.ops.ttt import FORMS, losses

RATES = {"linear": 1.0, "mlp": 0.1}  # section 2.7: the inner learning rate that is learned starts from these
SPREAD = 0.02  # standard deviation of inner weights at first


@dataclass(frozen=True, eq=False)
class _Read:
    """What the input says, in rows of documents: q, k, v [N L H K], rate [N L H], gate [N L D], place [N]."""

    q: Tensor
    k: Tensor
    v: Tensor
    rate: Tensor
    gate: Tensor | None
    place: Tensor | None  # None: every row begins
    past: Tensor  # of the convolution, for the next call


class TTT(Mixer):
    """y = W_o (norm(concat_h f(q_h; W_ht)) * gelu(W_g x)), W_ht learned from k_h, v_h up to t: [B T D] -> [B T D].

    f(q; W) = q + norm_h(q W), or q + norm_h(gelu(q W1) W2), with biases; for its gradient steps see ops.ttt.
    heads: H, one inner model each. inner: 'linear', or 'mlp' with F = 4 K. mini_batch: C places whose gradients are
    taken at the same weights. rate: at most so large is an inner step (None: 1 for linear, 0.1 for mlp); of it the
    input takes sigmoid(w x + b). conv: taps of the short convolutions that tell q and k apart, which then share a
    projection (0: none, and each has its own). gate: whether gelu(W_g x) is multiplied. With both this is the
    authors' Mamba backbone, with neither their Transformer backbone. rotary: turn q and k by the place in the
    mini-batch. Mini-batches are counted over real positions from the document's start; context.positions has no
    say. backend: a form of ops.ttt. State: inner weights at the start of the open mini-batch, the sum of its
    gradients so far, the place in it, and the last inputs of the convolution; O(1).

    Raises: UserError for sizes that do not fit.
    """

    causal_only = True
    undecayed = frozenset({"decay", "scale", "shift"})
    wide = frozenset({"weight_1", "weight_2", "gradient_1", "gradient_2"})

    def __init__(
        self,
        d_model: int,
        heads: int = 8,
        inner: Literal["linear", "mlp"] = "linear",
        *,
        mini_batch: int = 16,
        rate: float | None = None,
        conv: int = 4,
        gate: bool = True,
        rotary: bool = True,
        rotary_base: float = 10000.0,
        backend: str = "dual",
    ) -> None:
        super().__init__(d_model)
        self._check_options(heads, inner, mini_batch, rate, conv, backend)
        self.heads, self.head_dim, self.size, self.taps = heads, d_model // heads, mini_batch, conv
        self.rate, self.backend, self.has_gate = RATES[inner] if rate is None else rate, backend, gate
        width = self.head_dim
        self.read = Linear(d_model, ((1 if conv else 2) + 1 + gate) * d_model, bias=False)
        self.out = Linear(d_model, d_model, bias=False)
        self.norm = nn.LayerNorm(d_model, eps=1e-6)
        self.conv_weight = self.conv_bias = None
        if conv:
            bound = conv**-0.5
            self.conv_weight = nn.Parameter(torch.empty(2 * d_model, conv).uniform_(-bound, bound))
            self.conv_bias = nn.Parameter(torch.empty(2 * d_model).uniform_(-bound, bound))
        self.rotary = Rotary(width, rotary_base) if rotary else None
        self.rate_weight = nn.Parameter(torch.empty(heads, d_model).normal_(std=SPREAD))
        self.rate_bias = nn.Parameter(torch.zeros(heads))
        self.decay = nn.Parameter(torch.zeros(mini_batch))  # added to 1 / i
        self.scale, self.shift = nn.Parameter(torch.ones(heads, width)), nn.Parameter(torch.zeros(heads, width))
        self.weight_1 = _inner(heads, width, width if inner == "linear" else 4 * width)
        self.weight_2 = _inner(heads, 4 * width, width) if inner == "mlp" else None

    def _check_options(
        self, heads: int, inner: str, mini_batch: int, rate: float | None, conv: int, backend: str
    ) -> None:
        if heads < 1 or self.d_model % heads:
            raise UserError(f"ttt: d_model ({self.d_model}) must be a multiple of heads ({heads}), at least 1")
        if inner not in RATES:
            raise UserError(f"ttt: there is no inner model '{inner}'{nearest(inner, RATES)}")
        if mini_batch < 1 or conv < 0:
            raise UserError(f"ttt: mini_batch ({mini_batch}) must be at least 1, and conv ({conv}) at least 0")
        if rate is not None and rate <= 0:
            raise UserError(f"ttt: rate must be above 0, got {rate}")
        if backend not in FORMS:
            raise UserError(f"ttt: there is no backend '{backend}'{nearest(backend, FORMS)}")

    @property
    def state_grows(self) -> bool:
        return False

    @property
    def _weights(self) -> dict[str, Tensor]:
        """The inner weights that every document starts from [H K+1 F]."""
        both = {"weight_1": self.weight_1, "weight_2": self.weight_2}
        return {name: weight for name, weight in both.items() if weight is not None}

    def init_state(
        self, batch: int, *, device: torch.device | str | None = None, dtype: torch.dtype | None = None
    ) -> State:
        dtype = torch.get_default_dtype() if dtype is None else dtype
        wide = torch.promote_types(dtype, torch.float32)
        held: dict[str, Tensor] = {}
        for name, weight in self._weights.items():
            start = weight.to(device, wide).expand(batch, *weight.shape).clone()
            held |= {name: start, name.replace("weight", "gradient"): torch.zeros_like(start)}
        if self.taps:
            held["conv"] = torch.zeros(batch, self.taps - 1, self.d_model, device=device, dtype=dtype)
        held["place"] = torch.zeros(batch, device=device, dtype=torch.int64)
        held["segment"] = torch.zeros(batch, device=device, dtype=torch.int64)
        return State(held, owner="TTT")

    def forward(self, x: Tensor, state: State | None = None, context: Context = EMPTY) -> tuple[Tensor, State]:
        self.check(x, state, context)
        documents, before = self._begin(x, state, context)
        read = self._read(documents.take(x), documents, before, fresh=state is None)
        form = "primal" if read.q.shape[1] == 1 and self.backend == "dual" else self.backend
        y, *left = FORMS[form](*self._arguments(read), **self._inner(read, documents, before))
        scale, shift = self.norm.weight.to(y.dtype), self.norm.bias.to(y.dtype)
        y = F.layer_norm(y.flatten(2), (self.d_model,), scale, shift, self.norm.eps).to(x.dtype)
        if read.gate is not None:
            y = F.gelu(read.gate, approximate="tanh") * y
        names = [*self._weights, *(n.replace("weight", "gradient") for n in self._weights)]
        after = dict(zip(names, left, strict=True))
        return documents.put(self.out(y)), self._end(x, after, read, documents, before)

    def inner_loss(self, x: Tensor, state: State | None = None, context: Context = EMPTY) -> Tensor:
        """l_t = |f(k_t; W) - v_t|^2 / (2 K) at the weights W whose gradient is taken there: float32 [B T H].

        Those are the weights at the start of the mini-batch that t is in. Zero in padded places. It falls along a
        sequence as far as what has been read helps with what comes (Sun et al. 2024, figure 4).
        """
        self.check(x, state, context)
        documents, before = self._begin(x, state, context)
        read = self._read(documents.take(x), documents, before, fresh=state is None)
        return documents.put(losses(*self._arguments(read)[1:], **self._inner(read, documents, before)))

    def _begin(self, x: Tensor, state: State | None, context: Context) -> tuple[Documents, State]:
        before = self.init_state(x.shape[0], device=x.device, dtype=x.dtype) if state is None else state
        shape = (x.shape[0], x.shape[1])
        return Documents.apart(shape, context.mask, context.segments, before["segment"]), before

    def _read(self, x: Tensor, documents: Documents, before: State, *, fresh: bool) -> _Read:
        """x [N L D]: documents in rows."""
        parts = self.read(x).split(self.d_model, dim=2)
        v = parts[1 if self.taps else 2]
        past = x[:, :0]
        if self.conv_weight is not None and self.conv_bias is not None:
            held = documents.begin(before["conv"])
            (first, second), (bias, other) = self.conv_weight.chunk(2), self.conv_bias.chunk(2)
            q, past = convolution.causal(parts[0], first, bias, held, None, documents.lengths)
            k, _ = convolution.causal(parts[0], second, other, held, None, documents.lengths)
        else:
            q, k = parts[:2]
        q, k, v = (part.unflatten(2, (self.heads, self.head_dim)) for part in (q, k, v))
        place = None if fresh else documents.begin(before["place"], 0)
        if self.rotary is not None:
            at = torch.arange(x.shape[1], device=x.device).unsqueeze(0)
            at = (at if place is None else at + place.unsqueeze(1)) % self.size
            cos, sin = self.rotary.angles(at)
            (q,), (k,) = rotary.auto(q, cos, sin), rotary.auto(k, cos, sin)
        # Not rounded again: the inner loss is steep where what its LayerNorm is given varies little.
        q, k, v = (part.to(torch.promote_types(x.dtype, torch.float32)) for part in (q, k, v))
        rate = self.rate * torch.sigmoid(F.linear(x, self.rate_weight, self.rate_bias))
        return _Read(q, k, v, rate, parts[-1] if self.has_gate else None, place, past)

    def _arguments(self, read: _Read) -> tuple[Tensor, ...]:
        counted = torch.arange(1, self.size + 1, device=read.q.device, dtype=torch.float32)
        decay = (1 / counted + self.decay.float()).clamp_min(0)
        return read.q, read.k, read.v, read.rate, decay, self.scale, self.shift

    def _inner(self, read: _Read, documents: Documents, before: State) -> dict[str, Tensor | None]:
        """The inner model that each row of documents goes on with."""
        given: dict[str, Tensor | None] = {"place": read.place, "lengths": documents.lengths}
        for name, fresh in self._weights.items():
            given["w" + name[-1]] = documents.begin(before[name], fresh.to(before[name].dtype))
            held = documents.begin(before[f"gradient_{name[-1]}"])
            given["g" + name[-1]] = None if read.place is None else held
        return given

    def _end(self, x: Tensor, left: dict[str, Tensor], read: _Read, documents: Documents, before: State) -> State:
        """left: weights and gradients of each row of documents."""
        held = {name: documents.end(tensor) for name, tensor in left.items()}
        if self.taps:
            held["conv"] = documents.end(read.past).to(before["conv"].dtype)
        rows = read.q.shape[0]
        length = documents.lengths
        if length is None:
            length = torch.full((rows,), read.q.shape[1], dtype=torch.int64, device=x.device)
        held["place"] = documents.end((length if read.place is None else length + read.place) % self.size)
        held["segment"] = documents.segment
        return State(held, seen=before.seen + x.shape[1], owner="TTT")


def _inner(heads: int, given: int, wide: int) -> nn.Parameter:
    """A weight with a bias of zero as its last row [H given+1 wide], drawn as by the authors."""
    weight = torch.empty(heads, given + 1, wide).normal_(std=SPREAD)
    weight[:, -1] = 0
    return nn.Parameter(weight)


MIXER = TTT
