"""Law 8. Reference = fast for every operation, forward and backward; fast never reads unwritten memory."""

from collections.abc import Callable
from importlib import import_module

import pytest
import torch
from torch import Tensor

from tests.laws.cases import Case, operations
from tests.laws.poison import poisoned
from tests.laws.support import close_all, noise

Op = Callable[..., Tensor | tuple[Tensor, ...]]


def _all() -> list:
    found = []
    for name, module in operations().items():
        reference, *fast = module.FORMS
        for case in import_module(f"tests.laws.ops.{name}").CASES:
            found += [
                pytest.param(module.FORMS[form], module.FORMS[reference], case, id=f"{name}-{form}-{case.name}")
                for form in fast
            ]
    return found


def _result(op: Op, case: Case, dtype: torch.dtype) -> tuple[dict[str, Tensor], dict[str, Tensor]]:
    """The outputs by number, and the gradients of a weighted sum of those that have any."""
    arguments, leaves = case.arguments(dtype)
    given = op(**arguments)
    outputs = dict(enumerate(given if isinstance(given, tuple) else (given,)))
    moving = [y for y in outputs.values() if y.requires_grad]
    assert moving, f"{case.name}: nothing that it gives has a gradient"
    weights = [noise(*y.shape, seed=99 + i).to(y.dtype) for i, y in enumerate(moving)]
    found = torch.autograd.grad(moving, list(leaves.values()), weights, allow_unused=True)
    gradients = {n: torch.zeros_like(t) if g is None else g for (n, t), g in zip(leaves.items(), found, strict=True)}
    return {f"output {i}": y.detach() for i, y in outputs.items()}, gradients


def _dtypes(case: Case, outputs: dict[str, Tensor], given: torch.dtype) -> None:
    """As given; a sum over many may be kept in float32."""
    for name, y in outputs.items():
        wide = case.sums and y.dim() == 0 and y.dtype == torch.float32
        assert y.dtype == given or wide, f"{case.name}: {given} in, {y.dtype} out ({name})"


@pytest.mark.parametrize(("fast", "reference", "case"), _all())
def test_fast_equals_reference(fast: Op, reference: Op, case: Case) -> None:
    """Float32 against the reference in float64, on memory poisoned with NaN."""
    y, gradients = _result(reference, case, torch.float64)
    with poisoned():
        fast_y, fast_gradients = _result(fast, case, torch.float32)
    _dtypes(case, fast_y, torch.float32)
    close_all(fast_y, y, case.name)
    close_all(fast_gradients, gradients, f"{case.name}: gradient")


@pytest.mark.parametrize(("fast", "reference", "case"), _all())
def test_fast_in_bfloat16_is_near(fast: Op, reference: Op, case: Case) -> None:
    """From the same rounded inputs; the result is rounded too."""
    rounded = Case(case.name, {n: t.bfloat16().float() for n, t in case.tensors.items()}, case.others)
    y, gradients = _result(reference, rounded, torch.float64)
    with poisoned():
        fast_y, fast_gradients = _result(fast, rounded, torch.bfloat16)
    _dtypes(case, fast_y, torch.bfloat16)
    close_all(fast_y, y, case.name, tolerance=0.03)
    close_all(fast_gradients, gradients, f"{case.name}: gradient", tolerance=0.05)


def test_poison_reaches_what_is_not_written() -> None:
    """The poison itself, where memory comes from: without it the law above would say nothing."""
    with poisoned():
        for tensor in (
            torch.empty(5),
            torch.zeros(3).new_empty(5),
            torch.empty_like(torch.zeros(5)),
            torch.zeros(4).resize_(9),
        ):
            assert tensor.isnan().any()
    assert not torch.are_deterministic_algorithms_enabled()
