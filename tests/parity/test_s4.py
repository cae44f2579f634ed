"""S4 and S4D against longhand float64 references, written from the papers' equations with numpy and SciPy only.

S4: Gu et al. 2022 (2111.00396) equations 2 to 5 and theorem 1. S4D: Gu et al. 2022 (2206.11893) equations 2 and 6.
"""

import math

import numpy as np
import pytest
import torch
from scipy.linalg import expm
from scipy.signal import StateSpace, dlsim

from jogak import mixers
from jogak.errors import UserError
from jogak.ops import s4, s4d

CHANNELS, SIZE, LENGTH, ROWS = 4, 8, 150, 2
METHODS = ("euler", "backward_euler", "bilinear", "zoh")
NEAR = 2e-5  # of the largest entry, float32 against float64


def discrete(a, b, dt, method):
    """A_, B_ of one system, each method from its own formula."""
    eye = np.eye(len(a))
    if method == "zoh":
        return expm(dt * a), np.linalg.solve(a, (expm(dt * a) - eye) @ b)
    if method == "euler":
        return eye + dt * a, dt * b
    if method == "backward_euler":
        inverse = np.linalg.inv(eye - dt * a)
        return inverse, inverse @ (dt * b)
    inverse = np.linalg.inv(eye - dt / 2 * a)
    return inverse @ (eye + dt / 2 * a), inverse @ (dt * b)


def simulate(a, b, c, x, start):
    """y_t = C h_t, h_t = A_ h_(t-1) + B_ x_t: x [T] -> y [T], the last h. By SciPy, whose output comes before the step:
    C A_ h + C B_ x is what it must be given for ours to come after."""
    system = StateSpace(a, b, c @ a, c @ b, dt=1.0)
    _, y, h = dlsim(system, np.append(x, 0.0)[:, None], x0=start)
    return y[:-1, 0], h[-1]


def hippo_legs(size):
    """Equation 2, entry by entry."""
    a = np.zeros((size, size))
    for n in range(size):
        for k in range(size):
            if n > k:
                a[n, k] = -math.sqrt((2 * n + 1) * (2 * k + 1))
            elif n == k:
                a[n, k] = -(n + 1)
    return a, np.array([[math.sqrt(2 * n + 1)] for n in range(size)])


def numbers(z):
    return torch.view_as_real(torch.as_tensor(np.ascontiguousarray(z), dtype=torch.complex64)).contiguous()


def steps():
    return np.geomspace(0.001, 0.02, CHANNELS)


def draw(seed, *shape):
    return np.random.default_rng(seed).normal(size=shape)


def near(found, expected, what):
    error, limit = np.abs(found.detach().numpy() - expected).max(), NEAR * np.abs(expected).max()
    assert error <= limit, f"{what}: differs by {error:.3g}, allowed {limit:.3g}"


def unitary():
    """V of the paper's theorem 1, found here by numpy of LegS + 1/2 (I + P P^T) alone: eigenvalues, V, P."""
    a, _ = hippo_legs(SIZE)
    p = np.sqrt(np.arange(SIZE) + 0.5)
    values, vectors = np.linalg.eig(a + np.outer(p, p))
    chosen = np.flatnonzero(values.imag > 0)
    vectors = vectors / np.linalg.norm(vectors, axis=0)
    return values[chosen], vectors[:, chosen], vectors[:, chosen].conj().T @ p


@pytest.mark.parametrize("form", ["chunked", "fft"])
@pytest.mark.parametrize("method", METHODS)
def test_s4_equals_the_hippo_system_it_stands_for(form, method):
    """Outputs and final state, from a given state, of LegS as the real matrix of equation 2, read by a real C."""
    a, b = hippo_legs(SIZE)
    values, basis, low = unitary()
    c, x, start = draw(1, CHANNELS, SIZE), draw(2, ROWS, LENGTH, CHANNELS), draw(3, ROWS, CHANNELS, SIZE)
    expected = np.zeros_like(x)
    ends = np.zeros((ROWS, CHANNELS, SIZE))
    for d, dt in enumerate(steps()):
        a_, b_ = discrete(a, b, dt, method)
        for r in range(ROWS):
            expected[r, :, d], ends[r, d] = simulate(a_, b_, c[d : d + 1], x[r, :, d], start[r, d])
    tile = (CHANNELS, 1)
    y, state = s4.FORMS[form](
        torch.from_numpy(x).float(),
        numbers(np.tile(values, tile)),
        numbers(np.tile(low, tile))[:, None],
        numbers(np.tile(basis.conj().T @ b[:, 0], tile)),
        numbers(c @ basis),
        torch.from_numpy(steps()).float(),
        numbers(start @ basis.conj()).flatten(2),
        None,
        method,
    )
    near(y, expected, "output")
    modes = torch.view_as_complex(state.unflatten(-1, (-1, 2)))
    back = 2 * (modes @ torch.from_numpy(basis.T).to(modes.dtype)).real
    near(back, ends, "state")


def loss_of_s4d(x, w, b, c, dt, start, weight, method):
    """sum(weight * y) by the recurrence of equation 2 over the modes, in Python's complex numbers."""
    total = 0.0
    for r in range(x.shape[0]):
        for d in range(x.shape[2]):
            if method == "zoh":
                a_, b_ = np.exp(dt[d] * w[d]), (np.exp(dt[d] * w[d]) - 1) / w[d] * b[d]
            else:
                a_ = (1 + dt[d] / 2 * w[d]) / (1 - dt[d] / 2 * w[d])
                b_ = dt[d] * b[d] / (1 - dt[d] / 2 * w[d])
            h = start[r, d]
            for t in range(x.shape[1]):
                h = a_ * h + b_ * x[r, t, d]
                total += weight[r, t, d] * 2 * (c[d] * h).sum().real
    return total


@pytest.mark.parametrize("form", ["chunked", "fft"])
@pytest.mark.parametrize("method", ["zoh", "bilinear"])
def test_s4d_gradients_equal_differences(form, method):
    """Of every argument, in float64, against central differences of the longhand recurrence."""
    channels, modes, length = 2, 2, 9
    values = {
        "x": draw(1, 1, length, channels),
        "w": -0.5 + 1j * draw(2, channels, modes) - np.abs(draw(3, channels, modes)),
        "b": draw(4, channels, modes) + 1j * draw(5, channels, modes),
        "c": draw(6, channels, modes) + 1j * draw(7, channels, modes),
        "dt": np.array([0.05, 0.4]),
        "state": draw(8, 1, channels, modes) + 1j * draw(9, 1, channels, modes),
    }
    weight = draw(10, 1, length, channels)
    given = {
        n: torch.from_numpy(v) if np.isrealobj(v) else torch.view_as_real(torch.from_numpy(v)).clone()
        for n, v in values.items()
    }
    given["state"] = given["state"].flatten(2)
    given = {n: t.requires_grad_() for n, t in given.items()}
    y, _ = s4d.FORMS[form](*given.values(), None, method)
    found = dict(
        zip(given, torch.autograd.grad((y * torch.from_numpy(weight)).sum(), list(given.values())), strict=True)
    )
    order = ("x", "w", "b", "c", "dt", "state")

    def loss(changed):
        return loss_of_s4d(*(changed[n] for n in order), weight, method)

    for name, value in values.items():
        parts = [1.0] if np.isrealobj(value) else [1.0, 1j]
        expected = np.zeros((*value.shape, len(parts)))
        for index in np.ndindex(value.shape):
            for k, part in enumerate(parts):
                move = np.zeros_like(value)
                move[index] = 1e-6 * part
                up, down = loss({**values, name: value + move}), loss({**values, name: value - move})
                expected[(*index, k)] = (up - down) / 2e-6
        np.testing.assert_allclose(
            found[name].numpy().reshape(expected.shape), expected, atol=1e-7 * np.abs(expected).max(), err_msg=name
        )


def test_s4_gradients_equal_those_of_the_matrix_itself():
    """Of x, C and the step, float32 against torch's float64 through dense matrices made with numpy's basis."""
    a, b = hippo_legs(SIZE)
    values, basis, low = unitary()
    x, c = torch.from_numpy(draw(2, ROWS, LENGTH, CHANNELS)), torch.from_numpy(draw(1, CHANNELS, SIZE))
    dt, weight = torch.from_numpy(steps()), torch.from_numpy(draw(5, ROWS, LENGTH, CHANNELS))
    leaves = [t.clone().requires_grad_() for t in (x, c, dt)]
    matrix, into = torch.from_numpy(a), torch.from_numpy(b[:, 0])
    ahead = torch.eye(SIZE).double() - leaves[2][:, None, None] / 2 * matrix
    a_ = torch.linalg.solve(ahead, torch.eye(SIZE).double() + leaves[2][:, None, None] / 2 * matrix)
    b_ = torch.linalg.solve(ahead, leaves[2][:, None] * into)
    h, total = torch.zeros(ROWS, CHANNELS, SIZE).double(), torch.zeros(()).double()
    for t in range(LENGTH):
        h = torch.einsum("dnm,rdm->rdn", a_, h) + b_ * leaves[0][:, t, :, None]
        total = total + (weight[:, t] * (leaves[1] * h).sum(-1)).sum()
    expected = torch.autograd.grad(total, leaves)
    mine = [t.float().requires_grad_() for t in (x, c, dt)]
    read = torch.view_as_real(mine[1].to(torch.complex64) @ torch.from_numpy(basis).to(torch.complex64))
    tile, empty = (CHANNELS, 1), torch.zeros(ROWS, CHANNELS, SIZE)
    system = [numbers(np.tile(values, tile)), numbers(np.tile(low, tile))[:, None]]
    into = numbers(np.tile(basis.conj().T @ b[:, 0], tile))
    for form in ("chunked", "fft"):
        y, _ = s4.FORMS[form](mine[0], *system, into, read, mine[2], empty, None, "bilinear")
        found = torch.autograd.grad((y * weight.float()).sum(), mine, retain_graph=True)
        for name, actual, wanted in zip(("x", "C", "dt"), found, expected, strict=True):
            near(actual, wanted.numpy(), f"{form}: gradient of {name}")


@pytest.mark.parametrize("name", ["s4", "s4d"])
@pytest.mark.parametrize("length", [1, 64, 500, 2000])
def test_fft_says_what_the_blocks_say(name, length):
    """Whole and in pieces, outputs, states and gradients: all that is kept but causality to the bit."""
    torch.manual_seed(0)
    blocks = mixers.build(name, d_model=8, size=16)
    fft = mixers.build(name, d_model=8, size=16, backend="fft")
    fft.load_state_dict(blocks.state_dict())
    x = torch.randn(2, length, 8)
    y, state = blocks(x)
    first, between = fft(x[:, : length // 3]) if length > 2 else (x[:, :0], None)
    second, after = fft(x[:, first.shape[1] :], between)
    weight = torch.randn(2, length, 8)
    parameters = list(fft.parameters())
    pairs = {"output": (torch.cat([first, second], 1), y), "whole": (fft(x)[0], y), "state": (after["h"], state["h"])}
    for what, (actual, expected) in pairs.items():
        near(actual, expected.detach().numpy(), what)
    found = torch.autograd.grad((fft(x)[0] * weight).sum(), parameters)
    wanted = torch.autograd.grad((y * weight).sum(), list(blocks.parameters()))
    for (what, _), actual, expected in zip(fft.named_parameters(), found, wanted, strict=True):
        scale = max(float(expected.abs().max()), 0.05 * max(float(g.abs().max()) for g in wanted))
        assert (actual - expected).abs().max() <= 5e-5 * scale, f"gradient of {what}"


@pytest.mark.parametrize("name", ["s4", "s4d"])
@pytest.mark.parametrize("length", [4096, 20_000])
def test_long_sequences_stay_near_float64(name, length):
    """Float32 over many blocks, slow and fast steps, against the same parameters in float64."""
    torch.manual_seed(1)
    mixer = mixers.build(name, d_model=4, size=16)
    x = torch.randn(1, length, 4)
    with torch.no_grad():
        y, state = mixer(x)
        expected, wide = mixer.double()(x.double())
    near(y, expected.numpy(), "output")
    near(state["h"], wide["h"].numpy(), "state")


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"init": "legz"}, "did you mean 'leg[st]'"),
        ({"size": 9}, "even"),
        ({"discretisation": "zero"}, "zoh"),
        ({"discretisation": "euler"}, "dt_max"),
        ({"dt_min": 0.2}, "dt_min"),
        ({"dt_min": 0.0}, "dt_min"),
        ({"activation": "gelo"}, "gelu"),
        ({"backend": "chunk"}, "chunked"),
    ],
)
@pytest.mark.parametrize("name", ["s4", "s4d"])
def test_options_that_do_not_fit_are_refused(name, options, words):
    with pytest.raises(UserError, match=words):
        mixers.build(name, d_model=8, **options)


@pytest.mark.parametrize(("name", "own"), [("s4", 4), ("s4d", 3)])
def test_parameters_are_those_of_the_equations(name, own):
    """N numbers for each of w, B and C, and for P in S4; a step and a skip; the output's matrix and bias."""
    mixer = mixers.build(name, d_model=16, size=64)
    assert sum(p.numel() for p in mixer.parameters()) == 16 * (own * 64 + 2) + 16 * 32 + 32
