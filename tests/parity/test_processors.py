"""Pictures and sound as numbers: the same as the processors of `transformers` make of them."""

import json
import math
import wave
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from jogak.codecs import audio, image
from jogak.errors import UserError

transformers = pytest.importorskip("transformers")
pil = pytest.importorskip("PIL.Image")
transformers.logging.set_verbosity_error()
CLOSE = 1e-4

PICTURES: dict[str, tuple[str, dict[str, Any]]] = {
    "vit": ("ViTImageProcessorPil", {"do_convert_rgb": True}),
    "vit-bicubic": (
        "ViTImageProcessorPil",
        {"do_convert_rgb": True, "resample": 3, "size": {"height": 30, "width": 41}},
    ),
    "vit-plain": ("ViTImageProcessorPil", {"do_convert_rgb": True, "do_normalize": False, "do_rescale": False}),
    "deit": ("DeiTImageProcessorPil", {"do_convert_rgb": True}),
    "deit-crop": (
        "DeiTImageProcessorPil",
        {"do_convert_rgb": True, "size": {"height": 20, "width": 31}, "crop_size": 25},
    ),
    "clip": ("CLIPImageProcessorPil", {}),
    "clip-large": ("CLIPImageProcessorPil", {"size": {"shortest_edge": 37}, "crop_size": {"height": 37, "width": 35}}),
}
SIZES = [(1, 1), (3, 250), (224, 224), (17, 31), (301, 77)]


def drawn(mode: str, height: int, width: int) -> Any:
    """A picture of noise on a slope."""
    channels = {"L": 1, "RGB": 3, "RGBA": 4}[mode]
    rng = np.random.default_rng(height * 1000 + width)
    slope = np.linspace(0, 150, height * width * channels).reshape(height, width, channels)
    pixels = (slope + rng.integers(0, 100, (height, width, channels))).astype(np.uint8)
    return pil.fromarray(pixels[..., 0] if channels == 1 else pixels)


@pytest.fixture(params=PICTURES, scope="module")
def processors(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> tuple[Any, image.Pictures]:
    name, settings = PICTURES[request.param]
    theirs = getattr(transformers, name)(**settings)
    folder = tmp_path_factory.mktemp("pictures")
    theirs.save_pretrained(folder)
    return theirs, image.Pictures.read(folder)


@pytest.mark.parametrize("mode", ["L", "RGB", "RGBA"])
def test_pictures(processors: tuple[Any, image.Pictures], mode: str, tmp_path: Path) -> None:
    theirs, ours = processors
    for size in SIZES:
        picture = drawn(mode, *size)
        wanted = theirs(picture, return_tensors="pt")["pixel_values"][0].float()
        assert torch.allclose(ours.encode(picture), wanted, atol=CLOSE, rtol=0)
    picture.save(tmp_path / "picture.png")
    assert torch.equal(ours.encode(tmp_path / "picture.png"), ours.encode(picture))
    assert torch.equal(ours.encode(np.array(picture)), ours.encode(picture))


def test_old_settings_of_one_number(tmp_path: Path) -> None:
    """As the first checkpoints of each kind have them: sizes as one number, the rest left to the kind."""
    old = {
        "ViTFeatureExtractor": {"size": 40},
        "DeiTFeatureExtractor": {"size": 50, "crop_size": 40},
        "CLIPFeatureExtractor": {"size": 40, "crop_size": 33, "resample": 3},
    }
    for name, settings in old.items():
        file = tmp_path / "preprocessor_config.json"
        file.write_text(json.dumps({"feature_extractor_type": name, **settings}))
        theirs = getattr(transformers, name.replace("FeatureExtractor", "ImageProcessorPil"))(**settings)
        picture = drawn("RGB", 71, 53)
        wanted = theirs(picture, return_tensors="pt")["pixel_values"][0]
        assert torch.allclose(image.Pictures.read(tmp_path).encode(picture), wanted, atol=CLOSE, rtol=0)


def test_settings_in_one_file_with_others(tmp_path: Path) -> None:
    nested = {"image_processor": {"image_processor_type": "CLIPImageProcessor", "crop_size": 30, "size": 30}}
    (tmp_path / "processor_config.json").write_text(json.dumps(nested))
    assert image.Pictures.read(tmp_path).encode(drawn("RGB", 40, 50)).shape == (3, 30, 30)


def test_pictures_that_are_none(tmp_path: Path) -> None:
    ours = image.Pictures()
    (tmp_path / "text.png").write_text("no picture")
    for wrong, told in [
        (tmp_path / "none.png", "no such file"),
        (tmp_path / "text.png", "not a picture"),
        (np.zeros((4, 4)), "uint8"),
        (np.zeros((4, 4, 2), np.uint8), "uint8"),
        (np.zeros((0, 4), np.uint8), "no pixels"),
        (pil.new("I;16", (4, 4)), "8 bits"),
    ]:
        with pytest.raises(UserError, match=told):
            ours.encode(wrong)
    with pytest.raises(UserError, match="make no batch"):
        image.Pictures(resize=None).encode_all([drawn("L", 4, 5), drawn("L", 5, 4)])
    assert ours.encode_all([drawn("L", 4, 5), drawn("RGB", 5, 4)]).shape == (2, 3, 224, 224)


@pytest.mark.parametrize(
    ("settings", "told"),
    [
        ({}, "image_processor_type"),
        ({"image_processor_type": "SamImageProcessor"}, "only CLIP, DeiT, ViT"),
        ({"image_processor_type": "ViTImageProcessor", "size": "large"}, "'size'"),
        ({"image_processor_type": "ViTImageProcessor", "size": {"height": 10**9, "width": 1}}, "'height'"),
        ({"image_processor_type": "ViTImageProcessor", "image_std": [0, 1, 1]}, "above 0"),
        ({"image_processor_type": "ViTImageProcessor", "do_pad": True}, "do_pad"),
    ],
)
def test_wrong_settings_of_pictures(settings: dict[str, Any], told: str, tmp_path: Path) -> None:
    (tmp_path / "preprocessor_config.json").write_text(json.dumps(settings))
    with pytest.raises(UserError, match=told) as error:
        image.Pictures.read(tmp_path)
    assert "preprocessor_config.json" in str(error.value)
    with pytest.raises(UserError, match="there is no preprocessor_config"):
        image.Pictures.read(tmp_path / "nowhere")


# ---------------------------------------------------------------- sound


def sounding(seconds: float, rate: int = 16000) -> Tensor:
    """Two tones and noise."""
    generator = torch.Generator().manual_seed(int(seconds * 10))
    t = torch.arange(int(seconds * rate)) / rate
    tones = 0.3 * (2 * math.pi * 440 * t).sin() + 0.2 * (2 * math.pi * 3000 * t).sin()
    return tones + 0.05 * torch.randn(len(t), generator=generator)


SOUNDS = {"short": 0.7, "odd": 3.21007, "whole": 30.0, "long": 47.3, "silence": 2.0, "none": 0.0}


@pytest.mark.parametrize("name", SOUNDS)
@pytest.mark.parametrize("settings", [{}, {"feature_size": 128}], ids=["80", "128"])
def test_log_mel(name: str, settings: dict[str, int], tmp_path: Path) -> None:
    theirs = transformers.WhisperFeatureExtractor(**settings)
    theirs.save_pretrained(tmp_path)
    ours = audio.LogMel.read(tmp_path)
    sound = sounding(SOUNDS[name]) * (name != "silence")
    frames, mask = ours.encode(sound)
    told = theirs(sound.numpy(), sampling_rate=16000, return_tensors="pt", return_attention_mask=True)
    assert torch.allclose(frames[:1], told["input_features"], atol=CLOSE, rtol=0)
    assert mask is not None
    assert torch.equal(mask[:1], told["attention_mask"].bool())
    assert len(frames) == (2 if name == "long" else 1)
    if name == "long":  # and what theirs leaves out
        rest = theirs(sound[30 * 16000 :].numpy(), sampling_rate=16000, return_tensors="pt")["input_features"]
        assert torch.allclose(frames[1:], rest, atol=CLOSE, rtol=0)


@pytest.mark.parametrize("settings", [{}, {"do_normalize": False}, {"return_attention_mask": True}])
def test_waves(settings: dict[str, bool], tmp_path: Path) -> None:
    theirs = transformers.Wav2Vec2FeatureExtractor(**settings)
    theirs.save_pretrained(tmp_path)
    ours = audio.Waves.read(tmp_path)
    sounds = [sounding(0.5) + 0.1, sounding(1.21007) * 0.01, torch.zeros(900), torch.full((7,), 0.25)]
    values, mask = ours.encode_all(sounds)
    told = theirs([s.numpy() for s in sounds], sampling_rate=16000, return_tensors="pt", padding=True)
    for sound, row in zip(sounds, values, strict=True):
        alone = theirs(sound.numpy(), sampling_rate=16000, return_tensors="pt")["input_values"][0]
        assert torch.allclose(row[: len(sound)], alone, atol=CLOSE, rtol=0)
        assert not row[len(sound) :].any()
    if ours.masked or not ours.norm:  # without a mask theirs counts the zeros behind a sound to its mean
        assert torch.allclose(values, told["input_values"], atol=CLOSE, rtol=0)
    assert (mask is not None) == ("attention_mask" in told)
    if mask is not None:
        assert torch.equal(mask, told["attention_mask"].bool())


@pytest.mark.parametrize(("rate", "wanted"), [(44100, 16000), (8000, 16000), (48000, 16000), (16000, 16000)])
def test_other_rates(rate: int, wanted: int) -> None:
    """A tone that both rates can hold stays the same tone; one that the new rate cannot hold is gone."""
    t = torch.arange(rate // 5, dtype=torch.float64) / rate
    found = audio.resample((2 * math.pi * 1000 * t).sin().float(), rate, wanted)
    assert len(found) == math.ceil(len(t) * wanted / rate)
    at = torch.arange(len(found), dtype=torch.float64) / wanted
    error = (found - (2 * math.pi * 1000 * at).sin())[200:-200].abs().max()
    assert float(error) < 1e-3
    if rate > wanted:
        high = audio.resample((2 * math.pi * 11000 * t).sin().float(), rate, wanted)
        assert float(high[200:-200].abs().max()) < 1e-2
    frames, mask = audio.LogMel().encode((2 * math.pi * 1000 * t).sin(), rate)
    assert mask is not None
    assert int(mask.sum()) == 20  # 0.2 s in frames of 10 ms
    assert int(frames[0, :, 10].argmax()) == int(audio.LogMel().encode(found)[0][0, :, 10].argmax())


@pytest.mark.parametrize("width", [1, 2, 3, 4])
@pytest.mark.parametrize("channels", [1, 2])
def test_wav_files(width: int, channels: int, tmp_path: Path) -> None:
    wanted = torch.tensor([0.0, 0.5, -0.5, -1.0, 0.25]).double()
    whole = (wanted * 2 ** (8 * width - 1)).long() + (128 if width == 1 else 0)
    raw = b"".join(int(v).to_bytes(width, "little", signed=width > 1) * channels for v in whole)
    with wave.open(str(tmp_path / "a.wav"), "wb") as file:
        file.setnchannels(channels)
        file.setsampwidth(width)
        file.setframerate(8000)
        file.writeframes(raw)
    found, rate = audio.read(tmp_path / "a.wav")
    assert rate == 8000
    assert torch.equal(found, wanted.float())
    again, rate = audio.read(tmp_path / "a.wav", 16000)
    assert (rate, len(again)) == (16000, 10)


def test_sounds_that_are_none(tmp_path: Path) -> None:
    (tmp_path / "text.wav").write_text("no sound")
    with pytest.raises(UserError, match=r"text\.wav"):
        audio.read(tmp_path / "text.wav")
    with pytest.raises(UserError, match="no such file"):
        audio.read(tmp_path / "none.wav")
    for wrong, told in [
        (torch.zeros(2, 5), "one channel"),
        (torch.zeros(5, dtype=torch.int64), "from -1 to 1"),
        (torch.tensor([0.0, torch.nan]), "NaN"),
    ]:
        with pytest.raises(UserError, match=told):
            audio.LogMel().encode(wrong)
    with pytest.raises(UserError, match="no samples"):
        audio.Waves().encode([])
    (tmp_path / "preprocessor_config.json").write_text('{"feature_extractor_type": "ClapFeatureExtractor"}')
    with pytest.raises(UserError, match="only Whisper"):
        audio.LogMel.read(tmp_path)
