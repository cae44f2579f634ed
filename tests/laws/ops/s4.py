"""Inputs on which the forms of ops.s4 must agree."""

from tests.laws.cases import Case
from tests.laws.ops import s4d
from tests.laws.support import noise


def _case(
    name: str,
    length: int,
    *,
    method: str = "bilinear",
    rank: int = 1,
    lengths: list[int] | None = None,
    slower: float = 1.0,
) -> Case:
    x, ends = s4d.inputs(length, lengths)
    tensors = {
        "x": x,
        **s4d.system(slower),
        "p": noise(s4d.WIDTH, rank, s4d.MODES, 2, seed=6),
        "state": noise(s4d.ROWS, s4d.WIDTH, 2 * s4d.MODES, seed=5),
    }
    return Case(name, tensors, {"lengths": ends, "method": method})


CASES = [
    *(_case(f"T{n}", n) for n in (1, 2, 3, 63, 64, 65, 500)),
    *(_case(method, 70, method=method) for method in ("zoh", "backward_euler")),
    _case("euler", 70, method="euler", slower=100),
    _case("rank-two", 130, rank=2),
    _case("rank-two-zoh", 130, rank=2, method="zoh"),
    _case("lengths", 65, lengths=[0, 64, 65]),
    _case("lengths-three-blocks", 192, lengths=[1, 128, 191]),
]
