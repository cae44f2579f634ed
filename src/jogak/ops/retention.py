"""A sum of keys and values that fades: the recurrence behind retention and, without fading, causal linear attention.

S_t = g_h S_(t-1) + k_t v_t^T, y_t = S_t^T q_t, with one decay g_h for each head; S starts again where a document does.

Its three ways, which say the same: `parallel`, all pairs of places at once; `recurrent`, place by place; `chunkwise`,
pairs inside a chunk and the state between chunks, so that time and memory grow with the length alone.

Source: Sun et al. 2023 (2307.08621) sections 2.1 and 2.3. Legend: N rows, L length, H heads, K key width, V value
width, M chunks, C places of a chunk.
"""

from collections.abc import Callable
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

from jogak.ops._exact import exact

CHUNK = 64  # places of a chunk

Form = Callable[..., tuple[Tensor, Tensor]]  # with the arguments of `reference`


def reference(
    q: Tensor,
    k: Tensor,
    v: Tensor,
    decay: Tensor | None,
    state: Tensor,
    starts: Tensor | None = None,
    lengths: Tensor | None = None,
) -> tuple[Tensor, Tensor]:
    """The recurrence in float64: see `chunkwise`."""
    return _recur(q, k, v, decay, state, starts, lengths, torch.float64)


def recurrent(
    q: Tensor,
    k: Tensor,
    v: Tensor,
    decay: Tensor | None,
    state: Tensor,
    starts: Tensor | None = None,
    lengths: Tensor | None = None,
) -> tuple[Tensor, Tensor]:
    """Place by place, in float32 or wider: what one step of decoding does; see `chunkwise`."""
    return _recur(q, k, v, decay, state, starts, lengths, torch.promote_types(q.dtype, torch.float32))


def _recur(
    q: Tensor,
    k: Tensor,
    v: Tensor,
    decay: Tensor | None,
    state: Tensor,
    starts: Tensor | None,
    lengths: Tensor | None,
    dtype: torch.dtype,
) -> tuple[Tensor, Tensor]:
    held, outputs = state.to(dtype), []
    if lengths is not None:
        q, k, v = _silence(q, k, v, lengths)
    fade = None if decay is None else decay.to(dtype).view(1, -1, 1, 1)
    with exact(q.device):
        for t in range(q.shape[1]):
            if starts is not None:
                held = held.masked_fill(starts[:, t].view(-1, 1, 1, 1), 0)
            faded = held if fade is None else held * fade
            query, key, value = (x[:, t].to(dtype) for x in (q, k, v))
            new = torch.addcmul(faded, key.unsqueeze(3), value.unsqueeze(2))
            held = new if lengths is None else torch.where((t < lengths).view(-1, 1, 1, 1), new, held)
            # (q . k) v apart from what is carried: a norm behind it takes out whatever q . k is rounded to.
            carried = (query.unsqueeze(2) @ faded).squeeze(2)
            outputs.append(carried + (query * key).sum(2, keepdim=True) * value)
    return torch.stack(outputs, 1).to(q.dtype), held.to(state.dtype)


def parallel(
    q: Tensor,
    k: Tensor,
    v: Tensor,
    decay: Tensor | None,
    state: Tensor,
    starts: Tensor | None = None,
    lengths: Tensor | None = None,
) -> tuple[Tensor, Tensor]:
    """All pairs of places at once, in O(L^2): see `chunkwise`."""
    return chunkwise(q, k, v, decay, state, starts, lengths, chunk=q.shape[1])


def chunkwise(
    q: Tensor,
    k: Tensor,
    v: Tensor,
    decay: Tensor | None,
    state: Tensor,
    starts: Tensor | None = None,
    lengths: Tensor | None = None,
    *,
    chunk: int = CHUNK,
) -> tuple[Tensor, Tensor]:
    """q, k [N L H K], v [N L H V], decay [H] in (0, 1] (None: 1), state [N H K V] -> y [N L H V], the state after.

    starts: bool [N L], True where a document begins, which sees nothing before it. lengths: int64 [N], real places
    of each row, which stand first; the others change no state and say zero. Sums are taken in float32 or wider.
    """
    length, given, dtype = q.shape[1], q.dtype, torch.promote_types(q.dtype, torch.float32)
    size = min(chunk, length)
    if lengths is not None:
        q, k, v = _silence(q, k, v, lengths)
    with exact(q.device):
        q, k, v = (_cut(x.to(dtype), size) for x in (q, k, v))
        fading = None if decay is None else _fading(decay.to(dtype), q, lengths, length)
        bounds = None if starts is None else _bounds(starts, size)
        before, after = _between(k, v, state.to(dtype), fading, bounds)
        scores = q @ k.transpose(3, 4)
        carried = q @ before
        if fading is None:
            scores = scores.tril()
        else:
            scores, carried = scores * fading.pairs, carried * fading.carried
        if bounds is not None:
            scores, carried = scores.masked_fill(bounds.pairs, 0), carried.masked_fill(bounds.carried, 0)
        y = carried + scores @ v  # [N H M C V]
    y = y.permute(0, 2, 3, 1, 4).flatten(1, 2)[:, :length]
    return y.to(given), after.to(state.dtype)


def auto(
    q: Tensor,
    k: Tensor,
    v: Tensor,
    decay: Tensor | None,
    state: Tensor,
    starts: Tensor | None = None,
    lengths: Tensor | None = None,
) -> tuple[Tensor, Tensor]:
    """The quickest of them for this length: see `chunkwise`."""
    form = recurrent if q.shape[1] == 1 else chunkwise
    return form(q, k, v, decay, state, starts, lengths)


@dataclass(frozen=True, eq=False)
class _Fading:
    """What has been lost of one thing at another, as factors."""

    pairs: Tensor  # [H 1 C C]: of a key at a query, 0 where the key is later
    carried: Tensor  # [H 1 C 1]: of the chunk's first state at a query
    kept: Tensor  # [n H M C 1]: of a key at the chunk's end, n = 1 or N
    passed: Tensor  # [n H M 1 1]: of the chunk's first state at its end


@dataclass(frozen=True, eq=False)
class _Bounds:
    """True where one place has nothing to do with another, since a document began between them."""

    pairs: Tensor  # bool [N 1 M C C]
    carried: Tensor  # bool [N 1 M C 1]
    kept: Tensor  # bool [N 1 M C 1]
    passed: Tensor  # bool [N 1 M 1 1]


def _silence(q: Tensor, k: Tensor, v: Tensor, lengths: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Zeros in the places that are not real."""
    behind = (torch.arange(q.shape[1], device=q.device) >= lengths.unsqueeze(1)).unsqueeze(2).unsqueeze(3)
    return q.masked_fill(behind, 0), k.masked_fill(behind, 0), v.masked_fill(behind, 0)


def _cut(x: Tensor, size: int) -> Tensor:
    """x [N L H W] in chunks [N H M C W], zeros behind the end."""
    missing = -x.shape[1] % size
    x = F.pad(x, (0, 0, 0, 0, 0, missing)) if missing else x
    return x.unflatten(1, (-1, size)).permute(0, 3, 1, 2, 4)


def _fading(decay: Tensor, q: Tensor, lengths: Tensor | None, length: int) -> _Fading:
    """For chunks of q [N H M C K], of which the first `lengths` places are real."""
    chunks, size = q.shape[2], q.shape[3]
    log = decay.log().view(-1, 1, 1, 1)
    place = torch.arange(size, device=q.device)
    age = (place.unsqueeze(1) - place).clamp_min(0)  # of each key at each query
    pairs = (log * age).exp().tril()
    carried = (log * (place + 1).unsqueeze(1)).exp()
    ends = torch.full((1,), length, device=q.device) if lengths is None else lengths
    real = (ends.unsqueeze(1) - size * torch.arange(chunks, device=q.device)).clamp(0, size)  # places of each chunk
    real = real.view(-1, 1, chunks, 1, 1)
    kept = (log * (real - 1 - place.unsqueeze(1)).clamp_min(0)).exp()
    return _Fading(pairs, carried, kept, (log * real).exp())


def _bounds(starts: Tensor, size: int) -> _Bounds:
    missing = -starts.shape[1] % size
    number = F.pad(starts.long(), (0, missing)).cumsum(1).unflatten(1, (-1, size)).unsqueeze(1)  # [N 1 M C]
    last = number[..., -1:]
    open_ = F.pad(last[:, :, :-1], (0, 0, 1, 0))  # the document that the chunk's first state belongs to
    return _Bounds(
        number.unsqueeze(4) != number.unsqueeze(3),
        (number != open_).unsqueeze(4),
        (number != last).unsqueeze(4),
        (last != open_).unsqueeze(4),
    )


def _between(
    k: Tensor, v: Tensor, state: Tensor, fading: _Fading | None, bounds: _Bounds | None
) -> tuple[Tensor, Tensor]:
    """The state before each chunk [N H M K V] and after the last one [N H K V]; one addition a chunk."""
    k = k if fading is None else k * fading.kept
    k = k if bounds is None else k.masked_fill(bounds.kept, 0)
    before: list[Tensor] = []
    for index, added in enumerate((k.transpose(3, 4) @ v).unbind(2)):
        before.append(state)
        if fading is not None:
            state = state * fading.passed[:, :, index]
        if bounds is not None:
            state = state.masked_fill(bounds.passed[:, :, index], 0)
        state = state + added
    return torch.stack(before, 2), state


FORMS: dict[str, Form] = {
    "reference": reference,
    "auto": auto,
    "recurrent": recurrent,
    "parallel": parallel,
    "chunkwise": chunkwise,
}
