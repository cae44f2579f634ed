"""Inputs on which the forms of ops.selective_scan must agree."""

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
    width: int = 6,
    states: int = 4,
    *,
    gate: bool = True,
    starts: Tensor | None = None,
    lengths: Tensor | None = None,
    step: float = 1.0,
    raw: float | None = None,
    closed: float = 0.0,
) -> Case:
    """Steps around 0.7 `step`, and rates from -1 to -N. raw: steps are given as numbers of that size, with a bias.

    closed: what is taken off the gates.
    """
    rates = -torch.arange(1.0, states + 1, device=DEVICE).expand(width, states)
    tensors = {
        "x": noise(BATCH, length, width, seed=1),
        "dt": step * F.softplus(noise(BATCH, length, width, seed=2)),
        "a": rates * torch.exp(0.1 * noise(width, states, seed=3)),
        "b": noise(BATCH, length, states, seed=4),
        "c": noise(BATCH, length, states, seed=5),
        "d": noise(width, seed=6),
        "h0": noise(BATCH, states, width, seed=7),
    }
    if gate:
        tensors["z"] = noise(BATCH, length, width, seed=8) - closed
    if raw is not None:
        tensors |= {"dt": raw * noise(BATCH, length, width, seed=2), "bias": raw * noise(width, seed=9) - 3}
    return Case(name, tensors, {"rows": Rows(starts, lengths), **({} if gate else {"z": None})})


def _starts(length: int) -> Tensor:
    """No document begins, one does at once, several do, two of them next to one another."""
    starts = torch.zeros(BATCH, length, dtype=torch.bool, device=DEVICE)
    starts[1, 0] = True
    starts[2, [1, length // 2, length // 2 + 1, length - 1]] = True
    return starts


LENGTHS = torch.tensor([0, 2, 69], device=DEVICE)

CASES = [
    *(_case(f"T{n}", n) for n in (1, 2, 31, 33, 65, 129)),
    _case("long-memory", 300, step=0.02),
    _case("no-gate", 40, gate=False),
    _case("no-gate-one", 1, gate=False),
    _case("wide", 40, width=70),
    _case("block", 33, width=64, states=16),
    _case("one-state", 33, states=1),
    _case("large-steps", 40, step=100.0),
    _case("closed-gates", 40, closed=100.0),
    *(_case(f"raw-steps-T{n}", n, width=70, raw=1.0) for n in (1, 65)),
    _case("raw-steps-far-out", 40, raw=60.0),
    _case("raw-steps-documents-no-gate", 70, raw=1.0, gate=False, starts=_starts(70)),
    _case("raw-steps-lengths", 70, raw=1.0, lengths=LENGTHS),
    _case("documents", 70, starts=_starts(70)),
    _case("documents-wide-no-gate", 40, width=130, gate=False, starts=_starts(40)),
    _case("lengths", 70, lengths=LENGTHS),
    _case(
        "lengths-documents",
        70,
        starts=_starts(70) & (torch.arange(70, device=DEVICE) < LENGTHS[:, None]),
        lengths=LENGTHS,
    ),
]
