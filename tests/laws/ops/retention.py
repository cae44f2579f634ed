"""Inputs on which the forms of ops.retention must agree."""

import torch
from torch import Tensor

from tests.laws.cases import Case
from tests.laws.support import DEVICE, noise

ROWS, HEADS, KEY, VALUE = 3, 2, 4, 6


def _case(
    name: str,
    length: int,
    *,
    starts: Tensor | None = None,
    lengths: Tensor | None = None,
    decay: bool = True,
    learned: bool = False,
) -> Case:
    tensors = {
        "q": noise(ROWS, length, HEADS, KEY, seed=1),
        "k": noise(ROWS, length, HEADS, KEY, seed=2),
        "v": noise(ROWS, length, HEADS, VALUE, seed=3),
        "state": noise(ROWS, HEADS, KEY, VALUE, seed=4),
    }
    others: dict[str, object] = {"starts": starts, "lengths": lengths}
    rates = torch.tensor([0.9, 1 - 2**-6], device=DEVICE)
    (tensors if learned else others)["decay"] = rates if decay else None
    return Case(name, tensors, others)


def starts(length: int) -> Tensor:
    """No document begins, one does at once, several do, two of them next to one another."""
    found = torch.zeros(ROWS, length, dtype=torch.bool, device=DEVICE)
    found[1, 0] = True
    found[2, [1, length // 2, length // 2 + 1, length - 1]] = True
    return found


def ends(length: int) -> Tensor:
    """Nothing real, a few places, all but one."""
    return torch.tensor([0, 2, length - 1], device=DEVICE)


def before(length: int) -> Tensor:
    """The starts among the real places."""
    return starts(length) & (torch.arange(length, device=DEVICE) < ends(length)[:, None])


CASES = [
    *(_case(f"plain-T{n}", n) for n in (1, 2, 63, 64, 65)),
    _case("chunks", 200),
    _case("no-decay-T1", 1, decay=False),
    _case("no-decay", 130, decay=False),
    _case("learned-decay", 70, learned=True),
    _case("documents-short", 21, starts=starts(21)),
    _case("documents", 150, starts=starts(150)),
    _case("documents-no-decay", 150, starts=starts(150), decay=False),
    _case("lengths", 150, lengths=ends(150)),
    _case("lengths-at-bounds", 150, lengths=torch.tensor([64, 65, 128], device=DEVICE)),
    _case("lengths-no-decay", 150, lengths=ends(150), decay=False),
    _case("lengths-documents", 150, starts=before(150), lengths=ends(150)),
]
