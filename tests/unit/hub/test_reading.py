"""Tensors that stay in the pages of their file: what that saves, and that neither can harm the other."""

import json
import struct
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file

from jogak import api, config, models
from jogak.hub import keymap
from jogak.hub.checkpoint import SINGLE, Checkpoint
from jogak.hub.keymap import STAYS
from jogak.hub.pretrained import Pretrained

TREE = {
    "topology": "decoder",
    "vocab_size": 90,
    "width": 16,
    "position": "learned",
    "max_length": 24,
    "scale_embedding": False,
    "decoder": {
        "depth": 2,
        "placement": "pre",
        "pattern": [{"name": "attention", "heads": 2}],
        "feedforward": {"activation": "gelu_tanh"},
    },
    "init": "normal",
    "tie": "output",
}


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A GPT-2 that jogak drew, written as transformers writes it."""
    from jogak.families import gpt2

    torch.manual_seed(0)
    given = config.Model.model_validate(TREE)
    fields = gpt2.write_config(given)
    model = models.build(given)
    made = keymap.their_tensors(model, gpt2.table(given), prefixed=True)
    folder = tmp_path / "gpt2"
    folder.mkdir()
    (folder / "config.json").write_text(json.dumps(fields))
    save_file({n: t.detach().contiguous() for n, t in made.items()}, folder / SINGLE, {"format": "pt"})
    return folder


def loaded(folder: Path, **settings: str) -> Pretrained:
    found = api.load(folder, device="cpu", **settings)
    assert isinstance(found, Pretrained)
    return found


def test_tensors_are_views_of_the_file(tmp_path: Path) -> None:
    """Of every kind of number, and none at all: what safetensors itself reads, and as large as it is."""
    generator = torch.Generator().manual_seed(0)
    tensors = {
        "large": torch.randn(70_001, generator=generator),
        "half": torch.randn(7, 3, generator=generator).half(),
        "brain": torch.randn(5, generator=generator).bfloat16(),
        "one": torch.tensor(3.5, dtype=torch.float64),
        "none": torch.empty(0, 4),
        "ids": torch.arange(6).view(2, 3),
        "marks": torch.tensor([True, False]),
    }
    save_file(tensors, tmp_path / SINGLE, {"format": "pt"})
    (tmp_path / "config.json").write_text("{}")
    reader = Checkpoint(tmp_path).reader()
    for name, tensor in tensors.items():
        found = reader.get(name)
        assert found.dtype == tensor.dtype
        assert torch.equal(found, tensor)
        assert found.untyped_storage().nbytes() == tensor.nbytes


def test_a_header_that_is_not_filled_up(tmp_path: Path) -> None:
    """Numbers that begin anywhere, as files have them that were not written by safetensors itself."""
    numbers = torch.arange(5, dtype=torch.float32)
    text = json.dumps({"a": {"dtype": "F32", "shape": [5], "data_offsets": [0, 20]}}).encode()
    text += b" " * ((1 - len(text)) % 8)
    (tmp_path / SINGLE).write_bytes(struct.pack("<Q", len(text)) + text + numbers.numpy().tobytes())
    (tmp_path / "config.json").write_text("{}")
    checkpoint = Checkpoint(tmp_path)
    assert checkpoint.entries["a"].begin % 4 == 1
    found = checkpoint.reader().get("a")
    assert torch.equal(found, numbers)
    assert found.data_ptr() % 4 == 0


def test_what_is_forgotten_is_read_again(tmp_path: Path) -> None:
    tensors = {"a": torch.randn(5000), "b": torch.randn(5000)}
    save_file(tensors, tmp_path / SINGLE)
    (tmp_path / "config.json").write_text("{}")
    reader = Checkpoint(tmp_path).reader()
    kept = {name: reader.get(name) for name in tensors}
    reader.forget("a")
    for name, tensor in tensors.items():
        assert torch.equal(kept[name], tensor)


@pytest.mark.skipif(not STAYS, reason="Windows holds mapped files, so that everything is copied there")
def test_only_what_changes_is_copied(folder: Path) -> None:
    """In the stored type weights lie in the file's pages, its turned matrices as they are; in another they do not."""
    checkpoint = Checkpoint(folder)
    reader = checkpoint.reader()
    block = loaded(folder).module.get_submodule("decoder.stack.blocks.1")
    stored = reader.get("transformer.h.1.mlp.c_fc.weight")
    inner = block.get_parameter("feedforward.inner.weight")
    assert torch.equal(inner, stored.t())
    assert inner.stride() == stored.t().stride()
    narrow = loaded(folder, dtype="bfloat16").module.get_submodule("decoder.stack.blocks.1")
    inner = narrow.get_parameter("feedforward.inner.weight")
    assert torch.equal(inner, stored.t().bfloat16())
    assert inner.is_contiguous()


def test_a_file_that_is_replaced_under_its_model(folder: Path) -> None:
    """Writing puts another file in its place, so that the model keeps its own; ours and transformers' alike."""
    model = loaded(folder)
    before = {name: tensor.clone() for name, tensor in model.module.state_dict().items()}
    other = {name: tensor + 1 for name, tensor in load_file(folder / SINGLE).items()}
    save_file(other, folder / "new")
    (folder / "new").replace(folder / SINGLE)
    (folder / SINGLE).unlink()
    for name, tensor in model.module.state_dict().items():
        assert torch.equal(tensor, before[name]), name


def test_training_leaves_the_file_alone(folder: Path) -> None:
    """Turned matrices learn as others do, to where they would have gone in memory of their own."""
    before = (folder / SINGLE).read_bytes()
    model = loaded(folder).module
    copy = models.build(model.config).eval()
    copy.load_state_dict(model.state_dict())
    ids = torch.arange(12).view(2, 6)
    for one in (model, copy):
        optimiser = torch.optim.AdamW(one.parameters(), lr=0.01, eps=1e-3, fused=True)
        for _ in range(3):
            optimiser.zero_grad()
            one(ids).log_softmax(-1)[:, :, 7].sum().neg().backward()
            optimiser.step()
    for name, tensor in copy.state_dict().items():
        assert torch.allclose(model.state_dict()[name], tensor, atol=1e-5), name
    assert not torch.equal(
        model.state_dict()["head.projection.weight"], load_file(folder / SINGLE)["transformer.wte.weight"]
    )
    assert (folder / SINGLE).read_bytes() == before


def test_a_model_goes_out_again_as_it_came(folder: Path, tmp_path: Path) -> None:
    api.export(folder, tmp_path / "out")
    before, after = (load_file(f / SINGLE) for f in (folder, tmp_path / "out"))
    assert before.keys() == after.keys()
    for name, tensor in before.items():
        assert torch.equal(tensor, after[name]), name
