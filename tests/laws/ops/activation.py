"""Inputs on which the forms of ops.activation must agree."""

import torch

from jogak.ops.activation import PLAIN
from tests.laws.cases import Case
from tests.laws.support import DEVICE, noise


def _case(kind: str, gated: bool, *shape: int) -> Case:
    name = f"{kind}{'-gated' if gated else ''}-{'x'.join(map(str, shape))}"
    return Case(name, {"x": noise(*shape, seed=1) * 3}, {"kind": kind, "gated": gated})


def _far(kind: str) -> Case:
    """From where it is zero to where it is x."""
    return Case(f"{kind}-far", {"x": torch.linspace(-200, 200, 1601, device=DEVICE)}, {"kind": kind})


CASES = [
    *(_case(kind, gated, n, 14) for kind in PLAIN for gated in (False, True) for n in (1, 65)),
    *(_case(kind, True, 3, 40, 256) for kind in PLAIN),
    _case("gelu", False, 500, 34),
    *(_far(kind) for kind in PLAIN),
]
