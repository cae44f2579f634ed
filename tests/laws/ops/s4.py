"""Inputs on which the forms of ops.s4 must agree."""

import torch

from tests.laws.cases import Case
from tests.laws.ops import s4d
from tests.laws.support import DEVICE, noise


def _case(name: str, length: int, *, method: str = "bilinear", rank: int = 1, lengths: list[int] | None = None) -> Case:
    x = noise(s4d.ROWS, length, s4d.WIDTH, seed=1)
    ends = None if lengths is None else torch.tensor(lengths, device=DEVICE)
    if ends is not None:  # what stands behind a row's end is zero, which its caller sees to
        x = x.masked_fill((torch.arange(length, device=DEVICE) >= ends[:, None])[..., None], 0)
    tensors = {
        "x": x,
        **s4d.system(),
        "p": noise(s4d.WIDTH, rank, s4d.MODES, 2, seed=6),
        "state": noise(s4d.ROWS, s4d.WIDTH, 2 * s4d.MODES, seed=5),
    }
    return Case(name, tensors, {"lengths": ends, "method": method})


CASES = [
    *(_case(f"T{n}", n) for n in (1, 2, 3, 63, 64, 65, 500)),
    *(_case(method, 70, method=method) for method in ("zoh", "backward_euler")),
    _case("rank-two", 130, rank=2),
    _case("rank-two-zoh", 130, rank=2, method="zoh"),
    _case("lengths", 65, lengths=[0, 64, 65]),
    _case("lengths-three-blocks", 192, lengths=[1, 128, 191]),
]
