import os
import platform
import subprocess
import sys

import pytest
import torch
from torch import nn

from jogak import config, models
from jogak.training import machine, precision
from tests.unit.training.tiny import WIDTH, Model

CPU = torch.device("cpu")


@pytest.mark.parametrize(("times", "chosen"), [(4.0, "bfloat16"), (1.1, "float32"), (0.25, "float32")])
def test_auto_takes_bfloat16_only_where_it_is_clearly_faster(monkeypatch, times, chosen):
    monkeypatch.setattr(precision, "speedup", lambda *_: times)
    assert precision.choose("auto", 64, CPU) == chosen
    assert precision.choose("bfloat16", 64, CPU) == "bfloat16"
    assert precision.choose("float32", 64, CPU) == "float32"


def test_the_probe_measures_once_and_agrees_with_a_longer_measurement():
    precision.speedup.cache_clear()
    found = precision.speedup(256, "cpu", torch.get_num_threads())
    assert precision.speedup(256, "cpu", torch.get_num_threads()) == found
    assert precision.speedup.cache_info().misses == 1
    assert 0.01 < found < 100


def test_autocast_computes_in_the_precision_and_keeps_the_weights():
    layer = nn.Linear(4, 4)
    with precision.autocast("bfloat16", CPU):
        assert layer(torch.ones(1, 4)).dtype == torch.bfloat16
    with precision.autocast("float32", CPU):
        assert layer(torch.ones(1, 4)).dtype == torch.float32
    assert layer.weight.dtype == torch.float32


def test_cost_of_a_model_with_one_side():
    cost = machine.Cost.of(Model(0.0))
    # The convolution meets each token with four matrices, the norm with two vectors; the tied table only as a head.
    assert cost == machine.Cost(0, 4 * WIDTH**2 + WIDTH + 2 * WIDTH, 256 * WIDTH)
    assert cost.flops(0, 10, 7) == 6 * (10 * cost.units + 7 * cost.head)


@pytest.mark.parametrize("tie", ["all", "none"])
def test_cost_of_an_encoder_and_a_decoder(tie):
    model = models.build(config.Model(width=32, tie=tie), vocab_size=100)
    cost = machine.Cost.of(model)
    assert cost.head == 3200
    tables = 3200 * (2 if tie == "none" else 0)
    assert cost.source + cost.units + cost.head + tables == sum(p.numel() for p in model.parameters())
    assert cost.source == sum(p.numel() for p in model.get_submodule("encoder.stack").parameters())


def test_peak_is_in_the_range_of_real_machines():
    assert 1e8 < machine.peak("float32", "cpu", torch.get_num_threads()) < 1e14


_STEPS = """
import resource, sys, torch
from jogak.training.machine import keep_freed_memory
if sys.argv[1:]:
    keep_freed_memory()
def step():
    held = [torch.ones(mib << 18) for mib in (2, 8, 4, 8, 16, 6) for _ in range(4)]
for _ in range(30):
    step()
before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
step()
print(resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before)
"""


@pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="only glibc's malloc can be told")
def test_freed_memory_is_kept():
    """A step that asks for what the one before it freed touches few new pages; without the setting, most of 45,000.

    Malloc is told to give large blocks back at once, which otherwise depends on what lies behind them.
    """
    environment = {**os.environ, "MALLOC_MMAP_THRESHOLD_": "1048576"}

    def new_pages(*arguments: str) -> int:
        command = [sys.executable, "-c", _STEPS, *arguments]
        done = subprocess.run(command, capture_output=True, text=True, check=True, env=environment)
        return int(done.stdout)

    assert new_pages("keep") < new_pages() / 10
