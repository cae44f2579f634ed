"""Checkpoints in fewer bits: made at load, saved, read back bit for bit; and every refusal."""

import pytest
import torch

from jogak import api
from jogak.errors import UserError
from jogak.layers.quantised import is_quantised
from tests.unit.hub import test_reading
from tests.unit.hub.test_reading import loaded

IDS = torch.randint(90, (2, 20), generator=torch.Generator().manual_seed(0))


@pytest.fixture
def folder(tmp_path, monkeypatch):
    """The small GPT-2 of the tests of reading, wide enough to be packed."""
    monkeypatch.setitem(test_reading.TREE, "width", 64)
    return test_reading.folder.__wrapped__(tmp_path)


def _logits(model):
    with torch.inference_mode():
        return model.module(IDS)


@pytest.mark.parametrize("kind", ["int8", "int4"])
def test_saved_and_loaded_it_is_the_same_to_the_bit(folder, tmp_path, kind):
    made = loaded(folder, dtype=kind)
    again = loaded(api.export(folder, tmp_path / "small", dtype=kind))
    assert is_quantised(again.module) == kind
    assert torch.equal(_logits(again), _logits(made))
    size = sum(t.nbytes for t in {id(t): t for t in made.module.state_dict().values()}.values())
    assert (tmp_path / "small" / "model.safetensors").stat().st_size < size + 20_000
    assert made.generate(IDS[:1, :5], 4).ids == again.generate(IDS[:1, :5], 4).ids


def test_asking_for_what_it_is_kept_in_changes_nothing(folder, tmp_path):
    small = api.export(folder, tmp_path / "small", dtype="int8")
    assert torch.equal(_logits(loaded(small, dtype="int8")), _logits(loaded(small)))


def test_refusals(folder, tmp_path):
    small = api.export(folder, tmp_path / "small", dtype="int8")
    with pytest.raises(UserError, match="kept in int8; load int4 from what it was made of"):
        api.load(small, dtype="int4")
    with pytest.raises(UserError, match="no other program reads"):
        api.export(small, tmp_path / "out")
    with pytest.raises(UserError, match="there is no dtype 'int5'; did you mean"):
        api.load(folder, dtype="int5")
    with pytest.raises(UserError, match="is there already"):
        api.export(folder, small, dtype="int8")


def test_a_kind_of_a_later_version_is_refused(folder, tmp_path):
    from safetensors.torch import load_file, save_file

    small = api.export(folder, tmp_path / "small", dtype="int8")
    tensors = load_file(small / "model.safetensors")
    save_file(tensors, small / "model.safetensors", {"format": "1", "jogak": "9", "dtype": "int3"})
    with pytest.raises(UserError, match="matrices are int3, which this jogak does not read"):
        api.load(small)
