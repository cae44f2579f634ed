"""Inputs on which the forms of ops.ttt must agree."""

import torch
from torch import Tensor

from tests.laws.cases import Case
from tests.laws.support import DEVICE, noise

ROWS, HEADS, WIDTH = 3, 2, 8


def _weights(inner: int, seed: int) -> dict[str, Tensor]:
    """Of a linear model (inner = 0) or of an MLP with so many units inside."""
    if not inner:
        return {"1": 0.3 * noise(ROWS, HEADS, WIDTH + 1, WIDTH, seed=seed)}
    first = 0.3 * noise(ROWS, HEADS, WIDTH + 1, inner, seed=seed)
    return {"1": first, "2": 0.3 * noise(ROWS, HEADS, inner + 1, WIDTH, seed=seed + 1)}


def _case(
    name: str, length: int, *, size: int = 16, inner: int = 0, held: bool = False, lengths: Tensor | None = None
) -> Case:
    """held: rows come in with a mini-batch begun, each at another place of it."""
    tensors = {
        "q": noise(ROWS, length, HEADS, WIDTH, seed=1),
        "k": noise(ROWS, length, HEADS, WIDTH, seed=2),
        "v": noise(ROWS, length, HEADS, WIDTH, seed=3),
        "rate": noise(ROWS, length, HEADS, seed=4).sigmoid(),
        "decay": 1 / torch.arange(1.0, size + 1, device=DEVICE) + 0.1 * noise(size, seed=5).abs(),
        "scale": 1 + 0.2 * noise(HEADS, WIDTH, seed=6),
        "shift": 0.2 * noise(HEADS, WIDTH, seed=7),
        **{f"w{i}": w for i, w in _weights(inner, 8).items()},
    }
    place = None
    if held:
        tensors |= {f"g{i}": 0.3 * g for i, g in _weights(inner, 10).items()}
        place = torch.tensor([0, size // 2, size - 1], device=DEVICE)
        for i in _weights(inner, 10):
            tensors[f"g{i}"][0] = 0  # nothing has come yet
    return Case(name, tensors, {"place": place, "lengths": lengths})


LENGTHS = torch.tensor([16, 0, 35], device=DEVICE)

CASES = [
    *(_case(f"linear-T{n}", n) for n in (1, 2, 15, 16, 17, 65)),
    *(_case(f"mlp-T{n}", n, inner=12) for n in (1, 16, 35)),
    _case("mlp-T90-wider", 90, inner=40),
    _case("mlp-large-batches", 70, size=20, inner=33, held=True),
    _case("linear-begun", 35, held=True),
    _case("linear-begun-short", 2, held=True),
    _case("linear-lengths", 35, lengths=LENGTHS),
    _case("linear-begun-lengths", 35, held=True, lengths=LENGTHS),
    _case("linear-small-batches", 21, size=4, held=True),
    _case("linear-batches-of-one", 9, size=1),
    _case("mlp-begun-lengths", 35, inner=12, held=True, lengths=LENGTHS),
    _case("mlp-begun", 18, inner=12, held=True),
]
