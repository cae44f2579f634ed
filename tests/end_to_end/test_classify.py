"""A classifier from its recipe to figures, labels and a page, resumed to the same bits."""

import json
import shutil
from pathlib import Path

import pytest
import torch

from jogak import api, cli, storage

ROOT = Path(__file__).parents[2]
SMALL = [
    "train.minutes=null", "train.steps=8", "train.warmup=2", "train.validate_every=4", "train.save_every=4",
    "train.batch_tokens=500", "train.precision=float32", "train.tensorboard=false", "data.test=40",
    "data.validation=20", "codec.vocab_size=400", "model.width=16",
]  # fmt: skip


@pytest.fixture(scope="module", params=["language", "encoder"])
def run(request, tmp_path_factory):
    folder = tmp_path_factory.mktemp("classify") / "run"
    api.train(ROOT / f"recipes/classify-{request.param}.yaml", [*SMALL, f"run={folder}"])
    return folder


def outcome(capsys, *arguments):
    with pytest.raises(SystemExit) as caught:
        cli.main(arguments)
    assert caught.value.code == 0
    return capsys.readouterr().out


def test_from_data_to_labels_and_figures(run, tmp_path, capsys):
    told = json.loads(outcome(capsys, "run", str(run), "파일을 저장했습니다", "--json", "--n-best", "2"))
    assert told["label"] in ("de", "en", "fr", "ko")
    assert len(told["answers"]) == 2
    figures = json.loads(outcome(capsys, "eval", str(run), "--json"))
    assert figures["examples"] >= 40
    assert figures["classes"] == 4
    assert figures["naive_bayes"]["accuracy"]["value"] > figures["majority"]["accuracy"]["value"]
    assert "macro F1" in outcome(capsys, "eval", str(run), "--samples", "1")
    outcome(capsys, "look", str(run), "파일", "-o", str(tmp_path / "look.html"))
    assert (tmp_path / "look.html").exists()


def test_resumed_it_ends_in_the_same_bits(run, tmp_path):
    copy = tmp_path / "run"
    shutil.copytree(run, copy)
    shutil.rmtree(copy / "checkpoints/step-8")
    for name in ("finished.json", "model.safetensors"):
        (copy / name).unlink()
    api.train(copy / "config.yaml", [f"run={copy}"], resume=True)
    whole, _ = storage.read_tensors(run / "model.safetensors")
    parts, _ = storage.read_tensors(copy / "model.safetensors")
    assert all(torch.equal(whole[name], parts[name]) for name in whole)
