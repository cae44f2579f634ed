"""Retention against the paper's equations, written out in float64: 2307.08621 sections 2.1 and 2.2."""

import pytest
import torch
from torch import Tensor

from jogak import mixers
from jogak.mixers import Mixer
from tests.laws.support import close, close_all, noise

WIDTH, HEADS, LENGTH = 32, 4, 150
KEY, VALUE = WIDTH // HEADS, 2 * WIDTH // HEADS


def _matrices(mixer: Mixer) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor]:
    """W_Q, W_K [D D], W_V, W_G [D 2D], W_O [2D D], as the paper multiplies: X W."""
    named = dict(mixer.named_parameters())
    q, k, v, g = named["inner.weight"].double().T.split([WIDTH, WIDTH, 2 * WIDTH, 2 * WIDTH], dim=1)
    return q, k, v, g, named["out.weight"].double().T


def _heads(mixer: Mixer, x: Tensor) -> list[tuple[float, Tensor, Tensor, Tensor]]:
    """Each head's decay, and its Q and K as complex numbers [T K/2] times Theta_n = e^(i n theta), and its V [T V].

    Numbers i and i + K/2 of a head are one complex number. With K times the same e^(i m theta), the score is
    Re(Q conj(K)), which is Q (K conj(Theta))^T of equation 5.
    """
    w_q, w_k, w_v, _, _ = _matrices(mixer)
    theta = 10000.0 ** (-torch.arange(0, KEY, 2).double() / KEY)
    turn = torch.polar(torch.ones(len(x), KEY // 2).double(), torch.arange(len(x)).double()[:, None] * theta)
    found = []
    for head in range(HEADS):
        keys, values = slice(head * KEY, (head + 1) * KEY), slice(head * VALUE, (head + 1) * VALUE)
        parts = [(x @ w[:, keys]).tensor_split(2, dim=1) for w in (w_q, w_k)]
        q, k = (torch.complex(real, imaginary) * turn for real, imaginary in parts)
        found.append((1 - 2.0 ** (-5 - head), q, k, x @ w_v[:, values]))
    return found


def _layer(mixer: Mixer, x: Tensor, retained: list[Tensor]) -> Tensor:
    """Equation 8: (swish(X W_G) * GroupNorm_h(heads)) W_O, of x [T D]; each head is a group at each position."""
    normed = [(y - y.mean(1, keepdim=True)) / y.var(1, unbiased=False, keepdim=True).sqrt() for y in retained]
    gate = x @ _matrices(mixer)[3]
    return (gate * torch.sigmoid(gate) * torch.cat(normed, 1)) @ _matrices(mixer)[4]


def _parallel(mixer: Mixer, x: Tensor) -> Tensor:
    """Equation 5 with the three normalisations of scores of section 2.2."""
    place = torch.arange(len(x))
    distance = place[:, None] - place
    retained = []
    for decay, q, k, v in _heads(mixer, x):
        fading = torch.where(distance >= 0, decay ** distance.clamp_min(0).double(), 0.0)
        fading = fading / fading.sum(1, keepdim=True).sqrt()
        scores = (q @ k.conj().T).real / KEY**0.5 * fading
        scores = scores / scores.sum(1, keepdim=True).abs().clamp_min(1)
        retained.append(scores @ v)
    return _layer(mixer, x, retained)


def _recurrent(mixer: Mixer, x: Tensor) -> Tensor:
    """Equation 6, place by place, without any normalisation."""
    retained = []
    for decay, q, k, v in _heads(mixer, x):
        state, outputs = torch.zeros(KEY // 2, VALUE, dtype=torch.complex128), []
        for t in range(len(x)):
            state = decay * state + k[t].conj()[:, None] * v[t]
            outputs.append((q[t] @ state).real)
        retained.append(torch.stack(outputs))
    return _layer(mixer, x, retained)


@pytest.mark.parametrize("longhand", [_parallel, _recurrent])
def test_the_paper_in_float64(longhand):
    """With nothing added to the variance, the normalisation of scores does not show; angles are float32."""
    mixer = mixers.build("retention", d_model=WIDTH, heads=HEADS, norm_eps=0.0).double()
    x = noise(LENGTH, WIDTH, seed=1).double()
    close(mixer(x[None])[0][0], longhand(mixer, x), "output", tolerance=1e-5)


@pytest.mark.parametrize("backend", ["chunkwise", "parallel", "recurrent"])
def test_gradients_in_float32(backend):
    mixer = mixers.build("retention", d_model=WIDTH, heads=HEADS, norm_eps=0.0, backend=backend)
    named = dict(mixer.named_parameters())
    x = noise(LENGTH, WIDTH, seed=2).requires_grad_()
    weight = noise(LENGTH, WIDTH, seed=3)
    results = []
    for y in (mixer(x[None])[0][0], _parallel(mixer, x.double())):
        gradients = torch.autograd.grad(y, [x, *named.values()], weight.to(y.dtype))
        results.append((y, dict(zip(["x", *named], gradients, strict=True))))
    close(results[0][0], results[1][0], "output", tolerance=1e-4)
    close_all(results[0][1], results[1][1], "gradient", tolerance=1e-4)
