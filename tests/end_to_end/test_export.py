"""Runs trained by jogak, exported, and at work in `transformers`: the same numbers, ids and answers."""

import json
from pathlib import Path

import pytest
import torch

from jogak import api
from jogak.errors import UserError

transformers = pytest.importorskip("transformers")
transformers.logging.set_verbosity_error()
pytestmark = pytest.mark.filterwarnings("ignore")

ROOT = Path(__file__).parents[2]
SMALL = [
    "train.minutes=null", "train.steps=6", "train.warmup=2", "train.validate_every=6", "train.save_every=6",
    "train.batch_tokens=500", "train.precision=float32", "train.tensorboard=false", "model.width=16",
]  # fmt: skip
ATTENTION = "[{name: attention, heads: 2}]"
TRANSLATION = ["data.test=10", "data.validation=5", "codec.vocab_size=500", "decode.beam=1", "decode.max_length=20"]
LANGUAGE = ["data.test=4", "data.validation=4", "data.max_length=64", "decode.max_length=20", "decode.beam=1"]
LLAMA = [
    "model.decoder.pattern=[{name: attention, heads: 2, bias: false, position: rotary}]",
    "model.decoder.feedforward={width: 24, activation: swiglu, bias: false}", "model.scale_embedding=false",
]  # fmt: skip
GPT2 = ["model.decoder.norm=layer", "model.position=learned", "model.max_length=96"]
# What is trained: the recipe and its changes; and the family that it goes out as.
RUNS = {
    "pegasus": ("demo-ko-en", [*TRANSLATION, "model.encoder.depth=1", "model.decoder.depth=2"]),
    "marian": (
        "demo-ko-en",
        [*TRANSLATION, "model.encoder.placement=post", "model.decoder.placement=post", "model.encoder.depth=1",
         "model.position=sinusoidal_halves"],
    ),
    "gpt2": ("language-model", [*LANGUAGE, *GPT2, f"model.decoder.pattern={ATTENTION}", "model.tie=output"]),
    "llama": ("language-model", [*LANGUAGE, *LLAMA, "model.decoder.depth=2"]),
    "mamba": ("language-model", [*LANGUAGE, "model.decoder.pattern=[mamba]", "model.decoder.feedforward=null"]),
}  # fmt: skip
TEXTS = ["파일을 저장했습니다", "the next of them is", "x"]


@pytest.fixture(scope="module", params=RUNS)
def exported(request, tmp_path_factory):
    """The family's name, the run and the exported folder."""
    folder = tmp_path_factory.mktemp("export") / "run"
    recipe, changes = RUNS[request.param]
    api.train(ROOT / f"recipes/{recipe}.yaml", [*SMALL, *changes, f"run={folder}"])
    return request.param, folder, api.export(folder, folder.with_name("out"))


def test_transformers_answers_as_the_run_does(exported):
    name, run, out = exported
    assert json.loads((out / "config.json").read_text())["model_type"] == name
    writes = "Seq2SeqLM" if name in ("pegasus", "marian") else "CausalLM"
    model, told = getattr(transformers, f"AutoModelFor{writes}").from_pretrained(out, output_loading_info=True)
    worked_out = {f"model.{side}.embed_positions.weight" for side in ("encoder", "decoder")}
    assert not set(told["missing_keys"]) - worked_out
    assert not told["unexpected_keys"]
    tokenizer = transformers.AutoTokenizer.from_pretrained(out)
    ours = api.load(run)
    for text in TEXTS:
        ids = tokenizer(text, return_tensors="pt").input_ids
        with torch.no_grad():
            written = model.generate(ids, max_new_tokens=20, do_sample=False, num_beams=1)[0]
        begin = 1 if writes == "Seq2SeqLM" else ids.shape[1]
        answer = ours.run(text).value
        assert ours.codec.decode(written[begin:].tolist()) == answer
        if "\ufffd" not in answer:  # of bytes that are no UTF-8, tokenizers gives back fewer
            assert tokenizer.decode(written[begin:], skip_special_tokens=True).strip() == answer.strip()


@torch.no_grad()
def test_it_comes_in_again_and_holds(exported):
    name, run, out = exported
    report = api.verify(out)
    assert report.holds, report.table()
    assert report.family == name
    again, ours = api.load(out), api.load(run)
    written = again.run(TEXTS[0], max_length=20).answers[0].plain()["ids"]
    assert ours.codec.decode(written) == ours.run(TEXTS[0]).value


def test_what_does_not_fit_is_named(tmp_path):
    run = tmp_path / "run"
    changes = ["model.decoder.pattern=[gru]", "model.decoder.depth=1"]
    api.train(ROOT / "recipes/language-model.yaml", [*SMALL, *LANGUAGE, *changes, f"run={run}"])
    with pytest.raises(UserError, match=r"no family of .* can hold this model; the nearest, .*'gru'") as told:
        api.export(run, tmp_path / "out")
    assert "\n" not in str(told.value)
    assert not (tmp_path / "out").exists()
