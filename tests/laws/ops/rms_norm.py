"""Inputs on which the forms of ops.rms_norm must agree."""

from tests.laws.cases import Case
from tests.laws.support import noise


def _case(name: str, *shape: int, plus: float = 0.0) -> Case:
    tensors = {"x": noise(*shape, seed=1) * 3, "weight": noise(shape[-1], seed=2)}
    return Case(name, tensors, {"eps": 1e-5, "plus": plus})


CASES = [
    *(_case(f"plain-N{n}", n, 20) for n in (1, 2, 63, 65, 500)),
    _case("plus-one", 3, 21, 33, plus=1.0),
    _case("one-number", 5, 1),
    _case("large", 40, 7, 96),
]
