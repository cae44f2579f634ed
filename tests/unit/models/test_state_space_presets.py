"""Parameter counts of the published state-space models, worked out from the papers and their configurations."""

import pytest

from jogak import config, models

STATE, TAPS = 16, 4


def _mamba(width: int) -> int:
    """Gu & Dao 2023: E = 2 D, R = D / 16, N = 16, a convolution of 4 taps with a bias, no bias in projections."""
    inner, rank = 2 * width, width // 16
    convolution = inner * TAPS + inner
    selection = inner * (rank + 2 * STATE) + rank * inner + inner  # x to r, B, C; r to dt, with a bias
    recurrence = inner * STATE + inner  # A and D
    return width * 2 * inner + convolution + selection + recurrence + inner * width


def _mamba2(width: int, state: int, head: int) -> int:
    """Dao & Gu 2024: one projection to z, x, B, C and dt; A, D and a bias of dt for each head; a norm in the middle."""
    inner, heads = 2 * width, 2 * width // head
    mixed = inner + 2 * state
    return width * (inner + mixed + heads) + mixed * TAPS + mixed + 3 * heads + inner + inner * width


@pytest.mark.parametrize(
    ("name", "width", "depth", "published"),
    [
        ("mamba-130m", 768, 24, 129_135_360),
        ("mamba-370m", 1024, 48, 371_516_416),
        ("mamba-790m", 1536, 48, 793_204_224),
        ("mamba-1.4b", 2048, 48, 1_372_178_432),
        ("mamba-2.8b", 2560, 64, 2_768_345_600),
    ],
)
def test_mamba_has_the_published_parameters(name, width, depth, published):
    count = models.parameter_count(models.build(config.read_preset(name), device="meta"))
    assert count == 50_280 * width + depth * (_mamba(width) + width) + width
    assert count == published


def test_mamba2_has_the_published_parameters():
    count = models.parameter_count(models.build(config.read_preset("mamba2-130m"), device="meta"))
    assert count == 50_288 * 768 + 24 * (_mamba2(768, 128, 64) + 768) + 768
    assert round(count / 1e6) == 129


def test_one_mixer_in_eight_of_the_hybrid_is_attention():
    model = models.build(config.read_preset("hybrid-small"), device="meta")
    assert isinstance(model, models.Decoder)
    kinds = [type(block.mixer).__name__ for block in model.decoder.stack.blocks]
    assert [i for i, kind in enumerate(kinds) if kind == "Attention"] == [4, 12]
    assert set(kinds) == {"Attention", "Mamba"}
    attention = 512 * (512 + 2 * 128) + 512 * 512
    feedforward = 3 * 512 * 1408
    layers = 14 * _mamba(512) + 2 * attention + 16 * (feedforward + 2 * 512)
    assert models.parameter_count(model) == 32_000 * 512 + layers + 512
