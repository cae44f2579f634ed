"""`jogak verify` on checkpoints that are read wrongly: what it says, where it says so, and its exit code."""

import json
import sys
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file

from jogak import cli
from jogak.families import gpt2, marian
from jogak.hub import keymap, verify
from jogak.hub.pretrained import Pretrained

transformers = pytest.importorskip("transformers")
transformers.logging.set_verbosity_error()
pytestmark = pytest.mark.filterwarnings("ignore")


def saved(folder: Path, name: str) -> Path:
    torch.manual_seed(0)
    given = getattr(transformers, name.replace("LMHeadModel", "").replace("MTModel", "") + "Config")
    fields = {"GPT2LMHeadModel": gpt2.TINY, "MarianMTModel": marian.TINY}[name][name]
    getattr(transformers, name)(given(**fields, bos_token_id=1)).save_pretrained(folder / name)
    return folder / name


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return saved(tmp_path, "GPT2LMHeadModel")


def told(capsys: pytest.CaptureFixture[str], code: int, *arguments: object) -> str:
    with pytest.raises(SystemExit) as caught:
        cli.main(["verify", *map(str, arguments)])
    shown = capsys.readouterr()
    assert caught.value.code == code, shown
    return shown.out


def test_what_holds(folder: Path, capsys) -> None:
    shown = told(capsys, 0, folder)
    assert "all known" in shown
    assert "none departs" in shown
    assert "token for token" in shown
    found = json.loads(told(capsys, 0, folder, "--json"))
    assert found["holds"] is True
    assert found["text"] is True
    assert list(found["blocks"]) == ["decoder embedding", "decoder block 1", "decoder block 2"]


def test_the_first_block_that_departs(folder: Path, capsys, monkeypatch) -> None:
    def wrong(given):
        model = read_config(given)
        ff = model.decoder.feedforward.model_copy(update={"activation": "relu"})
        return model.model_copy(update={"decoder": model.decoder.model_copy(update={"feedforward": ff})})

    read_config = gpt2.read_config
    monkeypatch.setattr(gpt2, "read_config", wrong)
    shown = told(capsys, 1, folder)
    assert "the first that departs: decoder block 1" in shown
    assert "DOES NOT HOLD" in shown
    assert json.loads(told(capsys, 1, folder, "--json"))["departs"] == "decoder block 1"


@pytest.mark.parametrize(
    ("change", "where"),
    [({"scale_embedding": 1.5}, "decoder embedding"), ({"head.scale": 1.5}, "what follows the blocks")],
)
def test_before_and_behind_the_blocks(folder: Path, monkeypatch, change, where) -> None:
    def wrong(given):
        model = read_config(given)
        if "head.scale" in change:
            return model.model_copy(update={"head": model.head.model_copy(update={"scale": 1.5})})
        return model.model_copy(update=change)

    read_config = gpt2.read_config
    monkeypatch.setattr(gpt2, "read_config", wrong)
    assert verify.verify(folder).departs == where


def test_a_side_each(tmp_path: Path) -> None:
    """Both stacks of an encoder-decoder, each beside its own."""
    report = verify.verify(saved(tmp_path, "MarianMTModel"))
    names = [f"encoder {n}" for n in ("embedding", "block 1", "block 2")]
    assert list(report.blocks) == [*names, *(f"decoder {n}" for n in ("embedding", "block 1", "block 2", "block 3"))]


def test_other_text(folder: Path, capsys, monkeypatch) -> None:
    whole = Pretrained.generate

    def wrong(self, *arguments, **named):
        found = whole(self, *arguments, **named)
        found.ids[1][3] += 1
        return found

    monkeypatch.setattr(Pretrained, "generate", wrong)
    assert "NOT the same" in told(capsys, 1, folder)


def test_tensors_that_do_not_come_back(folder: Path, monkeypatch) -> None:
    whole = keymap.fill

    def wrong(model, *arguments):
        whole(model, *arguments)
        with torch.no_grad():
            model.decoder.stack.final_norm.bias[0] = 1.0

    monkeypatch.setattr("jogak.hub.read.keymap.fill", wrong)
    report = verify.verify(folder)
    assert report.changed == ["transformer.ln_f.bias"]
    assert not report.holds


def test_keys(folder: Path, capsys) -> None:
    tensors = load_file(folder / "model.safetensors")
    del tensors["transformer.ln_f.bias"]
    save_file(tensors, folder / "model.safetensors", {"format": "pt"})
    assert "key 'transformer.ln_f.bias' is missing" in told(capsys, 1, folder)


def test_without_transformers(folder: Path, capsys, monkeypatch) -> None:
    monkeypatch.setitem(sys.modules, "transformers", None)
    assert "not compared: transformers is not installed" in told(capsys, 0, folder)


def test_transformers_that_does_not_load_it(folder: Path, capsys, monkeypatch) -> None:
    """What transformers refuses is not proven."""

    def refuses(*arguments, **named):
        raise ValueError("no such thing")

    monkeypatch.setattr(transformers.GPT2LMHeadModel, "from_pretrained", refuses)
    assert "does not load it (no such thing)" in told(capsys, 1, folder)
