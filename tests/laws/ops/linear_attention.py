"""Inputs on which the forms of ops.linear_attention must agree: features, which are not negative."""

from torch import Tensor

from tests.laws.cases import Case
from tests.laws.ops.retention import HEADS, KEY, ROWS, VALUE, before, ends, starts
from tests.laws.support import noise


def _case(name: str, length: int, *, starts: Tensor | None = None, lengths: Tensor | None = None) -> Case:
    state = noise(ROWS, HEADS, KEY, VALUE + 1, seed=4)
    state[..., -1] = state[..., -1].abs()
    tensors = {
        "q": 0.1 + noise(ROWS, length, HEADS, KEY, seed=1).abs(),
        "k": 0.1 + noise(ROWS, length, HEADS, KEY, seed=2).abs(),
        "v": noise(ROWS, length, HEADS, VALUE, seed=3),
        "state": state,
    }
    return Case(name, tensors, {"starts": starts, "lengths": lengths})


CASES = [
    *(_case(f"plain-T{n}", n) for n in (1, 2, 63, 65)),
    _case("documents", 150, starts=starts(150)),
    _case("lengths", 150, lengths=ends(150)),
    _case("lengths-documents", 150, starts=before(150), lengths=ends(150)),
]
