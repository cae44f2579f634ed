"""Inputs on which the forms of ops.scan must agree; complex and matrix-valued ones are in tests/unit/ops."""

import torch
from torch import Tensor

from tests.laws.cases import Case
from tests.laws.support import DEVICE, noise

ROWS, WIDTH = 3, 5


def _case(name: str, length: int, a: Tensor | None = None, width: tuple[int, ...] = (WIDTH,)) -> Case:
    """Decays between 0 and 1, unless a is given."""
    decays = torch.sigmoid(noise(ROWS, length, *width, seed=1)) if a is None else a
    b, h0 = noise(ROWS, length, *width, seed=2), noise(ROWS, *width, seed=3)
    return Case(name, {"a": decays, "b": b, "h0": h0})


def _with_zeros(length: int) -> Tensor:
    """Starts of documents, two next to one another, one at the first place and one at the last."""
    a = torch.sigmoid(noise(ROWS, length, WIDTH, seed=4))
    a[0, [0, length // 2, length // 2 + 1, length - 1]] = 0
    a[1, :, 2] = 0
    return a


def _tiny(length: int) -> Tensor:
    """Products of neighbours are less than the smallest number; some grow again."""
    a = torch.full((ROWS, length, WIDTH), 1e-30, device=DEVICE)
    a[:, ::7] = 1.5
    a[1] = -a[1]
    return a


CASES = [
    *(_case(f"T{n}", n) for n in (1, 2, 3, 31, 32, 33, 65, 500)),
    _case("wide", 40, width=(150,)),
    _case("two-dimensions", 9, width=(3, 4)),
    _case("zeros", 70, _with_zeros(70)),
    _case("tiny", 70, _tiny(70)),
    _case("above-one", 33, 1.05 + 0 * noise(ROWS, 33, WIDTH, seed=0)),
    _case("scalar", 37, torch.sigmoid(noise(ROWS, 37, 1, seed=5))),
    _case("constant", 37, torch.sigmoid(noise(1, 1, WIDTH, seed=6))),
]
