"""Inputs on which the forms of ops.convolution must agree."""

import torch
from torch import Tensor

from tests.laws.cases import Case
from tests.laws.support import DEVICE, noise

ROWS, WIDTH = 3, 5


def _case(
    name: str,
    length: int,
    taps: int,
    *,
    starts: Tensor | None = None,
    lengths: Tensor | None = None,
    bias: bool = True,
    out: int | None = None,
    dilation: int = 1,
    silu: bool = False,
) -> Case:
    """out: channels out of a convolution of all channels; None: each for itself."""
    tensors = {
        "x": noise(ROWS, length, WIDTH, seed=1),
        "weight": noise(*((out, WIDTH) if out else (WIDTH,)), taps, seed=2),
        "past": noise(ROWS, (taps - 1) * dilation, WIDTH, seed=4),
    }
    if bias:
        tensors["bias"] = noise(out or WIDTH, seed=3)
    others = {"starts": starts, "lengths": lengths, "dilation": dilation, "silu": silu}
    others |= {} if bias else {"bias": None}
    return Case(name, tensors, others)


def _starts(length: int) -> Tensor:
    """No document begins, one does at once, several do, two of them next to one another."""
    starts = torch.zeros(ROWS, length, dtype=torch.bool, device=DEVICE)
    starts[1, 0] = True
    starts[2, [1, length // 2, length // 2 + 1, length - 1]] = True
    return starts


LENGTHS = torch.tensor([0, 2, 21], device=DEVICE)
DOCUMENTS = _starts(21) & (torch.arange(21, device=DEVICE) < LENGTHS[:, None])

CASES = [
    *(_case(f"plain-T{n}", n, 4) for n in (1, 2, 3, 65)),
    *(_case(f"silu-T{n}", n, 4, silu=True) for n in (1, 3, 65)),
    _case("silu-lengths-documents", 70, 4, silu=True, starts=_starts(70), lengths=torch.tensor([0, 2, 69])),
    _case("silu-three-taps", 21, 3, silu=True, bias=False),
    _case("silu-dilated", 21, 3, dilation=4, silu=True),
    _case("no-bias", 21, 4, bias=False),
    _case("one-tap", 9, 1),
    _case("two-taps", 9, 2),
    _case("documents", 21, 4, starts=_starts(21)),
    _case("documents-no-bias", 21, 3, starts=_starts(21), bias=False),
    _case("lengths", 21, 4, lengths=LENGTHS),
    _case("lengths-documents-one-tap", 21, 1, starts=_starts(21), lengths=LENGTHS),
    _case(
        "lengths-documents",
        21,
        4,
        starts=DOCUMENTS,
        lengths=LENGTHS,
    ),
    _case("dilated", 21, 3, dilation=4),
    _case("dilated-lengths-documents", 21, 3, dilation=2, lengths=LENGTHS, starts=DOCUMENTS),
    _case("full", 21, 3, out=4),
    _case("full-dilated-documents", 21, 3, out=6, dilation=2, starts=_starts(21), bias=False),
]
