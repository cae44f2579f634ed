import errno
import json
import os
import shutil

import pytest
import torch

from jogak import storage
from jogak.errors import StorageError, UserError
from jogak.training import checkpoint
from jogak.training.checkpoint import Checkpoint


def made(value: float) -> Checkpoint:
    weights = {"w": torch.full((64, 8), value), "b": torch.arange(8.0)}
    state = {"position": {"step": 1}, "metrics_bytes": 12}
    return Checkpoint(
        weights, {"exp_avg/w": torch.rand(64, 8)}, {"w": weights["w"] + 1}, [{"loader": {"at": 3}}], state
    )


@pytest.fixture
def folder(tmp_path):
    for step in (10, 20, 30):
        checkpoint.write(tmp_path, step, made(float(step)))
    return tmp_path


def test_what_is_written_is_read(folder):
    found = checkpoint.read(folder, 20)
    assert torch.equal(found.model["w"], torch.full((64, 8), 20.0))
    assert found.ranks == [{"loader": {"at": 3}}]
    assert found.state["metrics_bytes"] == 12
    assert checkpoint.steps(folder) == [10, 20, 30]
    averaged = checkpoint.read_weights(folder, 20, averaged=True)
    assert float(averaged["w"][0, 0]) == 21.0
    assert torch.equal(averaged["b"], torch.arange(8.0))
    assert float(checkpoint.read_weights(folder, 20, averaged=False)["w"][0, 0]) == 20.0


def test_no_pickle_is_written(folder):
    for file in folder.rglob("*"):
        assert file.is_dir() or file.suffix in {".safetensors", ".json"}


FILES = ["model.safetensors", "optimiser.safetensors", "average.safetensors", "ranks.json", "state.json"]


@pytest.mark.parametrize("name", FILES)
@pytest.mark.parametrize("harm", ["truncated", "one byte", "empty", "gone"])
def test_harm_is_noticed_and_the_way_out_named(folder, name, harm):
    file = folder / "step-30" / name
    content = bytearray(file.read_bytes())
    if harm == "truncated":
        file.write_bytes(content[: len(content) // 2])
    elif harm == "one byte":
        place = len(content) // 2
        content[place] ^= 1
        file.write_bytes(content)
    elif harm == "empty":
        file.write_bytes(b"")
    else:
        file.unlink()
    before = sorted(str(p) for p in folder.rglob("*"))
    with pytest.raises(UserError) as caught:
        checkpoint.read(folder, 30)
    message = str(caught.value)
    assert f"step-30/{name}" in message
    assert "step-20 is whole" in message
    assert "\n" not in message
    assert sorted(str(p) for p in folder.rglob("*")) == before
    (folder / "step-30").rename(folder / "step-30.damaged")  # as the message says
    assert checkpoint.steps(folder)[-1] == 20
    checkpoint.read(folder, 20)


def test_the_way_out_passes_over_other_damaged_ones(folder):
    for step in (20, 30):
        (folder / f"step-{step}" / "model.safetensors").write_bytes(b"x")
    with pytest.raises(UserError, match="step-10 is whole"):
        checkpoint.read(folder, 30)
    (folder / "step-10" / "ranks.json").unlink()
    with pytest.raises(UserError, match="no other checkpoint is whole"):
        checkpoint.read(folder, 30)


def test_a_newer_format_says_which_version_is_needed(folder):
    file = folder / "step-30" / "state.json"
    state = json.loads(file.read_text())
    file.write_text(json.dumps({**state, "format": 2, "jogak": "3.1.0"}))
    with pytest.raises(UserError, match=r"written by jogak 3\.1\.0 in format 2.*install jogak 3\.1\.0 or newer"):
        checkpoint.read(folder, 30)


@pytest.mark.parametrize("call", range(1, 14))  # five files and their folder each time, then both folders
def test_a_full_disk_at_any_moment_leaves_what_was_there(folder, monkeypatch, call):
    left = [call]
    sync = os.fsync

    def full(handle):
        left[0] -= 1
        if left[0] == 0:
            raise OSError(errno.ENOSPC, "No space left on device")
        sync(handle)

    monkeypatch.setattr(os, "fsync", full)
    if call <= 12:
        with pytest.raises(StorageError, match="the disk is full; what was saved before is unharmed"):
            checkpoint.write(folder, 40, made(40.0))
    else:
        checkpoint.write(folder, 40, made(40.0))
    assert [s for s in (10, 20, 30) if checkpoint.is_good(folder, s)] == [10, 20, 30]
    assert checkpoint.steps(folder)[-1] == 30 or checkpoint.is_good(folder, 40)
    assert not list(folder.glob(".*"))


def test_prune_keeps_the_last_and_the_protected(folder):
    checkpoint.write(folder, 40, made(40.0))
    checkpoint.prune(folder, 2, {10})
    assert checkpoint.steps(folder) == [10, 30, 40]


def test_a_removal_that_is_cut_short_leaves_no_half_checkpoint(folder, monkeypatch):
    monkeypatch.setattr(shutil, "rmtree", lambda *a, **k: None)
    checkpoint.discard(folder / "step-10")
    assert checkpoint.steps(folder) == [20, 30]
    monkeypatch.undo()
    checkpoint.sweep(folder)
    assert not list(folder.glob(".*"))


def test_files_that_are_none_of_ours_are_no_checkpoints(tmp_path):
    for name in ("step-5.damaged", "step-x", "other", ".step-7.tmp-12"):
        (tmp_path / name).mkdir()
    (tmp_path / "step-9").write_text("a file")
    assert checkpoint.steps(tmp_path) == []
    assert checkpoint.steps(tmp_path / "nowhere") == []


def test_bits_survive_nan_and_subnormal(tmp_path):
    odd = torch.tensor([float("nan"), -0.0, 1e-42, float("-inf")])
    checkpoint.write(tmp_path, 1, Checkpoint({"w": odd}, {}, None, [], {}))
    found = storage.read_tensors(tmp_path / "step-1" / "model.safetensors")[0]["w"]
    assert found.numpy().tobytes() == odd.numpy().tobytes()
    assert checkpoint.read(tmp_path, 1).average is None
