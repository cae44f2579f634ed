"""What the laws of operations do not reach: x as part of wider rows, as a projection of two things gives it."""

import pytest
import torch

from jogak.ops import convolution
from tests.laws.support import close_all, noise


@pytest.mark.parametrize("part", [0, 1])
def test_part_of_wider_rows_is_read_where_it_lies(part: int) -> None:
    width, taps = 150, 4
    both, past = noise(2, 70, 2 * width, seed=1), noise(2, taps - 1, width, seed=2)
    weight, bias, dy = noise(width, taps, seed=3), noise(width, seed=4), noise(2, 70, width, seed=5)
    found = []
    for change in (lambda x: x, lambda x: x.contiguous()):
        leaf = both.clone().requires_grad_()
        x = change(leaf.chunk(2, dim=2)[part])
        assert x.is_contiguous() == bool(found)
        y, left = convolution.fused(x, weight, bias, past, None, None, silu=True)
        found.append({"y": y, "left": left, "gradient": torch.autograd.grad(y, leaf, dy)[0]})
    close_all(found[0], found[1], "strided and dense", tolerance=0)
