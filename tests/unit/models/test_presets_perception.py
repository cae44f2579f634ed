"""Models of pictures and sound that people name: parameters worked out from the papers, and as published."""

import pytest

from jogak import config, models
from jogak.models.cost import cost


def _count(name: str) -> int:
    return models.parameter_count(models.build(config.read_preset(name), device="meta"))


def _block(width: int) -> int:
    """Attention and a feedforward four times as wide, all with biases, and two norms."""
    return 12 * width * width + 13 * width


@pytest.mark.parametrize(
    ("name", "width", "depth", "published"),
    [("vit-b16", 768, 12, 86_567_656), ("vit-l16", 1024, 24, 304_326_632)],  # "86M", "307M"
)
def test_vit(name: str, width: int, depth: int, published: int) -> None:
    patches = 3 * 16 * 16 * width + width
    positions = (14 * 14 + 1) * width + width  # and the class token
    count = _count(name)
    assert count == patches + positions + depth * _block(width) + 2 * width + 1000 * width + 1000
    assert count == published


@pytest.mark.parametrize(
    ("name", "width", "depth", "vocabulary", "mels", "published"),
    [
        ("whisper-tiny", 384, 4, 51_865, 80, 37_760_640),  # "39M"
        ("whisper-base", 512, 6, 51_865, 80, 72_593_920),  # "74M"
        ("whisper-small", 768, 12, 51_865, 80, 241_734_912),  # "244M"
        ("whisper-medium", 1024, 24, 51_865, 80, 763_857_920),  # "769M"
        ("whisper-large-v3", 1280, 32, 51_866, 128, 1_543_490_560),  # "1550M"
    ],
)
def test_whisper(name: str, width: int, depth: int, vocabulary: int, mels: int, published: int) -> None:
    """Published keys have no bias; ours do, and it changes no weight."""
    frames = 3 * mels * width + width + 3 * width * width + width
    cross = 4 * width * width + 4 * width + 2 * width
    positions = (1500 + 448) * width
    whole = frames + positions + depth * (2 * _block(width) + cross) + 4 * width + vocabulary * width
    count = _count(name)
    assert count == whole
    assert count - 3 * depth * width == published


def test_wav2vec2() -> None:
    width, depth = 768, 12
    convolutions = 512 * (10 + 512 * (3 * 4 + 2 * 2)) + 2 * 512
    projection = 2 * 512 + 512 * width + width
    position = width * width // 16 * 128 + 128 + width + 2 * width
    count = _count("wav2vec2-base")
    assert count == convolutions + projection + width + position + depth * _block(width)
    assert count == 94_371_712  # "95M"


def test_clip() -> None:
    pictures = 3 * 32 * 32 * 768 + (7 * 7 + 1) * 768 + 768 + 4 * 768 + 12 * _block(768) + 768 * 512
    words = (49_408 + 77) * 512 + 12 * _block(512) + 2 * 512 + 512 * 512
    count = _count("clip-vit-b32")
    assert count == pictures + words + 1
    assert count == 151_277_313  # "151M"
    assert cost(config.read_preset("clip-vit-b32"), 77).parameters == count


def test_what_they_cost_is_planned() -> None:
    """Their inputs are no units; a picture of ViT-B/16 takes 17.6 billion multiplications (2010.11929, table 6)."""
    assert cost(config.read_preset("vit-b16"), 197).forward_flops == pytest.approx(2 * 17.58e9, rel=0.01)
    found = cost(config.read_preset("whisper-tiny"), 448)
    assert found.decoding_flops > 0
    assert cost(config.read_preset("wav2vec2-base"), 49).forward_flops > 0
