"""What retention, linear attention and RG-LRU refuse to be built with, and what they start from."""

import pytest
import torch

from jogak import config, mixers, models
from jogak.errors import UserError


@pytest.mark.parametrize(
    ("name", "options", "words"),
    [
        ("retention", {"heads": 3}, ("heads (3)", "multiples")),
        ("retention", {"heads": 0}, ("heads (0)",)),
        ("retention", {"heads": 4, "value_dim": 30}, ("value_dim (30)",)),
        ("retention", {"heads": 32}, ("even head width",)),
        ("retention", {"norm": "group"}, ("no norm 'group'",)),
        ("retention", {"backend": "chunk"}, ("no backend 'chunk'", "chunkwise")),
        ("linear_attention", {"heads": 5}, ("heads (5)", "head_dim")),
        ("linear_attention", {"feature": "relu"}, ("no feature 'relu'",)),
        ("linear_attention", {"backend": "paralel"}, ("parallel",)),
        ("rglru", {"blocks": 5}, ("blocks (5)", "multiple")),
        ("rglru", {"taps": 0}, ("taps", "at least 1")),
        ("rglru", {"activation": "geglu"}, ("no activation 'geglu'", "gelu")),
        ("rglru", {"backend": "tree"}, ("no backend 'tree'",)),
        ("attention", {"position": "rotary", "rotary_dim": 3}, ("even part", "3")),
        ("attention", {"position": "rotary", "rotary_dim": 64}, ("even part", "64")),
    ],
)
def test_what_does_not_fit_is_refused(name, options, words):
    with pytest.raises(UserError) as caught:
        mixers.build(name, d_model=32, **options)
    for word in words:
        assert word in str(caught.value)


def test_an_encoder_of_retention_names_the_way_out():
    given = config.Model.model_validate(
        {"topology": "encoder", "vocab_size": 9, "width": 32, "encoder": {"pattern": ["retention"]}}
    )
    with pytest.raises(UserError, match="bidirectional, inner: retention"):
        models.build(given)


def test_heads_of_retention_fade_at_the_papers_rates():
    """2307.08621, equation 8: 1 - 2^(-5 - h), also where parameters are bfloat16."""
    mixer = mixers.build("retention", d_model=32, heads=4).to(torch.bfloat16)
    state = mixer.init_state(1, dtype=torch.bfloat16)
    assert mixer.decay(state["sum"]).tolist() == [1 - 2.0**-exponent for exponent in (5, 6, 7, 8)]


def test_rglru_remembers_from_the_start():
    """2402.19427, section 2.4: sigmoid(Lambda)^8 is uniform between 0.9 and 0.999."""
    rate = mixers.build("rglru", d_model=4096).rate
    kept = torch.sigmoid(rate.double()) ** 8
    assert 0.9 < kept.min() < 0.91
    assert 0.99 < kept.max() < 0.9991
    assert abs(kept.mean() - 0.9495) < 0.003
