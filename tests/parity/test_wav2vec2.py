"""What wav2vec 2.0 does that the test of all families cannot ask of theirs: padding that changes nothing."""

import json
import wave
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file

import jogak
from jogak import api
from jogak.codecs import audio
from jogak.errors import UserError
from jogak.families import wav2vec2
from jogak.hub.checkpoint import Checkpoint
from jogak.hub.read import read

transformers = pytest.importorskip("transformers")
transformers.logging.set_verbosity_error()


@torch.no_grad()
@pytest.mark.parametrize("architecture", wav2vec2.TINY)
def test_padding_changes_nothing(architecture: str, tmp_path: Path) -> None:
    """Each sound in a padded batch is what `transformers` makes of it alone, also where the norm is over time."""
    torch.manual_seed(0)
    theirs = getattr(transformers, architecture)(transformers.Wav2Vec2Config(**wav2vec2.TINY[architecture])).eval()
    theirs.save_pretrained(tmp_path)
    ours = read(Checkpoint(tmp_path)).model
    lengths = [120, 37, 64]
    sounds = [torch.randn(n) for n in lengths]
    batch = torch.nn.utils.rnn.pad_sequence(sounds, batch_first=True)
    mask = torch.arange(max(lengths)) < torch.tensor(lengths).unsqueeze(1)
    found = ours(batch.masked_fill(~mask, torch.nan), mask)
    for row, sound in zip(found, sounds, strict=True):
        told = theirs(sound.unsqueeze(0))
        wanted = told["logits" if "logits" in told else "last_hidden_state"][0]
        assert torch.allclose(row[: len(wanted)], wanted, atol=1e-4 * float(wanted.abs().max()), rtol=0)


def test_old_names_of_weight_norm(tmp_path: Path) -> None:
    """As torch called them when the first checkpoints were written."""
    theirs = transformers.Wav2Vec2Model(transformers.Wav2Vec2Config(**wav2vec2.TINY["Wav2Vec2Model"]))
    theirs.save_pretrained(tmp_path)
    tensors = load_file(tmp_path / "model.safetensors")
    old = {"parametrizations.weight.original0": "weight_g", "parametrizations.weight.original1": "weight_v"}
    for new, name in old.items():
        tensors = {key.replace(new, name): t for key, t in tensors.items()}
    assert any(key.endswith("weight_g") for key in tensors)
    save_file(tensors, tmp_path / "model.safetensors", {"format": "pt"})
    position = read(Checkpoint(tmp_path)).model.encoder.input.position
    assert torch.equal(position.size, theirs.encoder.pos_conv_embed.conv.parametrizations.weight.original0)


def test_hiding_in_training() -> None:
    """Spans are hidden while training, and never otherwise."""
    from jogak.layers.inputs.waves import Waves

    torch.manual_seed(0)
    made = Waves(8, (4,), (2,), (2,), groups=1, taps=3, hidden=0.5, hidden_length=3)
    x = made.example(2)
    assert torch.equal(made.eval()(x), made(x))
    assert not torch.equal(made.train()(x), made(x))
    spans = made._spans(torch.zeros(50, 200, 8)).float().mean()
    assert 0.3 < float(spans) < 0.5


LETTERS = {
    "<pad>": 0,
    "<s>": 1,
    "</s>": 2,
    "<unk>": 3,
    "|": 4,
    **{letter: i for i, letter in enumerate("EATO가NRHLSD", 5)},
}


@pytest.fixture
def hearer(tmp_path: Path) -> Path:
    """A random model that writes letters, with its settings beside it, and a sound."""
    torch.manual_seed(1)
    sizes = {**wav2vec2.TINY["Wav2Vec2ForCTC"], "vocab_size": len(LETTERS), "pad_token_id": 0}
    model = transformers.Wav2Vec2ForCTC(transformers.Wav2Vec2Config(**sizes))
    with torch.no_grad():
        model.lm_head.weight.mul_(60)
    folder = tmp_path / "model"
    model.save_pretrained(folder)
    (folder / "vocab.json").write_text(json.dumps(LETTERS), encoding="utf-8")
    transformers.Wav2Vec2FeatureExtractor(return_attention_mask=True).save_pretrained(folder)
    transformers.Wav2Vec2CTCTokenizer(folder / "vocab.json", do_lower_case=True).save_pretrained(folder)
    samples = (torch.randn(900) * 3000).clamp(-32768, 32767).to(torch.int16)
    with wave.open(str(tmp_path / "sound.wav"), "wb") as file:
        file.setparams((1, 2, 16000, 0, "NONE", ""))
        file.writeframes(samples.numpy().tobytes())
    return folder


@torch.no_grad()
def test_sound_to_text(hearer: Path, capsysbinary) -> None:
    """Greedily as the processor of `transformers` writes; `jogak run` on a file; a beam finds no less likely text."""
    sound, rate = audio.read(hearer.parent / "sound.wav")
    processor = transformers.Wav2Vec2Processor.from_pretrained(hearer)
    theirs = transformers.Wav2Vec2ForCTC.from_pretrained(hearer).eval()
    given = processor(sound.numpy(), sampling_rate=rate, return_tensors="pt")
    wanted = processor.batch_decode(theirs(**given).logits.argmax(-1))[0]
    assert len(wanted) > 20
    model = jogak.load(str(hearer), device="cpu")
    greedy = model.transcribe(sound, rate)[0]
    assert greedy.text == wanted
    api.run_inputs(hearer, [str(hearer.parent / "sound.wav")], device="cpu")
    assert capsysbinary.readouterr().out.decode() == wanted + "\n"
    beams = model.transcribe(sound, rate, beam=8, n_best=3)
    assert len({answer.text for answer in beams}) == 3
    assert beams[0].score >= greedy.score
    api.run_inputs(hearer, [str(hearer.parent / "sound.wav")], as_json=True, device="cpu", beam=8)
    assert json.loads(capsysbinary.readouterr().out)["text"] == beams[0].text


def test_what_is_not_heard(hearer: Path, tmp_path: Path) -> None:
    for inputs, told in [
        (["some text"], "hears files of sound"),
        ([], "hears"),
        (["none.wav"], "there is no such file"),
    ]:
        with pytest.raises(UserError, match=told):
            api.run_inputs(hearer, inputs, device="cpu")
    (hearer / "vocab.json").unlink()
    with pytest.raises(UserError, match=r"vocab\.json: there is no such file"):
        api.run_inputs(hearer, [str(hearer.parent / "sound.wav")], device="cpu")
