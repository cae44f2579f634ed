"""Parameter counts of retention and RG-LRU models, worked out from the architecture as published."""

import pytest

from jogak import config, models

VOCABULARY = 256_000  # of the authors' code for Griffin


def _mlp(width: int) -> int:
    """Two branches of 3 D, multiplied, and a projection back, all with biases (2402.19427, section 2.2)."""
    return 2 * (width * 3 * width + 3 * width) + 3 * width * width + width


def _recurrent(width: int, recurrent: int, heads: int) -> int:
    """Section 2.3: two branches and a way back; a convolution of 4 taps; the RG-LRU's two block-diagonal gates."""
    projections = 2 * (width * recurrent + recurrent) + recurrent * width + width
    convolution = 4 * recurrent + recurrent
    gates = 2 * (heads * (recurrent // heads) ** 2 + recurrent)
    return projections + convolution + gates + recurrent  # and Lambda


def _attention(width: int, heads: int) -> int:
    """Multi-query: one key and value head; a bias on the way out only."""
    return width * width + 2 * width * (width // heads) + width * width + width


def _griffin(width: int, recurrent: int, heads: int, kinds: str) -> int:
    """kinds: r or a for each layer; a layer has two RMS norms, and there is one at the end; tied embeddings."""
    mixers = {"r": _recurrent(width, recurrent, heads), "a": _attention(width, heads)}
    layers = sum(mixers[kind] + _mlp(width) + 2 * width for kind in kinds)
    return VOCABULARY * width + layers + width


@pytest.mark.parametrize(
    ("name", "width", "recurrent", "heads", "kinds", "billions"),
    [
        ("recurrentgemma-2b", 2560, 2560, 10, ("rra" * 9)[:26], 2.7),  # 2404.07839, table 1
        ("recurrentgemma-9b", 4096, 4096, 16, ("rra" * 13)[:38], 8.6),
        ("griffin-7b", 4096, 5632, 32, ("rra" * 11)[:32], None),  # the paper's vocabulary is not said
        ("hawk-7b", 4096, 5632, 32, "r" * 32, None),
    ],
)
def test_griffins_have_the_published_parameters(name, width, recurrent, heads, kinds, billions):
    count = models.parameter_count(models.build(config.read_preset(name), device="meta"))
    assert count == _griffin(width, recurrent, heads, kinds)
    if billions is not None:
        assert count / 1e9 == pytest.approx(billions, rel=0.02)
    else:
        assert (count - VOCABULARY * width) / 1e9 == pytest.approx(7, rel=0.08), "7B without embeddings"


def test_retnet_has_the_papers_parameters():
    """Section 2.3: 8 D^2 in retention (W_Q, W_K: D^2, W_V, W_G, W_O: 2 D^2) and 4 D^2 in the feedforward."""
    width, layers, vocabulary = 2048, 24, 50257
    count = models.parameter_count(models.build(config.read_preset("retnet-1.3b"), device="meta"))
    norms = (2 * layers + 1) * 2 * width  # layer norms: two a layer and one at the end
    assert count == vocabulary * width + layers * 12 * width**2 + norms
    assert count / 1e9 == pytest.approx(1.3, rel=0.02)
