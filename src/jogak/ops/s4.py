"""S4's state space: every channel with a state whose matrix is diagonal minus low rank, A = diag(w) - P P*.

h_t = A_ h_(t-1) + B_ x_t, y_t = 2 Re(C h_t) over one of each pair of conjugate modes, so that P* h means
2 Re(sum_m conj(P_m) h_m). The state is held as real numbers [R D N], N = 2M: real and imaginary part of each mode by
turns; as a matrix over those A is real and, where no w has a positive real part, every A_ but Euler's shrinks
all states. A is as good as never diagonalisable in floating point (LegS: condition 2^(4N/3), theorem 1), hence this
form.

Forms (`FORMS`): `reference` in float64, place by place, with A as a full matrix; `chunked`, matrix products over
blocks, causal to the bit; `fft`, one convolution with a kernel from its generating function at the roots of unity
(Cauchy products and Woodbury's identity), the paper's algorithm 1. `step` is one place, in O(N) a channel.

Sources: Gu et al. 2022 (2111.00396) sections 3.2 and 3.3, appendices C.2 and C.3. Legend: R rows, L length, D
channels, M modes, N state, Q rank, K places of a block.
"""

import math

import torch
from torch import Tensor
from torch.utils.checkpoint import checkpoint

from jogak.ops import discretise
from jogak.ops._exact import exact
from jogak.ops.state_space import Blocks, block_length, by_fft, levels
from jogak.ops.state_space import chunked as over_blocks

AT_ONCE = 1 << 22  # complex numbers of a Cauchy matrix that are held at one time


def reference(
    x: Tensor,
    w: Tensor,
    p: Tensor,
    b: Tensor,
    c: Tensor,
    dt: Tensor,
    state: Tensor,
    lengths: Tensor | None,
    method: str,
) -> tuple[Tensor, Tensor]:
    """The equations, place by place in float64, with all 2M modes and A a full complex matrix: see `chunked`."""
    modes, low, into, out = (torch.view_as_complex(t.double()) for t in (w, p, b, c))
    low = torch.cat([low, low.conj()], -1)
    full = torch.diag_embed(torch.cat([modes, modes.conj()], -1)) - low.transpose(1, 2) @ low.conj()
    whole = torch.cat([into, into.conj()], -1)
    a_, b_ = discretise.dense(full, whole.unsqueeze(-1), dt.double(), method)
    read = torch.cat([out, out.conj()], -1)
    half = torch.view_as_complex(state.double().unflatten(-1, (-1, 2)))
    h, outputs = torch.cat([half, half.conj()], -1), []
    left = h
    for t in range(x.shape[1]):
        h = torch.einsum("dnm,rdm->rdn", a_, h) + b_.squeeze(-1) * x[:, t].double().unsqueeze(-1)
        left = h if lengths is None else torch.where((t < lengths)[:, None, None], h, left)
        outputs.append((read * h).sum(-1).real)
    kept = torch.view_as_real(left[..., : into.shape[-1]].resolve_conj()).flatten(-2)
    return torch.stack(outputs, 1).to(x.dtype), kept.to(state.dtype)


def chunked(
    x: Tensor,
    w: Tensor,
    p: Tensor,
    b: Tensor,
    c: Tensor,
    dt: Tensor,
    state: Tensor,
    lengths: Tensor | None,
    method: str,
) -> tuple[Tensor, Tensor]:
    """x [R L D], w, b, c [D M 2] (real, imaginary), p [D Q M 2], dt [D], state [R D 2M] -> y [R L D], the state.

    lengths: int64 [R], the real places of each row, behind which x is zero; None: all L. method: of ops.discretise.
    """
    dtype = torch.promote_types(x.dtype, torch.float32)
    with exact(x.device):
        blocks, _, _ = _blocks(w, p, b, c, dt, method, x.shape[1], dtype)
        y, left = over_blocks(x.to(dtype), blocks, state.to(dtype), lengths)
    return y.to(x.dtype), left.to(state.dtype)


def fft(
    x: Tensor,
    w: Tensor,
    p: Tensor,
    b: Tensor,
    c: Tensor,
    dt: Tensor,
    state: Tensor,
    lengths: Tensor | None,
    method: str,
) -> tuple[Tensor, Tensor]:
    """As `chunked`, by one convolution: a later input changes an earlier output, by rounding.

    The generating function is written for A_ of the family of discretise.ALPHA; of zoh the kernel is multiplied out.
    """
    dtype, length = torch.promote_types(x.dtype, torch.float32), x.shape[1]
    with exact(x.device):
        blocks, start, squares = _blocks(w, p, b, c, dt, method, length, dtype)
        if method == "zoh":
            kernel = _multiplied(blocks, start, c, length)
        else:
            read = _cut_off(_complex(c.double()), squares, length)
            kernel = cauchy(w, p, b, read, dt, method, length).to(dtype)
        y, left = by_fft(x.to(dtype), kernel, blocks, state.to(dtype), lengths)
    return y.to(x.dtype), left.to(state.dtype)


def step(
    x: Tensor, w: Tensor, p: Tensor, b: Tensor, c: Tensor, dt: Tensor, state: Tensor, method: str
) -> tuple[Tensor, Tensor]:
    """One place: x [R D], state [R D 2M] -> y [R D], the state afterwards; O(D M), with zoh O(D M^2)."""
    dtype = torch.promote_types(x.dtype, torch.float32)
    with exact(x.device):
        h, x_t = state.to(dtype), x.to(dtype)
        if method == "zoh":
            change, into = (t.to(dtype) for t in _held(w, p, b, dt))
            h = h + (torch.einsum("rdm,dmn->rdn", h, change) + into * x_t.unsqueeze(-1))
        else:
            w, p, b, dt = (t.to(dtype) for t in (w, p, b, dt))
            h = _moved(h, x_t, w, p, b, dt, method)
        y = 2 * (_complex(c.to(dtype)) * _modes(h)).real.sum(-1)
    return y.to(x.dtype), h.to(state.dtype)


def cauchy(w: Tensor, p: Tensor, b: Tensor, read: Tensor, dt: Tensor, method: str, length: int) -> Tensor:
    """The kernel C A_^l B_ [D L] in float64, of read = C (I - A_^L), [D M] complex.

    Its transform at z = exp(-2 pi i k / L) is K(z) = read (I - A_ z)^-1 B_, and for the family of discretise.ALPHA
    I - A_ z is (I - a dt A)^-1 ((1 - z) I - dt s A), s = a + (1 - a) z, so that with R = ((1 - z) - dt s w)^-1 and
    Woodbury K = dt (read R B - dt s (read R P) (I + dt s P* R P)^-1 (P* R B)): products with a Cauchy matrix only,
    held for so many channels at a time as fit AT_ONCE.
    """
    frequencies, kept, spectra = length // 2 + 1, torch.is_grad_enabled(), []
    group = max(1, AT_ONCE // (2 * w.shape[1] * frequencies))
    for first in range(0, w.shape[0], group):
        here = slice(first, first + group)
        modes, low, into = (_complex(t[here].double()) for t in (w, p, b))
        given = (modes, low, into, read[here], dt[here].double(), method, length)
        spectra.append(checkpoint(_spectrum, *given, use_reentrant=False) if kept else _spectrum(*given))
    return torch.fft.irfft(torch.cat(spectra), n=length, dim=1)


def _spectrum(w: Tensor, p: Tensor, b: Tensor, read: Tensor, dt: Tensor, method: str, length: int) -> Tensor:
    """K(z) of `cauchy` at the frequencies that rfft has [D F], all complex but dt."""
    angle = -2 * math.pi / length * torch.arange(length // 2 + 1, dtype=torch.float64, device=w.device)
    z = torch.polar(torch.ones_like(angle), angle)[:, None]
    turn = dt[:, None, None] * (discretise.ALPHA[method] + (1 - discretise.ALPHA[method]) * z)  # dt s [D F 1]
    both = torch.cat([w, w.conj()], -1).unsqueeze(1)
    matrix = 1 / ((1 - z) - turn * both)  # [D F 2M]
    left = torch.cat([read.unsqueeze(1), p.conj()], 1)
    right = torch.cat([b.unsqueeze(1), p], 1)
    products = (left.unsqueeze(2) * right.unsqueeze(1)).flatten(1, 2)  # [D (1+Q)^2 M]
    sums = matrix @ torch.cat([products, products.conj()], -1).transpose(1, 2)
    sums = sums.unflatten(-1, (left.shape[1], right.shape[1]))
    inside, turn = sums[..., 1:, 1:], turn.unsqueeze(-1)
    eye = torch.eye(p.shape[1], dtype=inside.dtype, device=inside.device)
    low = sums[..., :1, 1:] @ torch.linalg.solve(eye + turn * inside, sums[..., 1:, :1])
    return dt[:, None] * (sums[..., :1, :1] - turn * low)[..., 0, 0]


def _cut_off(c: Tensor, squares: list[Tensor], length: int) -> Tensor:
    """C (I - A_^L) [D M], of C [D M] and the transposes of A_^(2^k)."""
    whole = _numbers(c.conj()).unsqueeze(-1)
    moved = whole
    for level, square in enumerate(squares):
        if (length >> level) % 2:
            moved = square @ moved
    return _modes((whole - moved).squeeze(-1)).conj()


def _multiplied(blocks: Blocks, start: Tensor, c: Tensor, length: int) -> Tensor:
    """The kernel C A_^l B_ [D L], l = K j + i, as the products of A_^(K j) B_ and C A_^i; start: B_ [D N]."""
    block = blocks.kernel.shape[1]
    jumps, level = start.unsqueeze(1), block.bit_length() - 1
    while jumps.shape[1] * block < length:
        jumps = torch.cat([jumps, blocks.advance(blocks.powers[level], jumps)], 1)
        level += 1
    seen = torch.cat([_numbers(2 * _complex(c.to(start.dtype)).conj()).unsqueeze(-1), blocks.read[..., :-1]], -1)
    return (jumps @ seen).flatten(1)[:, :length]


def _blocks(
    w: Tensor, p: Tensor, b: Tensor, c: Tensor, dt: Tensor, method: str, length: int, dtype: torch.dtype
) -> tuple[Blocks, Tensor, list[Tensor]]:
    """The blocks for so many places, B_ [D N], and the transposes of A_^(2^k) in float64.

    A_ by what a step does to every unit vector; its powers by squaring, in float64, since each squaring doubles the
    relative error.
    """
    change, start = _held(w, p, b, dt) if method == "zoh" else _family(w, p, b, dt, method)
    squares = [change + torch.eye(change.shape[-1], dtype=change.dtype, device=change.device)]
    while len(squares) < levels(length):
        squares.append(squares[-1] @ squares[-1])
    powers = tuple(square.to(dtype) for square in squares)
    read = _numbers(2 * _complex(c.to(dtype)).conj()).unsqueeze(-1)
    run, after = start.to(dtype).unsqueeze(1), powers[0] @ read  # A_^i B_ [D K N], C A_^(i + 1) [D N K]
    for level in range(block_length(length).bit_length() - 1):
        run = torch.cat([run, run @ powers[level]], 1)
        after = torch.cat([after, powers[level] @ after], 2)
    kernel = (run @ read).squeeze(-1)
    return Blocks(kernel, run.flip(1), after, powers, _advance), start.to(dtype), squares


def _advance(power: Tensor, h: Tensor) -> Tensor:
    """h [D ... N] times the transpose of a matrix [D N N]."""
    return (h.flatten(1, -2) @ power).view(h.shape)


def _family(w: Tensor, p: Tensor, b: Tensor, dt: Tensor, method: str) -> tuple[Tensor, Tensor]:
    """The transpose of A_ - I [D N N] and B_ [D N] of a method with an ALPHA, over real numbers, in float64."""
    w, p, b, dt = (t.double() for t in (w, p, b, dt))
    units, nothing = _units(w)
    change = _numbers(_change(units, nothing, w, p, b, dt, method)).transpose(0, 1)
    start = _numbers(_change(torch.zeros_like(units[:1]), torch.ones_like(nothing[:1]), w, p, b, dt, method))[0]
    return change, start


def _held(w: Tensor, p: Tensor, b: Tensor, dt: Tensor) -> tuple[Tensor, Tensor]:
    """The same of a zero-order hold, which needs the exponential of the whole matrix."""
    w, p, b, dt = (t.double() for t in (w, p, b, dt))
    units, nothing = _units(w)
    a = _numbers(_slope(units, nothing, w, p, b)).permute(1, 2, 0)  # a column for each unit vector
    a_, b_ = discretise.dense(a, b.flatten(1).unsqueeze(-1), dt, "zoh")
    return a_.transpose(1, 2) - torch.eye(a.shape[-1], dtype=a.dtype, device=a.device), b_.squeeze(-1)


def _units(w: Tensor) -> tuple[Tensor, Tensor]:
    """Every unit vector of every channel's state [N D M], complex, and an input of nothing [N D]."""
    channels, modes = w.shape[:2]
    eye = torch.eye(2 * modes, dtype=w.dtype, device=w.device)
    return _modes(eye).unsqueeze(1).expand(-1, channels, -1), w.new_zeros(2 * modes, channels)


def _slope(h: Tensor, x: Tensor, w: Tensor, p: Tensor, b: Tensor) -> Tensor:
    """A h + B x [R D M], of h [R D M] complex and x [R D]."""
    low = _complex(p)
    return _complex(w) * h - (_inner(low, h).unsqueeze(-1) * low).sum(-2) + _complex(b) * x.unsqueeze(-1)


def _change(h: Tensor, x: Tensor, w: Tensor, p: Tensor, b: Tensor, dt: Tensor, method: str) -> Tensor:
    """A_ h + B_ x - h = (I - a dt A)^-1 dt (A h + B x) [R D M], which keeps its digits where A_ is near I.

    Woodbury, with S = (1 - a dt w)^-1: (S^-1 + a dt P P*)^-1 v = S v - a dt S P (I + a dt P* S P)^-1 P* S v.
    """
    alpha, step, low = discretise.ALPHA[method], dt.unsqueeze(-1), _complex(p)
    small = 1 / (1 - alpha * step * _complex(w))
    solved = small * (step * _slope(h, x, w, p, b))
    if alpha == 0:
        return solved
    spread = (alpha * step * small).unsqueeze(1) * low  # a dt S P [D Q M]
    inside = 2 * (low.conj().unsqueeze(2) * spread.unsqueeze(1)).real.sum(-1)
    eye = torch.eye(low.shape[1], dtype=inside.dtype, device=inside.device)
    weights = torch.linalg.solve(eye + inside, _inner(low, solved).unsqueeze(-1)).squeeze(-1)
    return solved - (weights.unsqueeze(-1) * spread).sum(-2)


def _moved(h: Tensor, x: Tensor, w: Tensor, p: Tensor, b: Tensor, dt: Tensor, method: str) -> Tensor:
    """A_ h + B_ x [R D N], of h [R D N] over real numbers: what `_change` says, read from h in as few passes as go.

    What is small where A_ is near I is small here too: E = dt S w on the diagonal, and P* h, P* E h times dt S P. The
    weights of a dt S P are linear in both: P* (E h - dt S P (P* h) + dt S B x) is P* of what is solved.
    """
    alpha, step, low, rank = discretise.ALPHA[method], dt.unsqueeze(-1), _complex(p), p.shape[1]
    small = step / (1 - alpha * step * _complex(w))  # dt S
    diagonal, out, into = small * _complex(w), small.unsqueeze(1) * low, small * _complex(b)
    # P* and P* E as columns over real numbers: 2 Re(conj(a) h) is a sum over both parts of a and h.
    columns = 2 * _numbers(torch.cat([low, low * diagonal.conj().unsqueeze(1)], 1))  # [D 2Q N]
    seen = torch.einsum("rdn,dqn->rdq", h, columns)
    within, drive = _inner(low, out.transpose(0, 1)).permute(1, 2, 0), _inner(low, into.unsqueeze(0)).squeeze(0)
    solved = seen[..., rank:] - torch.einsum("rdq,dpq->rdp", seen[..., :rank], within) + drive * x.unsqueeze(-1)
    eye = torch.eye(rank, dtype=h.dtype, device=h.device)
    weights = torch.linalg.solve(eye + alpha * within, solved.unsqueeze(-1)).squeeze(-1)
    factors = torch.cat([-seen[..., :rank] - alpha * weights, x.unsqueeze(-1)], -1)
    change = torch.einsum("rdq,dqn->rdn", factors, _numbers(torch.cat([out, into.unsqueeze(1)], 1)))
    return h + (change + _numbers(diagonal * _modes(h)))


def _inner(low: Tensor, h: Tensor) -> Tensor:
    """P* h = 2 Re(sum_m conj(P_m) h_m) [R D Q], of low [D Q M] and h [R D M]."""
    return 2 * (low.conj() * h.unsqueeze(-2)).real.sum(-1)


def _complex(pairs: Tensor) -> Tensor:
    """[... M 2] real -> [... M] complex."""
    return torch.view_as_complex(pairs)


def _modes(h: Tensor) -> Tensor:
    """[... 2M] real -> [... M] complex."""
    return torch.view_as_complex(h.unflatten(-1, (-1, 2)))


def _numbers(h: Tensor) -> Tensor:
    """[... M] complex -> [... 2M] real."""
    return torch.view_as_real(h.resolve_conj()).flatten(-2)


FORMS = {"reference": reference, "chunked": chunked, "fft": fft}
