"""The compiled step of state space duality against the reference, at odd sizes and on several threads."""

from collections.abc import Iterator

import pytest
import torch
from torch import Tensor

from jogak.ops import _compiled, _numba_ssd, ssd

Given = tuple[Tensor, Tensor, Tensor, Tensor, Tensor, Tensor, Tensor]

pytestmark = pytest.mark.skipif(not _compiled.AVAILABLE, reason="numba is not installed")


@pytest.fixture(params=[1, 2, 3])
def threads(request: pytest.FixtureRequest) -> Iterator[int]:
    before = torch.get_num_threads()
    torch.set_num_threads(request.param)
    yield request.param
    torch.set_num_threads(before)


def _given(batch: int, heads: int, groups: int, width: int, states: int, dtype: torch.dtype) -> Given:
    draw = torch.Generator().manual_seed(1)
    shapes = [(batch, 1, heads, width), (batch, 1, heads), (heads,), (batch, 1, groups, states)]
    shapes += [(batch, 1, groups, states), (heads,), (batch, heads, width, states)]
    given = [torch.randn(shape, generator=draw, dtype=torch.float64).to(dtype) for shape in shapes]
    x, dt, a, b, c, d, h = given
    return x, dt.abs(), -a.abs(), b, c, d, h


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("sizes", [(1, 1, 1, 1, 1), (3, 6, 2, 7, 13), (3, 6, 3, 101, 133), (2, 3, 3, 257, 129)])
def test_one_pass_is_the_reference(
    threads: int, sizes: tuple[int, int, int, int, int], dtype: torch.dtype, monkeypatch: pytest.MonkeyPatch
) -> None:
    given = _given(*sizes, dtype)
    before = given[-1].clone()
    calls: list[int] = []
    kernel = _numba_ssd.step

    def counted(*tensors: Tensor) -> tuple[Tensor, Tensor]:
        calls.append(threads)
        return kernel(*tensors)

    monkeypatch.setattr(_numba_ssd, "step", counted)
    y, h = ssd.step(*given)
    x, dt, a, b, c, d, h0 = (t.double() for t in given)
    expected_y, expected_h = ssd.reference(x, dt, a, b, c, d, h0)
    close = 1e-4 if dtype == torch.float32 else 1e-11
    assert calls == [threads]
    torch.testing.assert_close(y.double(), expected_y, atol=close, rtol=close)
    torch.testing.assert_close(h.double(), expected_h, atol=close, rtol=close)
    assert torch.equal(given[-1], before)


def test_gradients_take_the_plain_form(monkeypatch: pytest.MonkeyPatch) -> None:
    given = _given(2, 4, 2, 3, 5, torch.float64)
    monkeypatch.setattr(_numba_ssd, "step", None)  # a call of it would fail
    x = given[0].requires_grad_()
    y, _ = ssd.step(*given)
    y.sum().backward()
    assert x.grad is not None
    assert bool((x.grad != 0).any())
