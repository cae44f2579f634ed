"""Discretisations equal SciPy's, and have the stability and the order of error that they are known for."""

from itertools import pairwise

import numpy as np
import pytest
import torch
from scipy.linalg import expm
from scipy.signal import cont2discrete

from jogak.errors import UserError
from jogak.ops import discretise, hippo

SCIPY = {"euler": "euler", "backward_euler": "backward_diff", "bilinear": "bilinear", "zoh": "zoh"}


def stable(size, seed):
    """A random system [size] with eigenvalues to the left of zero, two inputs and three outputs."""
    draw = np.random.default_rng(seed)
    a = draw.normal(size=(size, size)) - (2 + size) * np.eye(size)
    return a, draw.normal(size=(size, 2)), draw.normal(size=(3, size)), draw.normal(size=(3, 2))


@pytest.mark.parametrize("method", discretise.METHODS)
@pytest.mark.parametrize("size", [1, 5])
def test_a_whole_system_equals_scipys(method, size):
    given = stable(size, seed=size)
    expected = cont2discrete(given, 0.07, method=SCIPY[method])
    found = discretise.system(*(torch.from_numpy(m) for m in given), 0.07, method)
    for mine, theirs in zip(found, expected[:4], strict=True):
        np.testing.assert_allclose(mine.numpy(), theirs, atol=1e-13)


@pytest.mark.parametrize("method", discretise.METHODS)
@pytest.mark.parametrize("name", sorted(hippo.MATRICES))
def test_hippo_equals_scipys(method, name):
    """Matrices that are far from normal."""
    a, b = hippo.MATRICES[name](8)
    expected = cont2discrete((a.numpy(), b.numpy()[:, None], np.eye(8), np.zeros((8, 1))), 0.01, method=SCIPY[method])
    a_, b_ = discretise.dense(a, b[:, None], 0.01, method)
    np.testing.assert_allclose(a_.numpy(), expected[0], rtol=1e-10, atol=1e-13)
    np.testing.assert_allclose(b_.numpy(), expected[1], rtol=1e-10, atol=1e-13)


@pytest.mark.parametrize("method", discretise.METHODS)
def test_diagonal_equals_dense(method):
    """For a step of each system of a batch."""
    w = torch.tensor([-0.5 + 3j, -2.0 + 0j, -0.01 - 40j], dtype=torch.complex128)
    dt = torch.tensor([0.001, 0.1, 2.0], dtype=torch.float64)
    a_, scale = discretise.diagonal(w, dt, method)
    expected, b_ = discretise.dense(torch.diag(w), torch.eye(3, dtype=w.dtype), dt, method)
    torch.testing.assert_close(torch.diag_embed(a_), expected)
    torch.testing.assert_close(torch.diag_embed(scale), b_)


def test_a_hold_takes_a_singular_matrix():
    """An integrator: exp is I, and the integral of one step is dt."""
    zero, eye = torch.zeros(2, 2, dtype=torch.float64), torch.eye(2, dtype=torch.float64)
    a_, b_ = discretise.dense(zero, eye, 0.25, "zoh")
    torch.testing.assert_close(a_, eye)
    torch.testing.assert_close(b_, 0.25 * eye)


@pytest.mark.parametrize(("method", "order"), [("euler", 1), ("backward_euler", 1), ("bilinear", 2)])
def test_order_of_error(method, order):
    """Halving the step divides the error at a fixed time by 2 to the order; the input is constant."""
    a = np.array([[-1.0, 2.0], [-2.0, -0.5]])
    b = np.array([[1.0], [0.3]])
    truth = np.linalg.solve(a, (expm(a) - np.eye(2)) @ b)
    errors = []
    for steps in (64, 128, 256):
        a_, b_ = (m.numpy() for m in discretise.dense(torch.from_numpy(a), torch.from_numpy(b), 1 / steps, method))
        c = np.zeros((2, 1))
        for _ in range(steps):
            c = a_ @ c + b_
        errors.append(np.abs(c - truth).max())
    for coarse, fine in pairwise(errors):
        assert np.log2(coarse / fine) == pytest.approx(order, abs=0.1)


def test_a_hold_is_exact_for_what_is_held():
    a, b = torch.tensor([[-1.0, 2.0], [-2.0, -0.5]]).double(), torch.tensor([[1.0], [0.3]]).double()
    truth = np.linalg.solve(a.numpy(), (expm(a.numpy()) - np.eye(2)) @ b.numpy())
    a_, b_ = discretise.dense(a, b, 1 / 3, "zoh")
    c = torch.zeros(2, 1, dtype=torch.float64)
    for _ in range(3):
        c = a_ @ c + b_
    np.testing.assert_allclose(c.numpy(), truth, atol=1e-13)


@pytest.mark.parametrize("method", discretise.METHODS)
def test_stability(method):
    """Modes that fade stay modes that fade, at any step; with Euler only inside its circle."""
    draw = torch.Generator().manual_seed(0)
    w = torch.complex(-torch.rand(200, generator=draw) * 5, torch.randn(200, generator=draw) * 50).to(torch.complex128)
    for dt in (1e-3, 0.1, 3.0):
        size = discretise.diagonal(w, dt, method)[0].abs()
        if method == "euler":
            inside = dt <= -2 * w.real / w.abs().square()
            assert torch.equal(size <= 1, inside)
        else:
            assert (size < 1).all()


@pytest.mark.parametrize("call", [discretise.dense, discretise.diagonal, discretise.check])
def test_an_unknown_method_is_refused(call):
    a = torch.eye(2, dtype=torch.float64)
    arguments = {discretise.dense: (a, a, 0.1), discretise.diagonal: (a[0], 0.1), discretise.check: ()}[call]
    with pytest.raises(UserError, match="bilinear"):
        call(*arguments, "bilineal")
