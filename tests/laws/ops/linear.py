"""Inputs on which the forms of ops.linear must agree."""

from tests.laws.cases import Case
from tests.laws.support import noise


def _case(name: str, *shape: int, outputs: int, bias: bool = True) -> Case:
    tensors = {"x": noise(*shape, seed=1), "weight": noise(outputs, shape[-1], seed=2)}
    if bias:
        tensors["bias"] = noise(outputs, seed=3)
    return Case(name, tensors, {} if bias else {"bias": None})


CASES = [
    _case("one-place", 1, 16, outputs=24),
    _case("rows", 3, 40, 64, outputs=65),
    _case("without-bias", 2, 7, 33, outputs=8, bias=False),
    _case("one-output", 2, 7, 33, outputs=1),
    _case("large", 4, 64, 256, outputs=512),
]
