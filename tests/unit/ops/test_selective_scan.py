"""What the laws of operations do not reach: the kernel for GPUs, which here runs in Triton's interpreter."""

import importlib.util
import os
import subprocess
import sys

import pytest

TRITON = """
import torch
from jogak.ops import selective_scan
from tests.laws.ops.selective_scan import CASES

wanted = {"T1", "T2", "T33", "no-gate", "documents", "lengths", "lengths-documents", "one-state",
          "raw-steps-T65", "raw-steps-far-out"}
cases = [case for case in CASES if case.name in wanted]
assert len(cases) == len(wanted)
selective_scan._kernel = lambda x: selective_scan._Triton
for case in cases:
    found = {}
    for form, kind in ((selective_scan.reference, torch.float64), (selective_scan.fused, torch.float32)):
        arguments, leaves = case.arguments(kind)
        outputs = form(**arguments)
        generator = torch.Generator().manual_seed(0)
        weights = [torch.randn(y.shape, generator=generator).to(kind) for y in outputs]
        gradients = torch.autograd.grad(outputs, list(leaves.values()), weights)
        found[kind] = dict(zip(("y", "h", *leaves), (*outputs, *gradients)))
    for name, expected in found[torch.float64].items():
        worst = float((found[torch.float32][name] - expected).abs().max() / expected.abs().max().clamp_min(1e-6))
        assert worst < 1e-4, f"{case.name}: {name} is off by {worst:.1e}"
    with torch.no_grad():
        y, h = selective_scan.fused(**case.arguments(torch.float32)[0])
    torch.testing.assert_close(y, found[torch.float32]["y"])
print("agreed")
"""


@pytest.mark.skipif(importlib.util.find_spec("triton") is None, reason="no triton")
def test_the_kernel_for_gpus_in_tritons_interpreter():
    environment = {**os.environ, "TRITON_INTERPRET": "1", "PYTHONPATH": os.pathsep.join(["src", *sys.path])}
    result = subprocess.run([sys.executable, "-c", TRITON], env=environment, capture_output=True, text=True)
    assert result.returncode == 0, result.stderr[-2000:]
    assert "agreed" in result.stdout
