"""Inputs on which the forms of ops.cross_entropy must agree."""

import torch

from jogak.ops import cross_entropy
from tests.laws.cases import Case
from tests.laws.support import DEVICE, noise

WIDTH = 16


def _case(name: str, positions: int, vocab: int, smoothing: float) -> Case:
    """Targets all over the vocabulary."""
    tensors = {"hidden": noise(positions, WIDTH, seed=1), "weight": noise(vocab, WIDTH, seed=2)}
    targets = (torch.arange(positions, device=DEVICE) * 7 + 3) % vocab
    return Case(name, tensors, {"targets": targets, "smoothing": smoothing}, sums=True)


CHUNK_ROWS = cross_entropy.CHUNK // 40000 // cross_entropy.STEP * cross_entropy.STEP or cross_entropy.STEP

CASES = [
    *(_case(f"plain-N{n}", n, 50, 0.0) for n in (1, 2, 63, 65, 500)),
    *(_case(f"smoothed-N{n}", n, 50, 0.1) for n in (1, 2, 63, 65, 500)),
    _case("one-unit", 7, 1, 0.1),
    _case("several-chunks", CHUNK_ROWS + 70, 40000, 0.1),  # the last one is not full
]
