"""On the meta device models are built without torch's rules in Python, and are the same as those that are drawn."""

import os
import subprocess
import sys
from contextlib import AbstractContextManager, nullcontext
from pathlib import Path

import pytest
import torch

from jogak import config, families, models, registry
from jogak.families._fields import Fields
from jogak.models.undrawn import Undrawn

QUICK = """
import sys
from jogak import families, models
from jogak.families._fields import Fields
for name in families.names():
    family = families.find(name)
    for architecture, fields in family.TINY.items():
        models.build(family.read_config(Fields({**fields, "architectures": [architecture]}, name)), device="meta")
print([name for name in ("sympy", "torch._dynamo") if name in sys.modules])
"""


def test_nothing_heavy_is_imported() -> None:
    environment = {**os.environ, "PYTHONPATH": str(Path(models.__file__).parents[2])}
    done = subprocess.run([sys.executable, "-c", QUICK], env=environment, capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


@pytest.mark.parametrize("name", families.names())
def test_it_is_the_model_that_would_be_drawn(name: str) -> None:
    family = families.find(name)
    for architecture, fields in family.TINY.items():
        given = family.read_config(Fields({**fields, "architectures": [architecture]}, name))
        drawn, undrawn = models.build(given).state_dict(), models.build(given, device="meta").state_dict()
        assert list(drawn) == list(undrawn)
        for key, tensor in undrawn.items():
            assert tensor.is_meta
            assert (key, tensor.shape, tensor.dtype) == (key, drawn[key].shape, drawn[key].dtype)


@pytest.mark.parametrize("name", registry.names("mixers"))
def test_mixers(name: str) -> None:
    stack = {"depth": 1, "pattern": [{"name": name}]}
    try:
        given = config.Model.model_validate({"topology": "decoder", "vocab_size": 9, "width": 64, "decoder": stack})
        drawn = models.build(given).state_dict()
    except ValueError as error:
        pytest.skip(f"no decoder: {error}")
    undrawn = models.build(given, device="meta").state_dict()
    assert {k: (t.shape, t.dtype) for k, t in undrawn.items()} == {k: (t.shape, t.dtype) for k, t in drawn.items()}


def test_shapes_of_what_is_not_worked_out() -> None:
    def made(device: str, mode: AbstractContextManager[object]) -> list[torch.Tensor]:
        with torch.device(device), mode:
            a, b, n = torch.empty(3, 1), torch.empty(4), torch.arange(5)
            found = [a + b, a * 2, 2.0**a, n * 0.5, n / 2, n + 1, (n + n).exp(), a.half() * b, a.double() - b, -a]
            found += [torch.arange(1, 8, 3), torch.arange(0.5, 2.0), torch.arange(4, dtype=torch.float64)]
            found += [torch.cat([a, a], dim=1), torch.cat([b, b]), b.repeat(3, 2), torch.randn(2, 3), b.clamp_min(1)]
            return [*found, a.uniform_().log(), torch.nn.init.normal_(b), torch.logit(b), torch.empty(0, 4) + b]

    for ours, wanted in zip(made("meta", Undrawn()), made("cpu", nullcontext()), strict=True):
        assert ours.is_meta
        assert (ours.shape, ours.dtype) == (wanted.shape, wanted.dtype)
