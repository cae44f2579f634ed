"""Parameter counts of the published models, worked out from the architecture as the paper describes it."""

import pytest

from jogak import config, models

VOCABULARY = 37_000  # section 5.1: "a shared source-target vocabulary of about 37000 tokens"


def _count_2017(width: int, inner: int, layers: int) -> int:
    """Vaswani et al. 2017: no bias in attention's projections, biases in both feedforward layers, tied embeddings."""
    attention = 4 * width * width  # W_Q, W_K, W_V and W_O over all heads
    feedforward = (width * inner + inner) + (inner * width + width)
    norm = 2 * width  # gain and bias
    encoder_layer = attention + feedforward + 2 * norm
    decoder_layer = 2 * attention + feedforward + 3 * norm
    return VOCABULARY * width + layers * (encoder_layer + decoder_layer)


@pytest.mark.parametrize(
    ("name", "width", "inner", "millions"),
    [("transformer-base", 512, 2048, 65), ("transformer-big", 1024, 4096, 213)],
)
def test_the_2017_transformer_has_the_papers_parameters(name, width, inner, millions):
    model = models.build(config.read_preset(name), device="meta")
    count = models.parameter_count(model)
    assert count == _count_2017(width, inner, layers=6)
    # Table 3 rounds, and its vocabulary is "about" 37,000: a few per cent.
    assert count / 1e6 == pytest.approx(millions, rel=0.04)


def test_base_has_the_papers_shape():
    preset = config.read_preset("transformer-base")
    for side in ("encoder", "decoder"):
        stack = preset.stack(side)
        assert stack.depth == 6
        assert stack.placement == "post"
        assert [m.options["heads"] for m in stack.pattern] == [8]
    assert preset.dropout == 0.1


def test_seq2seq_has_the_papers_parameters():
    """Sutskever et al. 2014, section 3.4: 384M parameters, of which 32M are each LSTM's pure recurrent connections."""
    model = models.build(config.read_preset("seq2seq"), device="meta")
    assert isinstance(model, models.EncoderDecoder)
    matrices = 4 * 4 * (1000 * 1000 + 1000 * 1000)  # layers, gates, W and U
    biases = 4 * 4 * (1000 + 1000)
    for coder in (model.encoder, model.decoder):
        assert models.parameter_count(coder.stack) == matrices + biases
        assert matrices == 32_000_000
    embeddings = 1000 * (160_000 + 80_000 + 80_000)
    assert models.parameter_count(model) == 2 * (matrices + biases) + embeddings
    assert (2 * matrices + embeddings) / 1e6 == 384
