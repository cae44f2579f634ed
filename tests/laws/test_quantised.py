"""Law 8 for matrices in fewer bits: the form without the matrix in memory says what the equation says."""

import pytest
import torch

from jogak.layers.linear import Linear
from jogak.ops import quantised
from jogak.ops.quantised import Packed
from tests.laws.poison import poisoned
from tests.laws.support import close, noise

KINDS = ["bfloat16", "int8", "int4"]
SHAPES = [(1, 32), (7, 96), (33, 64), (130, 768)]  # N, K
ROWS = [1, 2, 3, 4, 5, 7, 16, 17]


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("shape", SHAPES, ids=str)
@pytest.mark.parametrize("rows", ROWS)
def test_fused_equals_reference(kind, shape, rows):
    packed = quantised.pack(noise(*shape, seed=1, device="cpu"), kind)
    x, bias = noise(rows, shape[1], seed=2, device="cpu"), noise(shape[0], seed=3, device="cpu")
    expected = quantised.reference(x.double(), packed, kind) + bias
    with poisoned():
        y = quantised.fused(x, packed, kind, bias)
    # With int4, x is rounded to 16 bits in each group; one sum that comes to little is no scale for that.
    lengths = [float(t.norm(dim=1).max()) for t in (x, quantised.unpack(packed, kind))]
    tolerance, scale = (1e-4, lengths[0] * lengths[1] / 4) if kind == "int4" else (2e-5, 0.0)
    close(y, expected, f"{kind} of {rows} rows", tolerance=tolerance, scale=scale)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("shape", SHAPES, ids=str)
def test_unpacked_equals_reference(kind, shape):
    packed = quantised.pack(noise(*shape, seed=1, device="cpu"), kind)
    x = noise(40, shape[1], seed=2, device="cpu")
    tolerance = 1e-2 if kind == "bfloat16" else 2e-5  # with bfloat16 x is rounded too
    expected = quantised.reference(x, packed, kind)
    close(quantised.unpacked(x, packed, kind), expected, kind, tolerance=tolerance)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("rows", [1, 3, 8])
def test_plain_matrices_of_few_rows(dtype, rows):
    """`Linear` without gradients, whatever it takes the product by, beside its equation in float64."""
    layer = Linear(512, 1024).to(dtype)
    x = noise(1, rows, 512, seed=2, device="cpu").to(dtype)
    with torch.no_grad():
        expected = x.double() @ layer.weight.double().T + layer.bias.double()
    with torch.no_grad():
        y = layer(x)
    assert y.dtype == dtype
    close(y, expected, "a layer", tolerance=2e-5 if dtype == torch.float32 else 1e-2)


def test_plain_matrices_are_read_where_they_are_after_a_change():
    """The arrays over them are made once: not for numbers that move, or change in place."""
    layer, x = Linear(512, 1024), noise(1, 512, seed=1, device="cpu")
    with torch.no_grad():
        layer(x)
        layer.weight.mul_(2)
        layer.bias.zero_()
        close(layer(x), x @ layer.weight.T, "changed in place")
        layer.weight = torch.nn.Parameter(noise(1024, 512, seed=3, device="cpu"))
        close(layer(x), x @ layer.weight.T, "moved")


def test_a_transposed_matrix_is_laid_out_once_it_is_read_at_every_step():
    """As GPT-2's checkpoints have them; training goes on with it as before."""
    layer, x = Linear(512, 1024), noise(1, 512, seed=1, device="cpu")
    layer.weight.data = noise(512, 1024, seed=2, device="cpu").t()
    expected, weight = layer(x).detach(), layer.weight
    with torch.inference_mode():
        layer(x.expand(40, 512))
        assert not layer.weight.is_contiguous()
        close(layer(x), expected, "laid out")
    assert layer.weight is weight
    assert weight.is_contiguous()
    layer(x).sum().backward()
    close(weight.grad, x.expand(1024, 512), "its gradient")


def test_int8_is_within_half_a_step():
    weight = noise(20, 96, seed=1, device="cpu")
    packed = quantised.pack(weight, "int8")
    off = (quantised.unpack(packed, "int8") - weight).abs()
    assert (off <= packed.scales.unsqueeze(1) * 0.5001).all()
    assert packed.matrix.abs().amax(1).eq(127).all()


def test_int4_is_no_worse_than_the_range_cut_in_fifteen():
    """The textbook's scale and offset, which the search begins with."""
    weight = noise(50, 128, seed=1, device="cpu")
    groups = weight.unflatten(1, (-1, quantised.GROUP))
    low, high = groups.amin(2, keepdim=True), groups.amax(2, keepdim=True)
    scale = (high - low) / 15
    plain = ((groups - low) / scale).round() * scale + low
    off = quantised.unpack(quantised.pack(weight, "int4"), "int4") - weight
    assert off.square().sum() < 0.9 * (plain - groups).square().sum()


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("number", [0.0, 1.0, -3.0])
def test_one_number_everywhere_stays(kind, number):
    weight = torch.full((4, 64), number)
    close(quantised.unpack(quantised.pack(weight, kind), kind), weight, kind, tolerance=1e-6, scale=1e-6)


def test_halves_lie_where_the_docs_say():
    """Byte i of a group: its number i in the low half, i + 16 in the high one."""
    packed = Packed(torch.tensor([[0x21] + 15 * [0]], dtype=torch.uint8), torch.tensor([[[2.0, 0.0]]]).bfloat16())
    numbers = quantised.unpack(packed, "int4")
    assert numbers[0, 0] == 2
    assert numbers[0, 16] == 4
    assert numbers.count_nonzero() == 2
