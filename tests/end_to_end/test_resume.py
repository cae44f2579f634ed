"""A training process, killed with SIGKILL at random moments, saves included, ends in the bits of one never killed."""

import json
import multiprocessing
import os
import random
import signal
import time
from pathlib import Path

import pytest
import torch

from jogak import storage
from tests.unit.training import tiny

SETTINGS = {
    "steps": 90, "save_every": 2, "validate_every": 9, "log_every": 4, "keep": 2, "accumulate": 2,
    "schedule": "cosine", "clip": 0.5,
}  # fmt: skip
TIMINGS = {"seconds", "tokens_per_second", "share_of_peak"}


@pytest.fixture(scope="module")
def processes(tmp_path_factory):
    """Starts processes quickly: each is forked from one that has imported torch, and is a process of its own."""
    context = multiprocessing.get_context("forkserver")
    root = Path(__file__).parents[2]
    before = os.environ.get("PYTHONPATH")
    os.environ["PYTHONPATH"] = os.pathsep.join([str(root / "src"), str(root), *([before] if before else [])])
    # torch's optimisers import torch._dynamo when they are first used, which takes longer than this whole training.
    context.set_forkserver_preload(["torch._dynamo", "jogak.training.loop", "tests.unit.training.tiny"])
    yield context
    if before is None:
        del os.environ["PYTHONPATH"]
    else:
        os.environ["PYTHONPATH"] = before


def start(context, folder, settings, kill_at_operation=None):
    process = context.Process(target=tiny.train_here, args=(str(folder), settings, 0.2, kill_at_operation))
    process.start()
    return process


def bits(file: Path) -> dict[str, torch.Tensor]:
    tensors, _ = storage.read_tensors(file)
    return tensors


def same(a: dict[str, torch.Tensor], b: dict[str, torch.Tensor]) -> bool:
    return a.keys() == b.keys() and all(
        a[n].dtype == b[n].dtype and a[n].numpy().tobytes() == b[n].numpy().tobytes() for n in a
    )


def measured(folder: Path) -> list[dict]:
    lines = [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]
    return [{k: v for k, v in line.items() if k not in TIMINGS} for line in lines]


def assert_same_run(folder: Path, reference: Path) -> None:
    assert same(bits(folder / "model.safetensors"), bits(reference / "model.safetensors"))
    assert measured(folder) == measured(reference)
    for name in ("model", "optimiser", "average"):
        ours, theirs = (f / "checkpoints" / "step-90" / f"{name}.safetensors" for f in (folder, reference))
        assert ours.exists() == theirs.exists()
        assert not ours.exists() or same(bits(ours), bits(theirs))
    ranks = [json.loads((f / "checkpoints" / "step-90" / "ranks.json").read_text()) for f in (folder, reference)]
    assert ranks[0] == ranks[1]
    assert not [p for p in folder.rglob(".*.tmp-*")]


@pytest.mark.slow
@pytest.mark.parametrize("average", ["ema", "last"])
def test_killed_at_random_moments_ends_in_the_same_bits(processes, tmp_path, average):
    settings = {**SETTINGS, "average": average, "average_last": 3}
    reference = tmp_path / "reference"
    begun = time.monotonic()
    whole = start(processes, reference, settings)
    whole.join()
    took = time.monotonic() - begun
    assert whole.exitcode == 0
    assert len(measured(reference)) == 90 // 4 + 90 // 9

    draw = random.Random(f"moments {average}")
    kills, in_saves, runs = 0, 0, 0
    folder = tmp_path / "killed-0"
    while kills < 20:
        by_time = kills % 2 == 0
        process = start(processes, folder, settings, None if by_time else draw.randint(1, 120))
        if by_time:
            time.sleep(draw.uniform(0, took / 5))
            process.kill()
        process.join()
        if process.exitcode == 0:  # it was done before its moment came: the next one dies in another folder
            assert_same_run(folder, reference)
            runs += 1
            folder = tmp_path / f"killed-{runs}"
            continue
        assert process.exitcode == -signal.SIGKILL
        kills += 1
        in_saves += bool(list(folder.rglob(".*.tmp-*")))
    last = start(processes, folder, settings)
    last.join()
    assert last.exitcode == 0
    assert_same_run(folder, reference)
    assert in_saves >= 3
