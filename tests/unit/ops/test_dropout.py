"""Dropout from random bytes and from hashes: the right rate, the exact expectation, one mask for both passes."""

import pytest
import torch
import torch.nn.functional as F

from jogak.layers.dropout import Dropout
from jogak.ops.dropout import dropout, from_bytes, hashed

SIZE = (1000, 1003)  # no multiple of the eight elements that share a word


@pytest.mark.parametrize("p", [0.05, 0.1, 0.3, 0.5, 0.9])
@pytest.mark.parametrize(("form", "rounded"), [(from_bytes, 256), (hashed, 2**32)])
def test_it_drops_p_and_keeps_the_mean(form, rounded, p):
    torch.manual_seed(0)
    y = form(torch.ones(SIZE), p)
    kept = 1 - round(rounded * p) / rounded
    assert float((y != 0).float().mean()) == pytest.approx(kept, abs=0.002)
    assert sorted(y.unique().tolist()) == pytest.approx([0, 1 / kept])
    assert float(y.mean()) == pytest.approx(1, abs=0.01)


def test_elements_of_one_word_are_independent():
    torch.manual_seed(0)
    kept = (from_bytes(torch.ones(200_000, 8), 0.5) != 0).float()
    correlation = torch.corrcoef(kept.T) - torch.eye(8)
    assert float(correlation.abs().max()) < 0.02


def test_hashes_are_independent_of_their_neighbours_and_of_the_next_call():
    torch.manual_seed(0)
    first, second = ((hashed(torch.ones(1 << 20), 0.5) != 0).float() * 2 - 1 for _ in range(2))
    noise = 5 / (1 << 10)  # five standard deviations of a mean of 2^20 signs
    for shift in (1, 2, 3, 7, 8, 64, 256, 1024, 4000, 1 << 13):
        assert abs(float((first[shift:] * first[:-shift]).mean())) < noise * 1.01, shift
    assert abs(float((first * second).mean())) < noise


def test_seeds_that_lie_close_draw_masks_that_do_not():
    masks = []
    for seed in range(8):
        torch.manual_seed(seed)
        masks.append((hashed(torch.ones(1 << 16), 0.5) != 0).float())
    correlation = torch.corrcoef(torch.stack(masks)) - torch.eye(8)
    assert float(correlation.abs().max()) < 5 / (1 << 8)


@pytest.mark.parametrize("form", [from_bytes, hashed])
def test_the_gradient_passes_where_the_value_did(form):
    torch.manual_seed(0)
    x = torch.randn(64, 33, requires_grad=True)
    y = form(x, 0.3)
    y.sum().backward()
    torch.testing.assert_close(x.grad * x.detach(), y.detach())


@pytest.mark.parametrize("size", [(1,), (8193,), (3, 5, 257), (0, 4)])
def test_what_it_is_added_to_gets_the_gradient_whole(size):
    x, onto = torch.randn(size, requires_grad=True), torch.randn(size, requires_grad=True)
    torch.manual_seed(1)
    alone = hashed(x.detach(), 0.4)
    torch.manual_seed(1)
    y = hashed(x, 0.4, onto)
    torch.testing.assert_close(y.detach(), onto.detach() + alone)
    grad = torch.randn(size)
    y.backward(grad)
    assert torch.equal(onto.grad, grad)
    torch.testing.assert_close(x.grad, torch.where(alone == 0, 0, grad / 0.6))


def test_the_mask_is_the_same_for_every_number_of_threads():
    x, threads, masks = torch.ones(300, 1000), torch.get_num_threads(), []
    for count in (1, 2, 3):
        torch.set_num_threads(count)
        torch.manual_seed(0)
        masks.append(hashed(x, 0.5))
    torch.set_num_threads(threads)
    assert torch.equal(masks[0], masks[1])
    assert torch.equal(masks[0], masks[2])


def test_columns_are_read_where_they_stand():
    x = torch.randn(40, 50)
    torch.manual_seed(0)
    y = hashed(x.T, 0.5)
    torch.manual_seed(0)
    assert torch.equal(y, hashed(x.T.contiguous(), 0.5))


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
