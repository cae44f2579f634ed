"""Inputs on which the forms of ops.s4d must agree."""

import torch
from torch import Tensor

from tests.laws.cases import Case
from tests.laws.support import DEVICE, noise

ROWS, WIDTH, MODES = 3, 5, 4


def system(slower: float = 1.0) -> dict[str, Tensor]:
    """Channels with steps from slow to fast, modes that turn and fade at different rates."""
    decay = 0.2 + torch.arange(MODES, device=DEVICE).expand(WIDTH, MODES) / 2
    turning = noise(WIDTH, MODES, seed=2) + 6 * torch.arange(MODES, device=DEVICE)
    return {
        "w": torch.stack([-decay, turning], -1),
        "b": noise(WIDTH, MODES, 2, seed=3),
        "c": noise(WIDTH, MODES, 2, seed=4),
        "dt": 10 ** torch.linspace(-3, -1, WIDTH, device=DEVICE) / slower,
    }


def inputs(length: int, lengths: list[int] | None) -> tuple[Tensor, Tensor | None]:
    """x [ROWS length WIDTH], zero behind the ends of its rows, which is what a caller sees to; and the ends."""
    x = noise(ROWS, length, WIDTH, seed=1)
    if lengths is None:
        return x, None
    ends = torch.tensor(lengths, device=DEVICE)
    return x.masked_fill((torch.arange(length, device=DEVICE) >= ends[:, None])[..., None], 0), ends


def _case(
    name: str,
    length: int,
    *,
    method: str = "zoh",
    lengths: list[int] | None = None,
    fresh: bool = False,
    slower: float = 1.0,
) -> Case:
    x, ends = inputs(length, lengths)
    state = noise(ROWS, WIDTH, 2 * MODES, seed=5) * (0 if fresh else 1)
    return Case(name, {"x": x, **system(slower), "state": state}, {"lengths": ends, "method": method})


CASES = [
    *(_case(f"T{n}", n) for n in (1, 2, 3, 63, 64, 65, 500)),
    _case("fresh", 65, fresh=True),
    *(_case(method, 70, method=method) for method in ("bilinear", "backward_euler")),
    _case("euler", 70, method="euler", slower=100),
    _case("lengths", 65, lengths=[0, 64, 65]),
    _case("lengths-three-blocks", 192, lengths=[1, 128, 191]),
]
