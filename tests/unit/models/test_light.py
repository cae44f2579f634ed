"""Costs are found without loading torch's compiler, and leave nothing behind that would disturb it."""

import subprocess
import sys

ASKED = """
import sys
from jogak import config
from jogak.models.cost import cost
found = cost(config.read_preset("gpt-2"), 32)
assert "torch._dynamo" not in sys.modules
import torch
assert "_dynamo" not in vars(torch)
"""
COMPILED = """
f = torch.compile(lambda x: torch.nn.functional.gelu(x) + 1, backend="eager", fullgraph=True)
x = torch.ones(3)
assert torch.equal(f(x), torch.nn.functional.gelu(x) + 1)
assert sys.modules["torch._dynamo"].__file__
assert cost(config.read_preset("gpt-2"), 32) == found
"""
ELSEWHERE = """
import sys
from jogak.models._light import without_compiler
with without_compiler():
    import torch
    assert torch._dynamo.config.recompile_limit > 0
    assert sys.modules["torch._dynamo"].__file__
assert torch._dynamo.__file__
"""


def _run(code: str) -> None:
    subprocess.run([sys.executable, "-c", code], check=True)


def test_the_compiler_is_not_loaded_and_works_afterwards():
    _run(ASKED + COMPILED)


def test_whatever_else_is_asked_of_it_loads_it():
    _run(ELSEWHERE)
