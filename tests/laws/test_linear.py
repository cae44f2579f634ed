"""Products of many rows: gradients of gradients, frozen weights, and where the layer takes which form (see ops/)."""

import pytest
import torch

from jogak.layers.linear import Linear
from jogak.ops import linear
from tests.laws.support import close, noise

pytestmark = pytest.mark.skipif(not linear.available(), reason="torch has no oneDNN here")


def given(rows, places, width, outputs, *, bias):
    x = noise(rows, places, width, seed=1, device="cpu").requires_grad_()
    weight = noise(outputs, width, seed=2, device="cpu").requires_grad_()
    return x, weight, noise(outputs, seed=3, device="cpu").requires_grad_() if bias else None


def test_gradients_of_gradients():
    x, weight, bias = given(2, 5, 16, 8, bias=True)
    found = []
    for form in (linear.reference, linear.onednn):
        (slope,) = torch.autograd.grad(form(x, weight, bias).tanh().sum(), x, create_graph=True)
        found.append(torch.autograd.grad(slope.square().sum(), (x, weight, bias)))
    for one, other in zip(*found, strict=True):
        close(one, other, "a gradient of a gradient")


def test_frozen_weights_and_transposed_inputs():
    x, weight, bias = given(4, 6, 32, 16, bias=True)
    y = linear.onednn(x.transpose(0, 1), weight.detach(), bias.detach())
    y.sum().backward()
    close(y, torch.nn.functional.linear(x, weight, bias).transpose(0, 1), "of a transposed input")
    close(x.grad, weight.detach().sum(0).expand_as(x), "of a frozen weight")


def test_the_layer_takes_it_where_the_maker_of_the_processor_says_so(monkeypatch):
    taken = []
    monkeypatch.setattr(linear, "found", lambda: True)
    monkeypatch.setattr(linear, "onednn", lambda *given: taken.append(1) or linear.reference(*given))
    layer, many, few = Linear(256, 512), torch.randn(2, 128, 256), torch.randn(1, 2, 256)
    layer(few)
    layer(many.double().float().bfloat16().float()[:, :1])
    assert not taken
    layer(many)
    with torch.autocast("cpu", torch.bfloat16):
        layer(many)
    layer.double()(many.double())
    assert len(taken) == 1
