"""What the laws of operations do not reach: complex and matrix-valued recurrences, resets, lengths, a GPU's kernel."""

import importlib.util
import os
import subprocess
import sys

import pytest
import torch

from jogak.errors import UserError
from jogak.ops import _compiled
from jogak.ops.scan import FORMS, scan
from tests.laws.support import close, noise, same_bits

FAST = [name for name in FORMS if name != "reference"]
TREES = ["associative", "auto"]


def _complex(*shape: int, seed: int) -> torch.Tensor:
    return torch.complex(noise(*shape, seed=seed), noise(*shape, seed=seed + 100))


def _gradients(form: str, *given: torch.Tensor) -> dict[str, torch.Tensor]:
    """Real views of the outputs, and of the gradients of a weighted sum of them."""
    leaves = [x.clone().requires_grad_() for x in given]
    outputs = scan(*leaves, backend=form)
    loss = sum((y * _complex(*y.shape, seed=50).conj()).real.sum() for y in outputs)
    found = torch.autograd.grad(loss, leaves)
    named = dict(zip(("h", "last", "da", "db", "dh0"), (*outputs, *found), strict=True))
    return {n: torch.view_as_real(t.detach()) if t.is_complex() else t.detach() for n, t in named.items()}


def _agree(form: str, *given: torch.Tensor) -> None:
    wide = [x.to(torch.complex128 if x.is_complex() else torch.float64) for x in given]
    expected = _gradients("reference", *wide)
    actual = _gradients(form, *given)
    for name in expected:
        close(actual[name], expected[name], f"{form}: {name}")


@pytest.mark.parametrize("form", FAST)
@pytest.mark.parametrize("length", [1, 2, 63, 65])
def test_complex(form, length):
    a = torch.polar(torch.sigmoid(noise(2, length, 3, 4, seed=1)), noise(2, length, 3, 4, seed=2))
    _agree(form, a, _complex(2, length, 3, 4, seed=3), _complex(2, 3, 4, seed=4))


@pytest.mark.parametrize("form", TREES)
@pytest.mark.parametrize("length", [1, 2, 7, 8, 37])
@pytest.mark.parametrize("turning", [False, True], ids=["real", "complex"])
def test_matrices(form, length, turning):
    make = _complex if turning else noise
    a = 0.3 * make(2, length, 4, 4, seed=1)
    _agree(form, a, make(2, length, 4, seed=2), make(2, 4, seed=3))
    _agree(form, a[:1, :1], make(2, length, 4, seed=2), make(2, 4, seed=3))


@pytest.mark.parametrize("form", FORMS)
def test_what_stands_before_a_zero_does_not_matter_to_the_bit(form):
    """Neither forward nor in the gradients of what stands behind it."""
    a, b = torch.sigmoid(noise(2, 90, 5, seed=1)), noise(2, 90, 5, seed=2)
    starts = torch.zeros(2, 90, dtype=torch.bool)
    starts[:, [41, 70]] = True
    h0, before = noise(2, 5, seed=3), torch.arange(90)[None, :, None] < 41
    results = []
    for scale in (1.0, 1e6):
        given = [
            torch.where(before, a, a / scale).requires_grad_(),
            torch.where(before, b * scale, b).requires_grad_(),
            (h0 * scale).requires_grad_(),
        ]
        given[0] = torch.where(before, a * (0.5 if scale > 1 else 1.0), a).requires_grad_()
        h, last = scan(*given, starts=starts, backend=form)
        found = torch.autograd.grad((h[:, 41:] ** 2).sum(), given)
        results.append((h[:, 41:], last, found[0][:, 41:], found[1][:, 41:]))
        assert not found[1][:, :41].any()
        assert not found[2].any()
    for one, other in zip(*results, strict=True):
        same_bits(one, other, form)


@pytest.mark.parametrize("form", FORMS)
def test_lengths_leave_what_real_places_leave(form):
    a, b, h0 = torch.sigmoid(noise(3, 40, 5, seed=1)), noise(3, 40, 5, seed=2), noise(3, 5, seed=3)
    lengths = torch.tensor([0, 1, 33])
    _, last = scan(a, b, h0, lengths=lengths, backend=form)
    for row, length in enumerate(lengths.tolist()):
        expected = scan(a[row : row + 1, :length], b[row : row + 1, :length], h0[row : row + 1], backend="reference")
        close(last[row : row + 1], expected[1], f"{form}: row {row}")


def test_without_an_initial_state_it_is_zero():
    a, b = torch.sigmoid(noise(2, 9, 3, seed=1)), noise(2, 9, 3, seed=2)
    for actual, expected in zip(scan(a, b), scan(a, b, torch.zeros(2, 3), backend="reference"), strict=True):
        close(actual, expected, "no h0")


def test_the_last_state_keeps_its_dtype():
    a, b = torch.sigmoid(noise(2, 9, 3, seed=1)).bfloat16(), noise(2, 9, 3, seed=2).bfloat16()
    h, last = scan(a, b, torch.zeros(2, 3))
    assert (h.dtype, last.dtype) == (torch.bfloat16, torch.float32)


def test_what_does_not_fit_is_refused():
    a, b = noise(2, 9, 3, seed=1), noise(2, 9, 3, seed=2)
    with pytest.raises(UserError, match="no form 'chunk'; did you mean 'chunked'"):
        scan(a, b, backend="chunk")
    with pytest.raises(UserError, match=r"a must be \[2, 9, 3\]"):
        scan(a[:, :8], b)
    with pytest.raises(UserError, match=r"h0 must be \[2, 3\]"):
        scan(a, b, torch.zeros(2, 4))
    with pytest.raises(UserError, match="does not take matrices"):
        scan(noise(2, 9, 3, 3, seed=1), b, backend="chunked")


def test_two_threads_say_the_same(monkeypatch):
    """Every task is done once, whatever their number."""
    a, b, h0 = torch.sigmoid(noise(3, 40, 300, seed=1)), noise(3, 40, 300, seed=2), noise(3, 300, seed=3)
    monkeypatch.setattr(torch, "get_num_threads", lambda: 1)
    alone = _gradients("fused", a, b, h0)
    for threads in (2, 4, 100):
        monkeypatch.setattr(torch, "get_num_threads", lambda n=threads: n)
        for name, value in _gradients("fused", a, b, h0).items():
            same_bits(value, alone[name], f"{threads} threads: {name}")


def test_where_nothing_can_be_written_it_compiles_all_the_same(monkeypatch):
    """A read-only installation in a home that is read-only too."""
    import numba

    plain = numba.njit

    def refuse(*args, **options):
        if options.get("cache"):
            raise RuntimeError("cannot cache function: no locator available")
        return plain(*args, **options)

    monkeypatch.setattr(numba, "njit", refuse)
    assert _compiled.jit(lambda x: x + 1)(1) == 2


TRITON = """
import torch
from jogak.ops import _triton_scan, scan
for rows, length, width in ((1, 1, 1), (2, 7, 130), (3, 33, 5)):
    a, b, h0 = torch.rand(rows, length, width), torch.randn(rows, length, width), torch.randn(rows, width)
    actual, expected = _triton_scan.forward(a, b, h0), scan.reference(a, b, h0)
    for x, y in zip(actual, expected):
        torch.testing.assert_close(x, y, rtol=1e-5, atol=1e-5)
scan._kernel = lambda b: "triton"
given = [x.requires_grad_() for x in (a, b, h0)]
weight = torch.randn(3, 33, 5)
found = [torch.autograd.grad((form(*given)[0] * weight).sum(), given) for form in (scan.fused, scan.reference)]
for x, y in zip(*found):
    torch.testing.assert_close(x, y, rtol=1e-5, atol=1e-5)
print("agreed")
"""


@pytest.mark.skipif(importlib.util.find_spec("triton") is None, reason="no triton")
def test_the_kernel_for_gpus_in_tritons_interpreter():
    environment = {**os.environ, "TRITON_INTERPRET": "1", "PYTHONPATH": os.pathsep.join(["src", *sys.path])}
    result = subprocess.run([sys.executable, "-c", TRITON], env=environment, capture_output=True, text=True)
    assert result.returncode == 0, result.stderr[-2000:]
    assert "agreed" in result.stdout
