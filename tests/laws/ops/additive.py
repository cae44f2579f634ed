"""Inputs on which the forms of ops.additive must agree."""

import torch

from jogak.ops.additive import HELD
from jogak.ops.attention import Visible
from tests.laws.cases import Case
from tests.laws.support import DEVICE, noise

WIDTH = 8


def _case(name: str, queries: int, keys: int, width: int = WIDTH, **seen: object) -> Case:
    tensors = {
        "q": noise(2, queries, width, seed=1),
        "k": noise(2, keys, width, seed=2),
        "v": noise(2, keys, 5, seed=3),
        "score": noise(width, seed=4) * width**-0.5,  # as it is drawn: scores near 1
    }
    return Case(name, tensors, {"visible": Visible(queries, keys, **seen)})


def _mask(keys: int) -> torch.Tensor:
    """One row with holes, one all padding."""
    place = torch.arange(keys, device=DEVICE)
    return torch.stack([place % 3 != 1, place < 0])


TILED = HELD // (2 * 64 * 512)  # queries in a tile of this many keys

CASES = [
    *(_case(f"T{n}", n, 65) for n in (1, 2, 65)),
    _case("one-key", 9, 1),
    _case("mask", 21, 30, mask=_mask(30)),
    _case(
        "segments",
        21,
        30,
        q_segments=torch.arange(21, device=DEVICE).expand(2, -1) // 8,
        k_segments=torch.arange(30, device=DEVICE).expand(2, -1) // 11,
    ),
    _case("several-tiles", 2 * TILED + 3, 64, 512, mask=_mask(64)),
]
