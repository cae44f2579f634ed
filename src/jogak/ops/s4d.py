"""S4D's state space: every channel with a diagonal state of its own, discretised by name.

h_t = A_ h_(t-1) + B_ x_t, y_t = 2 Re(C h_t), with A_ and B_ of A = diag(w), B and the channel's step dt, and one of
each pair of conjugate modes kept. The state is held as real numbers [R D 2M]: real and imaginary part of each mode by
turns.

Forms (`FORMS`): `reference` in float64, place by place; `chunked`, matrix products over blocks, causal to the bit;
`fft`, one convolution with the whole kernel. `step` is one place.

Sources: Gu et al. 2022 (2206.11893) sections 3 and 4. Legend: R rows, L length, D channels, M modes, K places of a
block.
"""

import torch
from torch import Tensor

from jogak.ops import discretise
from jogak.ops._exact import exact
from jogak.ops.state_space import COMPLEX, Blocks, block_length, by_fft, levels
from jogak.ops.state_space import chunked as over_blocks


def reference(
    x: Tensor, w: Tensor, b: Tensor, c: Tensor, dt: Tensor, state: Tensor, lengths: Tensor | None, method: str
) -> tuple[Tensor, Tensor]:
    """The equations, place by place in float64: see `chunked`."""
    a_, scale = discretise.diagonal(torch.view_as_complex(w.double()), dt.double(), method)
    b_, read = scale * torch.view_as_complex(b.double()), torch.view_as_complex(c.double())
    h, outputs = _modes(state.double()), []
    left = h
    for t in range(x.shape[1]):
        h = a_ * h + b_ * x[:, t].double().unsqueeze(-1)
        left = h if lengths is None else torch.where((t < lengths)[:, None, None], h, left)
        outputs.append(2 * (read * h).real.sum(-1))
    return torch.stack(outputs, 1).to(x.dtype), _numbers(left).to(state.dtype)


def chunked(
    x: Tensor, w: Tensor, b: Tensor, c: Tensor, dt: Tensor, state: Tensor, lengths: Tensor | None, method: str
) -> tuple[Tensor, Tensor]:
    """x [R L D], w, b, c [D M 2] (real, imaginary), dt [D], state [R D 2M] -> y [R L D], the state afterwards.

    lengths: int64 [R], the real places of each row, behind which x is zero; None: all L. method: of ops.discretise.
    """
    dtype = torch.promote_types(x.dtype, torch.float32)
    with exact(x.device):
        blocks, _ = _blocks(w, b, c, dt, method, x.shape[1], dtype)
        y, left = over_blocks(x.to(dtype), blocks, state.to(dtype), lengths)
    return y.to(x.dtype), left.to(state.dtype)


def fft(
    x: Tensor, w: Tensor, b: Tensor, c: Tensor, dt: Tensor, state: Tensor, lengths: Tensor | None, method: str
) -> tuple[Tensor, Tensor]:
    """As `chunked`, by one convolution: a later input changes an earlier output, by rounding."""
    dtype = torch.promote_types(x.dtype, torch.float32)
    with exact(x.device):
        blocks, seen = _blocks(w, b, c, dt, method, x.shape[1], dtype)
        kernel = vandermonde(blocks, seen, _start(w, b, dt, method, dtype), x.shape[1])
        y, left = by_fft(x.to(dtype), kernel, blocks, state.to(dtype), lengths)
    return y.to(x.dtype), left.to(state.dtype)


def step(x: Tensor, w: Tensor, b: Tensor, c: Tensor, dt: Tensor, state: Tensor, method: str) -> tuple[Tensor, Tensor]:
    """One place: x [R D], state [R D 2M] -> y [R D], the state afterwards; O(D M)."""
    dtype = torch.promote_types(x.dtype, torch.float32)
    with exact(x.device):
        a_, scale = discretise.diagonal(torch.view_as_complex(w.double()), dt.double(), method)
        # h + (A_ - 1) h: where A_ is near 1 the rounding of A_ itself would add up over a thousand steps.
        change, b_ = (a_ - 1).to(COMPLEX[dtype]), (scale * torch.view_as_complex(b.double())).to(COMPLEX[dtype])
        h = _modes(state.to(dtype))
        h = h + (change * h + b_ * x.to(dtype).unsqueeze(-1))
        y = 2 * (torch.view_as_complex(c.to(dtype)) * h).real.sum(-1)
    return y.to(x.dtype), _numbers(h).to(state.dtype)


def vandermonde(blocks: Blocks, seen: Tensor, start: Tensor, length: int) -> Tensor:
    """The kernel 2 Re(sum_m C_m A_m^l B_m) [D L], never holding L powers: l = K j + i, a product of both.

    seen: 2 C A^i [D K 2M]. start: B_ [D 2M].
    """
    block = blocks.kernel.shape[1]
    jumps, level = start.unsqueeze(1), block.bit_length() - 1  # A^(K j) B_ [D J 2M]
    while jumps.shape[1] * block < length:
        jumps = torch.cat([jumps, blocks.advance(blocks.powers[level], jumps)], 1)
        level += 1
    return (jumps @ seen.transpose(1, 2)).flatten(1)[:, :length]


def _start(w: Tensor, b: Tensor, dt: Tensor, method: str, dtype: torch.dtype) -> Tensor:
    """B_ as real numbers [D 2M]."""
    _, scale = discretise.diagonal(torch.view_as_complex(w.double()), dt.double(), method)
    return _numbers(scale * torch.view_as_complex(b.double())).to(dtype)


def _blocks(
    w: Tensor, b: Tensor, c: Tensor, dt: Tensor, method: str, length: int, dtype: torch.dtype
) -> tuple[Blocks, Tensor]:
    """The blocks for so many places, and 2 C A^i, i < K, as real numbers [D K 2M].

    A^(2^k) by squaring in float64: a mode that turns fast has gone round many times within a block, and its phase
    must be right at the end.
    """
    turned, scale = discretise.diagonal(torch.view_as_complex(w.double()), dt.double(), method)
    squares = [turned]
    while len(squares) < levels(length):
        squares.append(squares[-1] * squares[-1])
    powers = tuple(p.to(COMPLEX[dtype]) for p in squares)
    start = scale * torch.view_as_complex(b.double())
    block = block_length(length)
    run = torch.ones_like(powers[0]).unsqueeze(1)  # A^i [D K M]
    for level in range(block.bit_length() - 1):
        run = torch.cat([run, run * powers[level].unsqueeze(1)], 1)
    write = _numbers(run.flip(1) * start.to(run.dtype).unsqueeze(1))
    seen = _numbers((2 * torch.view_as_complex(c.to(dtype)).unsqueeze(1) * run).conj())
    after = _numbers((2 * (torch.view_as_complex(c.to(dtype)) * powers[0]).unsqueeze(1) * run).conj())
    kernel = (seen @ _numbers(start).to(dtype).unsqueeze(2)).squeeze(2)
    return Blocks(kernel, write, after.transpose(1, 2), powers, _advance), seen


def _advance(power: Tensor, h: Tensor) -> Tensor:
    """power [D M] times h [D ... 2M]."""
    return _numbers(power.view(power.shape[0], *[1] * (h.dim() - 2), -1) * _modes(h))


def _modes(h: Tensor) -> Tensor:
    """[... 2M] real -> [... M] complex."""
    return torch.view_as_complex(h.unflatten(-1, (-1, 2)))


def _numbers(h: Tensor) -> Tensor:
    """[... M] complex -> [... 2M] real."""
    return torch.view_as_real(h.resolve_conj()).flatten(-2)


FORMS = {"reference": reference, "chunked": chunked, "fft": fft}
