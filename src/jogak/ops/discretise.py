"""Continuous systems made discrete: h' = A h + B u, y = C h + D u, u read every dt.

euler:          A_ = I + dt A                               B_ = dt B
backward_euler: A_ = (I - dt A)^-1                          B_ = (I - dt A)^-1 dt B
bilinear:       A_ = (I - dt/2 A)^-1 (I + dt/2 A)           B_ = (I - dt/2 A)^-1 dt B
zoh:            A_ = exp(dt A)                              B_ = A^-1 (exp(dt A) - I) B

The first three are one family, A_ = I + (I - a dt A)^-1 dt A with a = 0, 1, 1/2 (ALPHA). Euler's is stable only for
small steps, |1 + dt w| <= 1 for each eigenvalue w of A; the others are wherever A is. The error of a step's result is
of the second order in dt for euler and backward_euler, of the third for bilinear; zoh makes none where u is constant
over each step.

Sources: Gu et al. 2022 (2111.00396) section 2.2; Zhang et al. 2007 (IEEE SMC) for the family.

Legend: N state, P inputs, Q outputs.
"""

from collections.abc import Iterable

import torch
from torch import Tensor

from jogak.errors import UserError, nearest

METHODS = ("euler", "backward_euler", "bilinear", "zoh")
ALPHA = {"euler": 0.0, "backward_euler": 1.0, "bilinear": 0.5}


def check(method: str, known: Iterable[str] = METHODS) -> None:
    """Refuse a method that is not there.

    Raises: UserError naming the nearest.
    """
    if method not in known:
        raise UserError(f"there is no discretisation '{method}'{nearest(method, known)}")


def dense(a: Tensor, b: Tensor, dt: Tensor | float, method: str) -> tuple[Tensor, Tensor]:
    """A_ [... N N], B_ [... N P] of a [... N N], b [... N P], dt [...].

    Raises: UserError for an unknown method.
    """
    check(method)
    step = torch.as_tensor(dt, dtype=a.dtype, device=a.device)[..., None, None]
    size = a.shape[-1]
    if method == "zoh":
        # exp of [[A, B], [0, 0]] dt holds both, and A may be singular.
        joined = torch.cat([step * a, step * b], -1)
        still = joined.new_zeros(*joined.shape[:-2], b.shape[-1], joined.shape[-1])
        both = torch.linalg.matrix_exp(torch.cat([joined, still], -2))
        return both[..., :size, :size], both[..., :size, size:]
    eye = torch.eye(size, dtype=a.dtype, device=a.device)
    ahead = eye - ALPHA[method] * step * a
    return torch.linalg.solve(ahead, ahead + step * a), torch.linalg.solve(ahead, step * b)


def diagonal(a: Tensor, dt: Tensor | float, method: str) -> tuple[Tensor, Tensor]:
    """A_ [... N], and what b is to be multiplied by [... N], of the eigenvalues a [... N] (not 0), dt [...].

    Raises: UserError for an unknown method.
    """
    check(method)
    step = torch.as_tensor(dt, dtype=a.real.dtype, device=a.device)[..., None]
    if method == "zoh":
        turned = (step * a).exp()
        return turned, (turned - 1) / a
    scale = step / (1 - ALPHA[method] * step * a)
    return 1 + scale * a, scale


def system(
    a: Tensor, b: Tensor, c: Tensor, d: Tensor, dt: Tensor | float, method: str
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """A_ [N N], B_ [N P], C_ [Q N], D_ [Q P] of a system whose output is read before the state takes the input.

    h_(t+1) = A_ h_t + B_ u_t, y_t = C_ h_t + D_ u_t, where C_ = C (I - a dt A)^-1 and D_ = D + a C B_: what SciPy's
    `signal.cont2discrete` gives. S4 reads the output after, y_t = C h_t + D u_t with h_t = A_ h_(t-1) + B_ u_t, and
    leaves C and D as they are.

    Raises: UserError for an unknown method.
    """
    a_, b_ = dense(a, b, dt, method)
    if method == "zoh":
        return a_, b_, c, d
    ahead = torch.eye(a.shape[-1], dtype=a.dtype, device=a.device) - ALPHA[method] * dt * a
    return a_, b_, torch.linalg.solve(ahead, c, left=False), d + ALPHA[method] * (c @ b_)
