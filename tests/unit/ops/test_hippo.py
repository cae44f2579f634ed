"""HiPPO matrices do what they promise: their states hold the input's history as coefficients of polynomials."""

import math

import numpy as np
import pytest
import torch
from scipy.integrate import solve_ivp
from scipy.special import eval_laguerre, eval_legendre

from jogak.errors import UserError
from jogak.ops import discretise, hippo

STEPS = 4000
STEP = 0.001


def signal(t):
    """Smooth, and with no symmetry about any point of the interval."""
    return np.sin(5 * t + 0.3) + 0.5 * np.cos(11 * t)


def states(a, b, times, u):
    """c(t_k) with A and B held by bilinear steps between the times, u [len(times)] at their middles: [len(times) N]."""
    step = float(times[1] - times[0])
    a_, b_ = (m.numpy() for m in discretise.dense(a, b.unsqueeze(-1), step, "bilinear"))
    c, held = np.zeros(len(a)), []
    for value in u:
        c = a_ @ c + b_[:, 0] * value
        held.append(c)
    return np.array(held)


def legendre(size, place):
    """sqrt(2n + 1) P_n at place in [-1, 1]: [N ...]."""
    return np.array([math.sqrt(2 * n + 1) * eval_legendre(n, place) for n in range(size)])


def legs_state(size, end):
    """The state of LegS after [0, end]: in s = log t it is LTI, so it is stepped evenly in s."""
    a, b = hippo.legs(size)
    begin, count = math.log(1e-6), 40_000
    times = np.linspace(begin, math.log(end), count + 1)
    middles = np.exp((times[1:] + times[:-1]) / 2)
    return states(a, b, times, signal(middles))[-1]


def test_legs_holds_the_projection_of_the_whole_history():
    """c_n = (1 / t) integral of u(x) sqrt(2n + 1) P_n(2x / t - 1) over [0, t]."""
    end, size = 2.0, 12
    nodes, weights = np.polynomial.legendre.leggauss(80)
    expected = legendre(size, nodes) @ (weights * signal((nodes + 1) * end / 2)) / 2
    np.testing.assert_allclose(legs_state(size, end), expected, atol=2e-5)


def test_legs_reconstructs_the_history_ever_better():
    """The error is that of the best polynomial of that degree, which falls faster than any power of N."""
    end = 2.0
    place = np.linspace(-1, 1, 201)
    truth = signal((place + 1) * end / 2)
    errors, best = [], []
    for size in (6, 12, 18):
        basis = legendre(size, place)
        errors.append(np.sqrt(np.mean((legs_state(size, end) @ basis - truth) ** 2)))
        nearest = np.linalg.lstsq(basis.T, truth, rcond=None)[0]
        best.append(np.sqrt(np.mean((nearest @ basis - truth) ** 2)))
    assert errors[0] > 5 * errors[1] > 25 * errors[2]
    for found, least in zip(errors, best, strict=True):
        assert found < 2 * least + 1e-4


def test_legt_holds_a_window_that_slides():
    """Within the window the signal comes back, the better the larger N; what is older leaves no trace."""
    times = np.arange(STEPS + 1) * STEP
    middles = (times[1:] + times[:-1]) / 2
    place = np.linspace(-0.95, 0.95, 101)  # of the window [-1, 1]
    window = 1.0
    then = times[-1] - window * (1 - place) / 2
    errors = []
    for size in (4, 8, 16):
        state = states(*hippo.legt(size, window), times, signal(middles))[-1]
        errors.append(np.abs(state @ legendre(size, place) - signal(then)).max())
    assert errors[0] > 3 * errors[1] > 9 * errors[2]
    assert errors[2] < 0.02
    early = np.where(middles < 0.5, 50.0, 0.0)  # loud, and long ago
    assert np.abs(states(*hippo.legt(24, window), times, early)[-1]).max() < 1e-2


def test_lagt_holds_a_past_that_fades():
    """c_n = integral of u(t - age) exp(-age) L_n(age) over all ages: the weight of its measure, not of a window."""
    size, end = 6, 4.0
    times = np.arange(STEPS + 1) * STEP
    middles = (times[1:] + times[:-1]) / 2
    state = states(*hippo.lagt(size), times, signal(middles))[-1]
    age = end - middles
    expected = [np.sum(signal(middles) * np.exp(-age) * eval_laguerre(n, age)) * STEP for n in range(size)]
    np.testing.assert_allclose(state, expected, atol=2e-5)


def test_lagt_forgets_exponentially_and_better_bases_see_further():
    """The impulse response of c_n is exp(-age) L_n(age); near the present it is reconstructed, long ago it is not."""
    a, b = hippo.lagt(8)
    solved = solve_ivp(lambda _, c: a.numpy() @ c, (0, 30), b.numpy(), t_eval=[0.5, 3.0, 30.0], rtol=1e-9, atol=1e-12)
    for column, age in enumerate((0.5, 3.0, 30.0)):
        expected = [math.exp(-age) * eval_laguerre(n, age) for n in range(8)]
        np.testing.assert_allclose(solved.y[:, column], expected, atol=1e-8)
    times = np.arange(12 * STEPS + 1) * STEP
    middles = (times[1:] + times[:-1]) / 2
    recent, old, errors = np.linspace(0.1, 1.5, 30), np.linspace(6, 10, 30), []
    for size in (4, 16, 40):
        state = states(*hippo.lagt(size), times, np.cos(2 * middles))[-1]
        back = [
            sum(state[n] * eval_laguerre(n, age) for n in range(size)) - np.cos(2 * (times[-1] - age))
            for age in (recent, old)
        ]
        errors.append([np.sqrt(np.mean(e**2)) for e in back])
    assert errors[0][0] > 2 * errors[2][0]
    assert all(near < far for near, far in errors)


@pytest.mark.parametrize("name", sorted(hippo.MATRICES))
@pytest.mark.parametrize("size", [2, 8, 64])
def test_normal_form_is_the_matrix(name, size):
    """A = V (diag(w) - P P*) V* and B = V b with V unitary, whose other half is the conjugate."""
    a, b = hippo.MATRICES[name](size)
    form = hippo.normal_form(name, size)
    basis = torch.cat([form.basis, form.basis.conj()], 1)
    low = torch.cat([form.low_rank, form.low_rank.conj()], 1).T
    inner = torch.diag(torch.cat([form.eigenvalues, form.eigenvalues.conj()])) - low @ low.mH
    rebuilt = basis @ inner @ basis.mH
    scale = float(a.abs().max())
    torch.testing.assert_close(basis @ basis.mH, torch.eye(size, dtype=basis.dtype), atol=1e-12, rtol=0)
    torch.testing.assert_close(rebuilt.real, a, atol=1e-12 * scale, rtol=0)
    assert rebuilt.imag.abs().max() < 1e-12 * scale
    torch.testing.assert_close(2 * (form.basis @ form.b).real, b, atol=1e-12 * scale, rtol=0)


def test_the_normal_part_of_legs_decays_at_one_half():
    """Which is why S4D-LegS, Lin and Inv all start with a real part of -1/2."""
    for name in hippo.DIAGONALS:
        assert torch.allclose(hippo.diagonal(name, 32).real, torch.tensor(-0.5, dtype=torch.float64))
    lin, inv = hippo.diagonal("lin", 6), hippo.diagonal("inv", 6)
    torch.testing.assert_close(lin.imag, torch.tensor([0, math.pi, 2 * math.pi], dtype=torch.float64))
    torch.testing.assert_close(inv.imag, torch.tensor([30 / math.pi, 6 / math.pi, 1.2 / math.pi], dtype=torch.float64))


def test_inv_follows_the_modes_of_legs():
    """S4D-Inv is a closed form near S4D-LegS (2206.11893 conjecture 5): the fastest mode turns at about N^2 / pi."""
    for size in (16, 64, 256):
        legs = hippo.diagonal("legs", size).imag.max()
        assert abs(float(legs) / (size**2 / math.pi) - 1) < 0.1
        assert abs(float(hippo.diagonal("inv", size).imag.max()) / float(legs) - 1) < 0.12


@pytest.mark.parametrize(
    ("call", "words"),
    [
        (lambda: hippo.normal_form("lag", 8), "lagt"),
        (lambda: hippo.normal_form("legs", 7), "even"),
        (lambda: hippo.diagonal("lim", 8), "lin"),
        (lambda: hippo.diagonal("inv", 0), "even"),
    ],
)
def test_what_is_not_there_is_refused(call, words):
    with pytest.raises(UserError, match=words):
        call()
