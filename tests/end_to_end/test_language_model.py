"""A language model from a text file to bits per byte, text, a page and a comparison; resumed on the way."""

import io
import json
import shutil
from pathlib import Path

import pytest
import torch

from jogak import api, cli, storage
from jogak.errors import UserError

ROOT = Path(__file__).parents[2]
SMALL = [
    "train.minutes=null", "train.steps=12", "train.warmup=2", "train.validate_every=6", "train.save_every=6",
    "train.batch_tokens=256", "train.precision=float32", "train.tensorboard=false", "train.average=none", "data.test=4",
    "data.validation=4", "data.max_length=64", "model.width=32", "model.decoder.depth=1", "decode.max_length=12",
    "model.decoder.feedforward.width=64",
]  # fmt: skip
RECIPE = str(ROOT / "recipes/language-model.yaml")


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    folder = tmp_path_factory.mktemp("language")
    (folder / "글.txt").write_text("나는 어제 은행에 갔다.\n\nI went to the bank.\n" * 60, encoding="utf-8")
    api.train(RECIPE, [*SMALL, f"run={folder}/run", f"data.sources={folder}/글.txt"])
    return folder / "run"


def outcome(capsys, *arguments):
    with pytest.raises(SystemExit) as caught:
        cli.main(arguments)
    assert caught.value.code == 0
    return capsys.readouterr().out


def test_run_goes_on_with_the_text(run, capsys):
    told = json.loads(outcome(capsys, "run", str(run), "나는 어제", "--json", "--max-length", "5"))
    assert told["source"] == "나는 어제"
    assert told["continuation"] == told["answers"][0]["text"]
    assert len(outcome(capsys, "run", str(run), "I", "나", "--n-best", "2").splitlines()) >= 4


def test_run_takes_every_setting_of_decoding(run, capsys, tmp_path):
    sampled = ["run", str(run), "나는", "--temperature", "1.5", "--seed", "3", "--max-length", "8"]
    first = outcome(capsys, *sampled, "--json")
    assert first == outcome(capsys, *sampled, "--json", "decode.top_p=1")
    assert json.loads(first)["answers"][0]["seed"] == 3
    assert outcome(capsys, "run", str(run), "I", "--regex", "[0-9]{3}").strip().isdigit()
    (tmp_path / "s.json").write_text('{"enum": ["예", "아니요"]}', encoding="utf-8")
    told = outcome(capsys, "run", str(run), "I", "--json-schema", str(tmp_path / "s.json"), "decode.draft_tokens=2")
    assert json.loads(told) in ("예", "아니요")
    with pytest.raises(SystemExit):
        cli.main(["run", str(run), "I", "decode.top_p=7"])
    assert "'top_p': must be a number from 0 to 1 (got 7)" in capsys.readouterr().err


def test_python_generates_and_streams(run):
    model = api.load(run)
    assert isinstance(model, api.Model)
    whole = model.generate("나는", temperature=1.2, seed=4, max_new_tokens=9)
    pieces = list(model.generate("나는", temperature=1.2, seed=4, max_new_tokens=9, stream=True))
    assert "".join(piece.text for piece in pieces) == whole.text
    assert model.generate([model.codec.bos_id, 5], stop="x", max_new_tokens=2).reason in ("length", "stop", "end")
    same = model.generator(draft=model).generate([model.codec.encode("나는")], draft_tokens=3, max_new_tokens=9)[0][0]
    assert same.ids == model.generator().generate([model.codec.encode("나는")], max_new_tokens=9)[0][0].ids


def test_a_chat_in_the_terminal(run, capsys, monkeypatch):
    monkeypatch.setattr("sys.stdin", io.StringIO("안녕\n/clear\n또\n"))
    told = outcome(capsys, "run", str(run), "--chat", "--seed", "1", "--max-length", "6")
    assert told.count("\n") >= 2


def test_eval_stands_beside_honest_baselines(run, capsys):
    table = outcome(capsys, "eval", str(run))
    assert all(name in table for name in ("model", "6-gram, Witten-Bell", "unigram", "uniform"))
    told = json.loads(outcome(capsys, "eval", str(run), "--json"))["bits_per_byte"]
    assert told["model"]["low"] <= told["model"]["value"] <= told["model"]["high"]
    assert told["ngram"]["value"] < told["unigram"]["value"] < told["uniform"]["value"]


def test_look_writes_a_page(run, tmp_path, capsys):
    outcome(capsys, "look", str(run), "나는", "-o", str(tmp_path / "보기.html"))
    assert "Decoder self-attention" in (tmp_path / "보기.html").read_text(encoding="utf-8")


def test_a_catalogue_is_not_for_it(run, tmp_path):
    (tmp_path / "a.po").write_text('msgid ""\nmsgstr ""\n\nmsgid "x"\nmsgstr ""\n', encoding="utf-8")
    with pytest.raises(UserError, match="filled with translations"):
        api.run_inputs(str(run), [str(tmp_path / "a.po")])


@pytest.mark.parametrize("pack", ["true", "false"])
def test_resumed_it_ends_in_the_same_bits(run, tmp_path, pack):
    changes = [*SMALL, f"data.sources={run.parent}/글.txt", f"train.pack={pack}"]
    api.train(RECIPE, [*changes, f"run={tmp_path}/whole"])
    api.train(RECIPE, [*changes, f"run={tmp_path}/parts"])
    whole, _ = storage.read_tensors(tmp_path / "whole/model.safetensors")
    # The checkpoint of step 6 is what a kill after it would have left.
    shutil.rmtree(tmp_path / "parts/checkpoints/step-12")
    (tmp_path / "parts/finished.json").unlink()
    api.train(RECIPE, [*changes, f"run={tmp_path}/parts"], resume=True)
    parts, _ = storage.read_tensors(tmp_path / "parts/model.safetensors")
    assert all(torch.equal(whole[name], parts[name]) for name in whole)


def test_it_is_fine_tuned_from_another_run(run, tmp_path):
    changes = [*SMALL, f"data.sources={run.parent}/글.txt", f"run={tmp_path}/tuned", "train.steps=2"]
    figures = api.train(RECIPE, changes, from_=str(run))
    assert figures["step"] == 2


def test_mixers_are_compared(run, tmp_path, capsys):
    changes = [*SMALL, f"data.sources={run.parent}/글.txt", f"run={tmp_path}/compared"]
    told = outcome(capsys, "compare", RECIPE, *changes, "--mixers", "attention,attention+attention")
    lines = told.splitlines()
    assert lines[0].startswith("| mixer")
    assert "bits_per_byte" in lines[0]
    assert {line.split("|")[1].strip() for line in lines[2:4]} == {"attention", "attention+attention"}
    assert Path(lines[-1]).exists()
    with pytest.raises(UserError, match="already holds a run"):
        api.compare(RECIPE, ["attention"], changes)
    assert api.compare(RECIPE, ["attention"], changes, resume=True).entries[0].steps == 12
