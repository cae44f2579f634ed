"""Inputs on which the forms of ops.recurrent must agree."""

import torch
from torch import Tensor

from jogak.ops.recurrent import GATES, Kind
from tests.laws.cases import Case
from tests.laws.support import DEVICE, noise

ROWS, WIDTH, HIDDEN = 3, 5, 7
LENGTHS = torch.tensor([0, 2, 21], device=DEVICE)


def _case(kind: Kind, name: str, length: int, lengths: Tensor | None = None) -> Case:
    gates = GATES[kind]
    tensors = {
        "x": noise(ROWS, length, WIDTH, seed=1),
        "weight": noise(gates * HIDDEN, WIDTH, seed=2) * 0.4,
        "recurrent": noise(gates * HIDDEN, HIDDEN, seed=3) * 0.3,
        "bias": noise(gates * HIDDEN, seed=4),
        "recurrent_bias": noise(gates * HIDDEN, seed=5),
        "h": noise(ROWS, HIDDEN, seed=6).tanh(),
    }
    if kind == "lstm":
        tensors["c"] = noise(ROWS, HIDDEN, seed=7)
    others = {"lengths": lengths, "kind": kind, **({} if kind == "lstm" else {"c": None})}
    return Case(f"{kind}-{name}", tensors, others)


CASES = [
    case
    for kind in GATES
    for case in (*(_case(kind, f"T{n}", n) for n in (1, 2, 65)), _case(kind, "lengths", 21, LENGTHS))
]
