"""Two processes under torchrun are one run: same weights, gradients of the doubled batch, exact resume, one writer."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from jogak import storage
from jogak.errors import UserError
from jogak.training import fit
from jogak.training.averaging import NoAverage
from jogak.training.distributed import Ranks, pick_device
from jogak.training.position import Position
from jogak.training.run import Run
from jogak.training.step import Stepper
from tests.unit.training.tiny import Tiny

ROOT = Path(__file__).parents[3]
TIMINGS = {"seconds", "tokens_per_second", "share_of_peak"}


@pytest.fixture(scope="module")
def out(tmp_path_factory):
    folder = tmp_path_factory.mktemp("ranks")
    path = os.pathsep.join([str(ROOT / "src"), str(ROOT)])
    command = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2",
               str(Path(__file__).with_name("ranks_worker.py")), str(folder)]  # fmt: skip
    environment = {**os.environ, "PYTHONPATH": path, "OMP_NUM_THREADS": "1"}
    done = subprocess.run(command, env=environment, cwd=ROOT, capture_output=True, text=True, timeout=240)
    assert done.returncode == 0, done.stderr
    return folder


def tensors(file):
    return storage.read_tensors(file)[0]


@pytest.mark.slow
def test_gradients_are_those_of_one_process_with_the_doubled_batch(out):
    task = Tiny(dropout=0.0, clip=None, accumulate=4)
    stepper = Stepper(task, Ranks(torch.device("cpu")), "float32", NoAverage())
    alone = {}
    stepper.optimiser.register_step_pre_hook(
        lambda *_: alone.update({n: p.grad.clone() for n, p in task.model.named_parameters()})
    )
    stepper.update(Position(), 0.0, 0)
    for rank in range(2):
        found = tensors(out / f"gradients-{rank}.safetensors")
        assert found.keys() == alone.keys()
        for name, gradient in alone.items():
            torch.testing.assert_close(found[name], gradient, rtol=1e-5, atol=1e-5 * float(gradient.abs().max()))


@pytest.mark.slow
def test_both_end_with_the_same_weights_and_one_wrote(out):
    one, two = (tensors(out / f"weights-{rank}.safetensors") for rank in range(2))
    assert all(torch.equal(one[n], two[n]) for n in one)
    steps = [json.loads(line)["step"] for line in (out / "whole" / "metrics.jsonl").read_text().splitlines()]
    assert steps == sorted(steps)
    assert steps.count(24) == 2  # a log line and a validation, once each


@pytest.mark.slow
def test_resume_is_exact(out):
    whole, parts = (Run(out / name) for name in ("whole", "parts"))
    a, b = whole.weights(), parts.weights()
    assert all(a[n].numpy().tobytes() == b[n].numpy().tobytes() for n in a)

    def lines(run):
        found = [json.loads(line) for line in run.metrics.read_text().splitlines()]
        return [{k: v for k, v in line.items() if k not in TIMINGS} for line in found]

    assert lines(whole) == lines(parts)


@pytest.mark.slow
def test_an_error_of_one_is_raised_by_all(out):
    for rank in range(2):
        assert "already holds a run" in (out / f"whole-{rank}.txt").read_text()
        assert "not finite at step 3; rows of its batch: " in (out / f"broken-{rank}.txt").read_text()
    assert (out / "broken-0.txt").read_text() == (out / "broken-1.txt").read_text()


@pytest.mark.slow
def test_another_number_of_processes_is_told_how_to_resume(out):
    with pytest.raises(UserError, match="made by 2 processes, and this is 1; resume with torchrun --nproc-per-node 2"):
        fit(Tiny(average="ema", accumulate=2, steps=30), out / "parts", resume=True)


def test_devices(monkeypatch):
    assert pick_device("cpu") == torch.device("cpu")
    with pytest.raises(UserError, match="'gpu7' is not a device"):
        pick_device("gpu7")
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    assert pick_device("auto") == torch.device("cpu")
    with pytest.raises(UserError, match="torch finds no GPU here"):
        pick_device("cuda")
