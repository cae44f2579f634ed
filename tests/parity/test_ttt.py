"""The whole mixer beside a longhand one in float64, token by token, written from the paper without jogak's operations.

Sun et al. 2024 (2407.04620): equations 1 to 4 and sections 2.4 to 2.7; appendix A for what the backbones add. Every
inner gradient comes from autograd. Legend: T time, D model width, H heads, K head width.
"""

import math

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from jogak.mixers.ttt import TTT

WIDTH, HEADS, TIME, PLACES = 32, 4, 39, 16
K = WIDTH // HEADS


def _inner(x: Tensor, model: list[Tensor], scale: Tensor, shift: Tensor) -> Tensor:
    """f(x; W) = x + LN(x W + b), or with a GELU and a second layer between: x [K]."""
    z = x @ model[0][:-1] + model[0][-1]
    if len(model) == 2:
        z = 0.5 * z * (1 + torch.tanh(math.sqrt(2 / math.pi) * (z + 0.044715 * z**3)))
        z = z @ model[1][:-1] + model[1][-1]
    return x + F.layer_norm(z, (K,), scale, shift, 1e-6)


def _turn(x: Tensor, place: int) -> Tensor:
    """Rotary positions within the mini-batch: pairs (i, i + K/2) turned by place * 10000^(-2i/K)."""
    result = x.clone()
    for i in range(K // 2):
        angle = place * 10000 ** (-2 * i / K)
        a, b = x[i], x[i + K // 2]
        result[i] = a * math.cos(angle) - b * math.sin(angle)
        result[i + K // 2] = b * math.cos(angle) + a * math.sin(angle)
    return result


def _short(x: Tensor, weight: Tensor, bias: Tensor, t: int) -> Tensor:
    """The causal convolution's output at t."""
    y = bias.clone()
    for j in range(weight.shape[1]):
        past = t - weight.shape[1] + 1 + j
        if past >= 0:
            y = y + weight[:, j] * x[past]
    return y


def _projected(p: dict[str, Tensor], x: Tensor, *, mamba: bool) -> tuple[list[Tensor], list[Tensor], list[Tensor]]:
    """q, k, v [D] of every place."""
    rows = p["read.weight"].split(WIDTH)
    if not mamba:
        return tuple([w @ token for token in x] for w in rows[:3])  # type: ignore[return-value] (three of them)
    shared = [rows[0] @ token for token in x]
    both = torch.stack(shared)
    (of_q, of_k), (bias_q, bias_k) = p["conv_weight"].split(WIDTH), p["conv_bias"].split(WIDTH)
    q = [_short(both, of_q, bias_q, t) for t in range(len(x))]
    k = [_short(both, of_k, bias_k, t) for t in range(len(x))]
    return q, k, [rows[1] @ token for token in x]


def _head(p: dict[str, Tensor], h: int, q: list[Tensor], k: list[Tensor], v: list[Tensor], x: Tensor, base: float):
    """f(q_t; W_t) of one head at every place."""
    model = [p[name][h] for name in ("weight_1", "weight_2") if name in p]
    scale, shift = p["scale"][h], p["shift"][h]
    sums = [torch.zeros_like(w) for w in model]
    outputs = []
    part = slice(h * K, (h + 1) * K)
    for t in range(len(x)):
        place = t % PLACES
        query, key = _turn(q[t][part], place), _turn(k[t][part], place)
        loss = (_inner(key, model, scale, shift) - v[t][part]).square().sum() / 2
        found = torch.autograd.grad(loss, model, create_graph=True)
        eta = base * torch.sigmoid(p["rate_weight"][h] @ x[t] + p["rate_bias"][h]) / K
        sums = [s + eta * g for s, g in zip(sums, found, strict=True)]
        index = (1 / (place + 1) + p["decay"][place]).clamp_min(0)
        now = [w - index * s for w, s in zip(model, sums, strict=True)]
        outputs.append(_inner(query, now, scale, shift))
        if place == PLACES - 1:
            model, sums = now, [torch.zeros_like(w) for w in model]
    return torch.stack(outputs)


def longhand(p: dict[str, Tensor], x: Tensor, *, base: float, mamba: bool) -> Tensor:
    """x [T D] -> [T D]."""
    q, k, v = _projected(p, x, mamba=mamba)
    y = torch.cat([_head(p, h, q, k, v, x, base) for h in range(HEADS)], dim=1)
    y = F.layer_norm(y, (WIDTH,), p["norm.weight"], p["norm.bias"], 1e-6)
    if mamba:
        y = y * F.gelu(x @ p["read.weight"].split(WIDTH)[2].T, approximate="tanh")
    return y @ p["out.weight"].T


@pytest.mark.parametrize("inner", ["linear", "mlp"])
@pytest.mark.parametrize("mamba", [True, False], ids=["mamba", "transformer"])
def test_outputs_and_gradients_are_those_of_the_paper(inner, mamba):
    torch.manual_seed(3)
    backbone = {} if mamba else {"conv": 0, "gate": False}
    mixer = TTT(WIDTH, HEADS, inner, **backbone)
    with torch.no_grad():
        for parameter in mixer.parameters():
            parameter.add_(0.2 * torch.randn_like(parameter))
    x, weight = torch.randn(TIME, WIDTH), torch.randn(TIME, WIDTH)
    p = {n: t.detach().double().requires_grad_() for n, t in mixer.named_parameters()}
    wide = x.double().requires_grad_()
    expected = longhand(p, wide, base=1.0 if inner == "linear" else 0.1, mamba=mamba)
    (expected * weight).sum().backward()
    x.requires_grad_()
    actual, _ = mixer(x[None])
    (actual[0] * weight).sum().backward()
    largest = max(float(t.grad.abs().max()) for t in p.values() if t.grad is not None)
    _close(actual[0], expected, "y")
    _close(x.grad, wide.grad, "x")
    for name, parameter in mixer.named_parameters():
        _close(parameter.grad, p[name].grad, name, floor=0.05 * largest)


def _close(actual, expected, what, floor=0.0):
    scale = max(float(expected.abs().max()), floor)
    error = float((actual.double() - expected).abs().max())
    assert error <= 1e-4 * scale, f"{what}: differs by {error:.3g} of {scale:.3g}"
