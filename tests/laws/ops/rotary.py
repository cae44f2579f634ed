"""Inputs on which the forms of ops.rotary must agree."""

import torch
from torch import Tensor

from tests.laws.cases import Case
from tests.laws.support import DEVICE, noise


def _case(
    name: str,
    rows: int,
    length: int,
    heads: int,
    width: int,
    *,
    turned: int,
    apart: bool = False,
    parts: tuple[int, ...] = (),
) -> Case:
    """apart: every row has positions of its own."""
    positions = torch.arange(length, device=DEVICE).expand(rows if apart else 1, length)
    if apart:
        positions = positions + 7 * torch.arange(rows, device=DEVICE).unsqueeze(1)
    angles: Tensor = positions.unsqueeze(-1) * torch.logspace(0, -3, turned // 2, device=DEVICE)
    return Case(
        name,
        {"x": noise(rows, length, heads, width, seed=1)},
        {"cos": angles.cos() * 1.1, "sin": angles.sin() * 1.1, "parts": parts},
    )


CASES = [
    *(_case(f"plain-T{n}", 2, n, 3, 16, turned=16) for n in (1, 2, 63, 65, 500)),
    _case("rows-apart", 3, 21, 2, 10, turned=10, apart=True),
    _case("a-part", 3, 21, 2, 10, turned=4),
    _case("queries-and-keys", 2, 21, 5, 12, turned=8, parts=(3, 2)),
    _case("large", 4, 64, 4, 32, turned=32),
]
