"""What wav2vec 2.0 does that the test of all families cannot ask of theirs: padding that changes nothing."""

from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file

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
