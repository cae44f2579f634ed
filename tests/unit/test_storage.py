"""Writing keeps the old content or the new one, whatever happens; reading tells damage in one sentence."""

import errno
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
import torch

from jogak import storage
from jogak.errors import StorageError, UserError

SOURCE = str(Path(storage.__file__).parents[1])


def full_disk(_: int) -> None:
    raise OSError(errno.ENOSPC, "No space left on device")


def write_folder(path: Path, content: bytes) -> None:
    with storage.new_folder(path) as folder:
        storage.write_bytes(folder / "inside", content)


def read(path: Path) -> bytes:
    return (path / "inside" if path.is_dir() else path).read_bytes()


WRITERS = [pytest.param(storage.write_bytes, id="file"), pytest.param(write_folder, id="folder")]


@pytest.mark.parametrize("write", WRITERS)
def test_a_second_writing_replaces_the_first_and_leaves_nothing_else(
    tmp_path: Path, write: Callable[[Path, bytes], None]
) -> None:
    target = tmp_path / "깊은" / "곳" / "모형"
    write(target, b"first")
    write(target, b"second")
    assert read(target) == b"second"
    assert list(target.parent.iterdir()) == [target]


@pytest.mark.parametrize("write", WRITERS)
def test_a_full_disk_costs_nothing_that_was_saved(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, write: Callable[[Path, bytes], None]
) -> None:
    target = tmp_path / "model"
    write(target, b"first")
    monkeypatch.setattr(os, "fsync", full_disk)
    with pytest.raises(StorageError, match="the disk is full; what was saved before is unharmed"):
        write(target, b"second")
    assert read(target) == b"first"
    assert list(tmp_path.iterdir()) == [target]


def test_a_folder_that_fails_half_way_keeps_the_old_one(tmp_path: Path) -> None:
    write_folder(tmp_path / "run", b"first")
    with pytest.raises(KeyError), storage.new_folder(tmp_path / "run") as folder:  # noqa: PT012  # the block is what fails
        storage.write_text(folder / "inside", "half")
        raise KeyError("stopped")
    assert read(tmp_path / "run") == b"first"
    assert [p.name for p in tmp_path.iterdir()] == ["run"]


# Imports once, then forks writers that it kills: starting Python for each kill would take most of the time.
KILLER = """
import os, random, signal, sys, time
from pathlib import Path
from jogak import storage

target, seed = Path(sys.argv[1]), random.Random(0)
storage.write_bytes(target, b"0" * 3_000_000)
for _ in range(25):
    child = os.fork()
    if child == 0:
        while True:
            for digit in b"0123456789":
                storage.write_bytes(target, bytes([digit]) * 3_000_000)
    time.sleep(seed.random() * 0.04)
    os.kill(child, signal.SIGKILL)
    os.waitpid(child, 0)
    content = target.read_bytes()
    assert len(content) == 3_000_000 and len(set(content)) == 1, (len(content), set(content))
print("whole after every kill")
"""


def test_a_writer_killed_at_any_moment_leaves_a_whole_file(tmp_path: Path) -> None:
    done = subprocess.run(
        [sys.executable, "-c", KILLER, str(tmp_path / "weights")],
        env={**os.environ, "PYTHONPATH": SOURCE},
        capture_output=True,
        text=True,
        timeout=60,
    )
    assert done.stdout == "whole after every kill\n", done.stderr
    assert any(".tmp-" in p.name for p in tmp_path.iterdir()), "no kill fell into a writing: the test shows nothing"


def test_tensors_and_metadata_come_back_equal(tmp_path: Path) -> None:
    tensors = {
        "transposed": torch.arange(6.0).reshape(2, 3).T,
        "half": torch.randn(3, generator=torch.Generator().manual_seed(0)).bfloat16(),
        "empty": torch.zeros(0, 4),
        "이름": torch.tensor([2**40]),
    }
    storage.write_tensors(tmp_path / "t.safetensors", tensors, {"format": "1", "말": "조각"})
    back, metadata = storage.read_tensors(tmp_path / "t.safetensors")
    assert metadata == {"format": "1", "말": "조각"}
    assert back.keys() == tensors.keys()
    for name, tensor in tensors.items():
        assert back[name].dtype == tensor.dtype
        assert torch.equal(back[name], tensor)


@pytest.mark.parametrize("keep", [0, 4, 8, 60, -1], ids=lambda k: f"first{k}bytes" if k >= 0 else "all but the last")
def test_a_truncated_tensor_file_is_said_to_be(tmp_path: Path, keep: int) -> None:
    path = tmp_path / "model.safetensors"
    storage.write_tensors(path, {"weight": torch.ones(50, 50)})
    path.write_bytes(path.read_bytes()[:keep])
    with pytest.raises(UserError, match=r"model\.safetensors: damaged or truncated"):
        storage.read_tensors(path)


def test_a_pickle_is_not_read(tmp_path: Path) -> None:
    path = tmp_path / "model.safetensors"
    path.write_bytes(b"\x80\x04\x95\x1f\x00\x00\x00\x00\x00\x00\x00\x8c\x05posix\x94\x8c\x06system\x94\x93\x94.")
    with pytest.raises(UserError, match="damaged or truncated"):
        storage.read_tensors(path)


@pytest.mark.parametrize("reader", [storage.read_tensors, storage.read_json])
def test_a_missing_file_is_named(tmp_path: Path, reader: Callable[[Path], object]) -> None:
    with pytest.raises(UserError, match="state: there is no such file"):
        reader(tmp_path / "state")


@pytest.mark.parametrize("content", [b'{"step": 1', b"\xff\xfe", b""], ids=["truncated", "not UTF-8", "empty"])
def test_damaged_json_is_said_to_be(tmp_path: Path, content: bytes) -> None:
    (tmp_path / "state.json").write_bytes(content)
    with pytest.raises(UserError, match=r"state\.json: damaged"):
        storage.read_json(tmp_path / "state.json")


def test_json_keeps_korean_readable_and_comes_back(tmp_path: Path) -> None:
    storage.write_json(tmp_path / "s.json", {"낱말": ["조각", 1.5, None]})
    assert "조각" in (tmp_path / "s.json").read_text(encoding="utf-8")
    assert storage.read_json(tmp_path / "s.json") == {"낱말": ["조각", 1.5, None]}


def test_where_nothing_may_be_written_the_sentence_names_the_place(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("", encoding="utf-8")
    with pytest.raises(StorageError, match=r"file/model: could not be written: .+; what was saved before is unharmed"):
        storage.write_text(tmp_path / "file" / "model", "x")
