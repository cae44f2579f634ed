"""Inputs on which the forms of ops.ssd must agree."""

import torch
import torch.nn.functional as F
from torch import Tensor

from jogak.ops.selective_scan import Rows
from tests.laws.cases import Case
from tests.laws.support import DEVICE, noise

BATCH = 3


def _case(
    name: str,
    length: int,
    heads: int = 4,
    groups: int = 2,
    *,
    starts: Tensor | None = None,
    lengths: Tensor | None = None,
    step: float = 1.0,
) -> Case:
    """Steps around 0.7 `step`, heads of width 3 with states of 5."""
    tensors = {
        "x": noise(BATCH, length, heads, 3, seed=1),
        "dt": step * F.softplus(noise(BATCH, length, heads, seed=2)),
        "a": -torch.arange(1.0, heads + 1, device=DEVICE),
        "b": noise(BATCH, length, groups, 5, seed=4),
        "c": noise(BATCH, length, groups, 5, seed=5),
        "d": noise(heads, seed=6),
        "h0": noise(BATCH, heads, 3, 5, seed=7),
    }
    return Case(name, tensors, {"rows": Rows(starts, lengths)})


def _starts(length: int) -> Tensor:
    """No document begins, one does at once, several do, two of them next to one another."""
    starts = torch.zeros(BATCH, length, dtype=torch.bool, device=DEVICE)
    starts[1, 0] = True
    starts[2, [1, length // 2, length // 2 + 1, length - 1]] = True
    return starts


LENGTHS = torch.tensor([0, 2, 69], device=DEVICE)

CASES = [
    *(_case(f"T{n}", n) for n in (1, 2, 63, 65, 200)),
    _case("long-memory", 300, step=0.02),
    _case("large-steps", 200, step=100.0),
    _case("one-group", 70, groups=1),
    _case("a-group-a-head", 70, groups=4),
    _case("one-start", 1, starts=torch.tensor([[True], [False], [True]], device=DEVICE)),
    _case("documents", 140, starts=_starts(140)),
    _case("lengths", 70, lengths=LENGTHS),
    _case(
        "lengths-documents",
        70,
        starts=_starts(70) & (torch.arange(70, device=DEVICE) < LENGTHS[:, None]),
        lengths=LENGTHS,
    ),
]
