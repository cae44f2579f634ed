"""No compiled loop gathers what lies side by side.

numba lets an index count from the end where it cannot prove that it is not negative. Such a loop becomes one of vector
instructions all the same, but each of its loads is then a gather, several times slower: slices are taken first.
"""

import re
from collections.abc import Callable
from importlib import import_module
from typing import Any

import numba
import numpy as np
import pytest
import torch

from jogak.ops._compiled import Kernel
from tests.laws.cases import operations

TURNS = {"ttt"}  # what it turns on its side cannot be read in one piece


def _gathers(function: Callable[..., Any], signature: tuple[Any, ...], *, reorder: bool = False) -> int:
    allowed = {"contract", "reassoc", "nsz"} if reorder else {"contract"}
    compiled: Any = numba.njit(nogil=True, fastmath=allowed, error_model="numpy")(function)
    compiled.compile(signature)
    code = compiled.inspect_llvm(compiled.signatures[0])
    return len(re.findall(r"call [^\n]*masked\.(?:gather|scatter)", code))


def _apart(first: int, last: int, x: np.ndarray, y: np.ndarray) -> None:
    """What must not be written; here it shows that the check would see it."""
    for task in range(first, last):
        low = (task % 7) * 64
        for i in range(64):
            y[low + i] = 2 * x[low + i]


FLOATS = numba.float32[::1]
SEEN = _gathers(_apart, (numba.int64, numba.int64, FLOATS, FLOATS)) > 0


@pytest.mark.skipif(not SEEN, reason="this processor has no gathers that numba would use")
@pytest.mark.parametrize("name", [n for n in operations() if n not in TURNS])
def test_loops_read_neighbours_in_one_piece(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    called: dict[tuple[Any, ...], Kernel] = {}
    run = Kernel.__call__

    def noted(kernel: Kernel, tasks: int, *arrays: Any, **options: int) -> None:
        called[(kernel.function, *map(numba.typeof, arrays))] = kernel
        run(kernel, tasks, *arrays, **options)

    monkeypatch.setattr(Kernel, "__call__", noted)
    module = operations()[name]
    for case in import_module(f"tests.laws.ops.{name}").CASES:
        for form in list(module.FORMS.values())[1:]:
            arguments, leaves = case.arguments(torch.float32)
            given = form(**arguments)
            moving = [y for y in (given if isinstance(given, tuple) else (given,)) if y.requires_grad]
            torch.autograd.grad(moving, list(leaves.values()), [torch.ones_like(y) for y in moving], allow_unused=True)
    for (function, *kinds), kernel in called.items():
        found = _gathers(function, (numba.int64, numba.int64, *kinds), reorder=kernel.reorder)
        assert found == 0, f"{function.__module__}.{function.__name__} has {found} gathers or scatters"
