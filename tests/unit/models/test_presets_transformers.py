"""The models that people name: parameters worked out from the papers, and as the published checkpoints have them."""

import pytest

from jogak import config, models


def _count(name: str) -> int:
    return models.parameter_count(models.build(config.read_preset(name), device="meta"))


def _block(width: int) -> int:
    """Attention and a feedforward four times as wide, all with biases, and two norms."""
    attention = 4 * width * width + 4 * width
    feedforward = 8 * width * width + 5 * width
    return attention + feedforward + 2 * 2 * width


@pytest.mark.parametrize(
    ("name", "width", "depth", "vocabulary", "positions", "published"),
    [
        ("gpt-1", 768, 12, 40_478, 512, 116_534_784),  # "117M"
        ("gpt-2", 768, 12, 50_257, 1024, 124_439_808),
        ("gpt-2-medium", 1024, 24, 50_257, 1024, 354_823_168),  # "345M"
        ("gpt-2-large", 1280, 36, 50_257, 1024, 774_030_080),  # "762M"
        ("gpt-2-xl", 1600, 48, 50_257, 1024, 1_557_611_200),  # "1542M"
        ("gpt-3-175b", 12288, 96, 50_257, 2048, 174_604_259_328),  # "175.0B"; no checkpoint is published
    ],
)
def test_gpt(name: str, width: int, depth: int, vocabulary: int, positions: int, published: int) -> None:
    final_norm = 0 if name == "gpt-1" else 2 * width
    count = _count(name)
    assert count == (vocabulary + positions) * width + depth * _block(width) + final_norm
    assert count == published


@pytest.mark.parametrize(
    ("name", "width", "depth", "published"),
    [("bert-base", 768, 12, 109_482_240), ("bert-large", 1024, 24, 335_141_888)],  # "110M", "340M"
)
def test_bert(name: str, width: int, depth: int, published: int) -> None:
    embeddings = (30_522 + 512 + 2) * width + 2 * width
    pooler = width * width + width
    count = _count(name)
    assert count == embeddings + depth * _block(width) + pooler
    assert count == published


@pytest.mark.parametrize(
    ("name", "width", "depth", "heads", "head", "inner", "published"),
    [
        ("t5-small", 512, 6, 8, 64, 2048, 60_506_624),
        ("t5-base", 768, 12, 12, 64, 3072, 222_903_552),
        ("t5-large", 1024, 24, 16, 64, 4096, 737_668_096),
        ("t5-3b", 1024, 24, 32, 128, 16384, 2_851_598_336),
        ("t5-11b", 1024, 24, 128, 128, 65536, 11_307_321_344),
    ],
)
def test_t5(name: str, width: int, depth: int, heads: int, head: int, inner: int, published: int) -> None:
    """No biases, norms without a shift, one table of 32 distances for each side."""
    attention, feedforward = 4 * width * heads * head, 2 * width * inner
    encoder = depth * (attention + feedforward + 2 * width) + width + 32 * heads
    decoder = depth * (2 * attention + feedforward + 3 * width) + width + 32 * heads
    count = _count(name)
    assert count == 32_128 * width + encoder + decoder
    assert count == published
    given = config.read_preset(name)
    assert given.head.scale == pytest.approx(width**-0.5, rel=1e-5)


@pytest.mark.parametrize(
    ("name", "vocabulary", "experts", "published"),
    [("llama-3-8b", 128_256, 1, 8_030_261_248), ("mixtral-8x7b", 32_000, 8, 46_702_792_704)],
)
def test_llama_and_mixtral(name: str, vocabulary: int, experts: int, published: int) -> None:
    width, inner, depth = 4096, 14336, 32
    attention = 2 * width * width + 2 * width * 1024  # 8 of 32 heads for keys and values
    router = width * experts if experts > 1 else 0
    block = attention + experts * 3 * width * inner + router + 2 * width
    count = _count(name)
    assert count == 2 * vocabulary * width + depth * block + width
    assert count == published
