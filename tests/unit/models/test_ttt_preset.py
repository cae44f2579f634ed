"""The parameters of ttt-125m, worked out from the paper's architecture."""

import pytest

from jogak import config, models

VOCABULARY, WIDTH, HEADS, LAYERS, INNER, PLACES, TAPS = 32_000, 768, 12, 12, 2048, 16, 4


def _count(*, mlp: bool = False, mamba: bool = True) -> int:
    head = WIDTH // HEADS
    q_and_k = WIDTH * WIDTH if mamba else 2 * WIDTH * WIDTH  # the Mamba backbone's q and k share a projection,
    convolutions = 2 * WIDTH * (TAPS + 1) if mamba else 0  # and differ by a short convolution each, with bias
    gate = WIDTH * WIDTH if mamba else 0
    value_and_out = 2 * WIDTH * WIDTH
    rates = HEADS * (WIDTH + 1) + PLACES  # theta_lr of each head with a bias, and a number for each place
    linear = (head + 1) * head  # W and b
    two_layers = (head + 1) * 4 * head + (4 * head + 1) * head
    inner = HEADS * (two_layers if mlp else linear) + 2 * WIDTH  # and the inner LayerNorm of every head
    norms = 2 * WIDTH + 2 * WIDTH  # the LayerNorm behind the heads; an RMSNorm before each part of the block
    feedforward = 3 * WIDTH * INNER
    layer = q_and_k + convolutions + gate + value_and_out + rates + inner + norms + feedforward
    return VOCABULARY * WIDTH + LAYERS * layer + WIDTH  # the last RMSNorm; the head is the embedding


@pytest.mark.parametrize(
    ("options", "count"),
    [
        ({}, _count()),
        ({"inner": "mlp"}, _count(mlp=True)),
        ({"conv": 0, "gate": False}, _count(mamba=False)),
    ],
    ids=["linear", "mlp", "transformer"],
)
def test_ttt_125m_has_the_papers_parameters(options, count):
    preset = config.read_preset("ttt-125m")
    stack = preset.stack("decoder")
    mixer = config.Mixer(name="ttt", **{**stack.pattern[0].options, **options})
    changed = preset.model_copy(update={"decoder": stack.model_copy(update={"pattern": (mixer,)})})
    assert models.parameter_count(models.build(changed, device="meta")) == count


def test_ttt_125m_is_as_large_as_its_name():
    """The name counts the embedding and the head apart, as for GPT-3 125M, whose sizes the paper takes over."""
    count = models.parameter_count(models.build(config.read_preset("ttt-125m"), device="meta"))
    assert pytest.approx(count + VOCABULARY * WIDTH, rel=0.09) == 125e6
