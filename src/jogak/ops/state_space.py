"""Linear time-invariant state spaces over whole sequences: h_t = A h_(t-1) + B x_t, y_t = C h_t, for each channel.

`chunked` cuts a sequence into blocks of K places. Inside a block y is a product with the lower triangle of the kernel
C A^(i-j) B; from block to block goes the state, found for all blocks at once by doubling. Everything is a matrix
product, O(T K) in all, and causal to the bit: what stands later is not read at all or, if it stands in the same block,
multiplied by zeros, so that it changes nothing as long as it is finite.
`by_fft` convolves with the kernel of the whole length, as S4's authors train; the transform mixes all places, so that
a later input changes an earlier output by rounding.

Here A is whatever `Blocks` hold of it: ops/s4d.py builds them of a diagonal, ops/s4.py of a diagonal minus a low rank.

Sources: Gu et al. 2022 (2111.00396) sections 2.3 and 2.4; blocks of a scan as matrix products, Dao & Gu 2024
(2405.21060) section 6.

Legend: R rows, L length, D channels, N state (real numbers), K places of a block, C blocks of a row.
"""

from collections.abc import Callable
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

COMPLEX = {torch.float32: torch.complex64, torch.float64: torch.complex128}
BLOCK = 64  # places; the fastest of 32, 64 and 128 on a CPU at N = 64


@dataclass(frozen=True, eq=False)
class Blocks:
    """What K places do to outputs and state, in the dtype that is computed in; K is a power of two.

    kernel: C A^l B [D K]. write: [D K N], what each place of a block leaves in the state at its end. read: [D N K],
    what the state before a block adds to each output in it. powers: A^(2^k), k = 0, 1, ..., as `advance(power, h)`
    takes them, h [D ... N] -> [D ... N].
    """

    kernel: Tensor
    write: Tensor
    read: Tensor
    powers: tuple[Tensor, ...]
    advance: Callable[[Tensor, Tensor], Tensor]


def block_length(length: int) -> int:
    """K: BLOCK, or the power of two that a shorter sequence fits in."""
    return min(BLOCK, 1 << (length - 1).bit_length())


def levels(length: int) -> int:
    """How many powers A^(2^k) a sequence needs: for the places of a block, and for its blocks."""
    block = block_length(length)
    return (block.bit_length() - 1) + (-(-length // block)).bit_length()


def chunked(x: Tensor, blocks: Blocks, state: Tensor, lengths: Tensor | None) -> tuple[Tensor, Tensor]:
    """y [R L D] and the state afterwards [R D N], of x [R L D] after state [R D N].

    lengths: int64 [R], the real places of each row, behind which x is zero; None: all L.
    """
    u = _cut(x, blocks)
    states = _states(blocks, state.transpose(0, 1), _by_block(u @ blocks.write, x.shape[0]))
    before = states[:, :, :-1].flatten(1, 2)
    y = torch.baddbmm(before @ blocks.read, u, triangle(blocks.kernel))
    return _join(y, x), _end(blocks, states, _by_block(u, x.shape[0]), x.shape[1], lengths)


def by_fft(x: Tensor, kernel: Tensor, blocks: Blocks, state: Tensor, lengths: Tensor | None) -> tuple[Tensor, Tensor]:
    """As `chunked`, y by one convolution with the kernel [D L] of the whole length; what the state adds, by blocks."""
    u = _cut(x, blocks)
    written = _by_block(u @ blocks.write, x.shape[0])
    alone = _states(blocks, state.transpose(0, 1), torch.zeros_like(written))
    states = alone + _states(blocks, torch.zeros_like(state).transpose(0, 1), written)
    y = convolve(x, kernel) + _join(alone[:, :, :-1].flatten(1, 2) @ blocks.read, x)
    return y, _end(blocks, states, _by_block(u, x.shape[0]), x.shape[1], lengths)


def convolve(x: Tensor, kernel: Tensor) -> Tensor:
    """y_t = sum_(l <= t) kernel_l x_(t-l) by FFT: x [R L D], kernel [D L] -> [R L D].

    Padded to 2 L, so that the end does not come round to the beginning.
    """
    length = x.shape[1]
    spectrum = torch.fft.rfft(kernel.T, n=2 * length, dim=0) * torch.fft.rfft(x, n=2 * length, dim=1)
    return torch.fft.irfft(spectrum, n=2 * length, dim=1)[:, :length]


def triangle(kernel: Tensor) -> Tensor:
    """[D K] -> [D K K]: kernel_(i - j) at row j, column i, zeros where i < j.

    Rows of K numbers and K zeros, read in rows of 2 K - 1, move one place to the right with each row.
    """
    channels, block = kernel.shape
    rows = F.pad(kernel, (0, block)).unsqueeze(1).expand(-1, block, -1).reshape(channels, 2 * block * block)
    return rows[:, : block * (2 * block - 1)].view(channels, block, 2 * block - 1)[..., :block]


def _cut(x: Tensor, blocks: Blocks) -> Tensor:
    """x [R L D] in blocks [D R C K], zeros behind its end, as [D RC K]."""
    block = blocks.kernel.shape[1]
    padded = F.pad(x, (0, 0, 0, -x.shape[1] % block))
    return padded.flatten(0, 1).t().contiguous().view(x.shape[2], -1, block)


def _join(y: Tensor, x: Tensor) -> Tensor:
    """y [D RC K] back in rows [R L D] like x."""
    return y.flatten(1, 2).t().reshape(x.shape[0], -1, x.shape[2])[:, : x.shape[1]]


def _by_block(u: Tensor, rows: int) -> Tensor:
    """[D RC ...] -> [D R C ...]."""
    return u.unflatten(1, (rows, -1))


def _states(blocks: Blocks, first: Tensor, written: Tensor) -> Tensor:
    """The states before each block and behind the last [D R C+1 N], of the first [D R N] and what blocks write.

    H_c = A^K H_(c-1) + written_(c-1) [D R C N] for all c at once: after each round a state holds twice as many blocks.
    """
    states = torch.cat([first.unsqueeze(2), written], 2)
    level, reach = blocks.kernel.shape[1].bit_length() - 1, 1
    while reach < states.shape[2]:
        moved = blocks.advance(blocks.powers[level], states[:, :, :-reach])
        states = torch.cat([states[:, :, :reach], states[:, :, reach:] + moved], 2)
        level, reach = level + 1, 2 * reach
    return states


def _end(blocks: Blocks, states: Tensor, u: Tensor, length: int, lengths: Tensor | None) -> Tensor:
    """The state behind the last real place of each row [R D N], of states [D R C+1 N] and blocks u [D R C K]."""
    rows, block = u.shape[1], u.shape[3]
    if lengths is None and length % block == 0:
        return states[:, :, -1].transpose(0, 1).contiguous()
    if lengths is None:
        lengths = torch.full((rows,), length, dtype=torch.int64, device=u.device)
    row = torch.arange(rows, device=u.device)
    at, rest = lengths // block, lengths % block
    h = states[:, row, at]  # before the block in which the row ends
    for level in range(block.bit_length() - 1):
        moves = (rest >> level) % 2 == 1
        h = torch.where(moves[:, None], blocks.advance(blocks.powers[level], h), h)
    # That block's first `rest` places, moved to its end, leave what they would leave there.
    last = u[:, row, at.clamp_max(u.shape[2] - 1)]
    place = torch.arange(block, device=u.device) - (block - rest).unsqueeze(1)
    last = last.gather(2, place.clamp_min(0).expand_as(last)).masked_fill(place < 0, 0)
    return (h + last @ blocks.write).transpose(0, 1).contiguous()
