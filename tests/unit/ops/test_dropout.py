"""Dropout from random bytes: the right rate, the exact expectation, one mask for both passes."""

import pytest
import torch
import torch.nn.functional as F

from jogak.layers.dropout import Dropout
from jogak.ops.dropout import dropout, from_bytes

SIZE = (1000, 1003)  # no multiple of the eight elements that share a word


@pytest.mark.parametrize("p", [0.05, 0.1, 0.3, 0.5, 0.9])
def test_it_drops_p_and_keeps_the_mean(p):
    torch.manual_seed(0)
    y = from_bytes(torch.ones(SIZE), p)
    kept = 1 - round(256 * p) / 256
    assert float((y != 0).float().mean()) == pytest.approx(kept, abs=0.002)
    assert sorted(y.unique().tolist()) == pytest.approx([0, 1 / kept])
    assert float(y.mean()) == pytest.approx(1, abs=0.01)


def test_elements_of_one_word_are_independent():
    torch.manual_seed(0)
    kept = (from_bytes(torch.ones(200_000, 8), 0.5) != 0).float()
    correlation = torch.corrcoef(kept.T) - torch.eye(8)
    assert float(correlation.abs().max()) < 0.02


def test_the_gradient_passes_where_the_value_did():
    torch.manual_seed(0)
    x = torch.randn(64, 33, requires_grad=True)
    y = from_bytes(x, 0.3)
    y.sum().backward()
    torch.testing.assert_close(x.grad * x.detach(), y.detach())


def test_p_too_small_for_a_byte_is_not_rounded_away():
    torch.manual_seed(0)
    dropped = float((dropout(torch.ones(3000, 1000), 0.001) == 0).float().mean())
    assert dropped == pytest.approx(0.001, rel=0.2)


def test_the_seed_decides():
    x = torch.randn(77)
    masks = []
    for seed in (1, 1, 2):
        torch.manual_seed(seed)
        masks.append(dropout(x, 0.5))
    assert torch.equal(masks[0], masks[1])
    assert not torch.equal(masks[0], masks[2])


def test_the_layer_rests_outside_training():
    layer, x = Dropout(0.5), torch.randn(100)
    assert not torch.equal(layer.train()(x), x)
    assert layer.eval()(x) is x
    assert F.dropout(x, 0.0, training=True).equal(Dropout(0.0).train()(x))
