"""HiPPO: the matrices with which a state h' = A h + B u keeps the best polynomial approximation of its input so far.

`legs` looks at the whole history, in LTI use with a weight that fades over e-folds of time; `legt` at a window that
slides; `lagt` at a past that fades exponentially. Their bases are orthonormal under their measures. Each is a normal
matrix minus one of low rank (`normal_form`), from which S4 computes; S4D keeps only the diagonal (`diagonal`).

Sources: Gu et al. 2020 (2008.07669) theorems 1 and 2, appendix D; Gu et al. 2022 (2111.00396) theorem 1 and appendix
C.1; Gu et al. 2022 (2206.11893) section 4.

Legend: N state, M = N / 2 pairs of conjugate modes, R rank.
"""

import math
from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

from jogak.errors import UserError, nearest


def legs(size: int) -> tuple[Tensor, Tensor]:
    """A [N N], B [N] of scaled Legendre: dc/dt = (A c + B u) / t holds u over [0, t], every moment weighing the same.

    A_nk = -sqrt((2n + 1)(2k + 1)) for n > k, -(n + 1) for n = k, 0 above; B_n = sqrt(2n + 1). Without the 1 / t it
    is the same in the time log t: a fading memory of all timescales.
    """
    root = _root(size)
    below = -torch.outer(root, root).tril(-1)
    return below - torch.diag(torch.arange(1, size + 1, dtype=torch.float64, device="cpu")), root


def legt(size: int, window: float = 1.0) -> tuple[Tensor, Tensor]:
    """A [N N], B [N] of translated Legendre: dc/dt = A c + B u holds u over the last `window` of time.

    A_nk = -sqrt((2n + 1)(2k + 1)) / window for n >= k, and (-1)^(n - k) times that for n < k;
    B_n = sqrt(2n + 1) / window.
    """
    root = _root(size)
    sign = (-1.0) ** torch.arange(size, dtype=torch.float64, device="cpu")
    signs = torch.ones_like(torch.outer(root, root)).tril() + torch.outer(sign, sign).triu(1)
    return -torch.outer(root, root) * signs / window, root / window


def lagt(size: int) -> tuple[Tensor, Tensor]:
    """A [N N], B [N] of translated Laguerre: dc/dt = A c + B u holds u over a past that weighs exp(-age).

    A_nk = -1 for n >= k, 0 above; B_n = 1.
    """
    ones = torch.ones(size, size, dtype=torch.float64, device="cpu")
    return -ones.tril(), ones[0]


MATRICES: dict[str, Callable[[int], tuple[Tensor, Tensor]]] = {"legs": legs, "legt": legt, "lagt": lagt}


@dataclass(frozen=True, eq=False)
class NormalForm:
    """A = V (diag(w) - P P*) V*, B = V b, with one of each pair of conjugate modes kept; float64 and complex128.

    eigenvalues: w [M], imaginary parts not negative. basis: V [N M] (the whole is [V, conj V]). low_rank: P [R M].
    b: [M].
    """

    eigenvalues: Tensor
    basis: Tensor
    low_rank: Tensor
    b: Tensor


def normal_form(name: str, size: int) -> NormalForm:
    """The normal plus low-rank form of one of MATRICES, N even.

    A + P P^T is c I + S with S skew-symmetric, whose eigenvectors are unitary, with P of
    legs: sqrt(n + 1/2); lagt: sqrt(1/2); legt: sqrt(n + 1/2) and (-1)^n sqrt(n + 1/2).

    Raises: UserError for an unknown name or an odd size.
    """
    if name not in MATRICES:
        raise UserError(f"hippo: there is no measure '{name}'{nearest(name, MATRICES)}")
    _check_even(size)
    a, b = MATRICES[name](size)
    low_rank = _low_rank(name, size)
    normal = a + low_rank.T @ low_rank
    middle = normal.diagonal().mean()
    skew = (normal - normal.T) / 2
    turning, vectors = torch.linalg.eigh(-1j * skew)  # ascending: the second half are those that are positive
    basis = vectors[:, size // 2 :]
    return NormalForm(
        torch.complex(middle.expand(size // 2), turning[size // 2 :]),
        basis,
        low_rank.to(basis.dtype) @ basis.conj(),
        b.to(basis.dtype) @ basis.conj(),
    )


def _low_rank(name: str, size: int) -> Tensor:
    """P [R N] of `normal_form`."""
    half = _root(size) / math.sqrt(2)
    if name == "legs":
        return half[None]
    if name == "lagt":
        return torch.full((1, size), math.sqrt(0.5), dtype=torch.float64, device="cpu")
    return torch.stack([half, half * (-1.0) ** torch.arange(size, dtype=torch.float64, device="cpu")])


DIAGONALS = ("legs", "lin", "inv")


def diagonal(name: str, size: int) -> Tensor:
    """The eigenvalues of S4D, one of each conjugate pair: complex128 [M].

    legs: those of the normal part of LegS. lin: -1/2 + i pi n. inv: -1/2 + i N / pi (N / (2n + 1) - 1).

    Raises: UserError for an unknown name or an odd size.
    """
    if name not in DIAGONALS:
        raise UserError(f"hippo: there is no diagonal '{name}'{nearest(name, DIAGONALS)}")
    _check_even(size)
    if name == "legs":
        return normal_form("legs", size).eigenvalues
    n = torch.arange(size // 2, dtype=torch.float64, device="cpu")
    turning = math.pi * n if name == "lin" else size / math.pi * (size / (2 * n + 1) - 1)
    return torch.complex(torch.full_like(n, -0.5), turning)


def _root(size: int) -> Tensor:
    """sqrt(2n + 1)."""
    return (2 * torch.arange(size, dtype=torch.float64, device="cpu") + 1).sqrt()


def _check_even(size: int) -> None:
    if size < 2 or size % 2:
        raise UserError(f"hippo: the state must be of an even size, at least 2, for its conjugate pairs; got {size}")
