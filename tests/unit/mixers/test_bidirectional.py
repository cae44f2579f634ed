"""What bidirectional is made of, and what it refuses."""

import pytest
import torch

from jogak import config, mixers, models
from jogak.errors import UserError
from jogak.mixers import Context

ATTENTION = {"name": "attention", "heads": 4}


def test_the_second_direction_reads_from_the_end():
    mixer = mixers.build("bidirectional", d_model=8, inner=ATTENTION)
    x = torch.randn(2, 5, 8, generator=torch.Generator().manual_seed(0))
    there = mixer.forwards(x)[0]
    back = mixer.backwards(x.flip(1))[0].flip(1)
    torch.testing.assert_close(mixer(x)[0], mixer.out(torch.cat([there, back], -1)))
    assert mixer.forwards.causal
    assert mixer.forwards.qkv.weight is not mixer.backwards.qkv.weight


def test_given_positions_keep_their_distances():
    """Those that are counted from the start, and those with gaps, mean the same in both directions."""
    mixer = mixers.build("bidirectional", d_model=8, inner={**ATTENTION, "position": "alibi"})
    x = torch.randn(1, 6, 8, generator=torch.Generator().manual_seed(0))
    counted = torch.arange(6).unsqueeze(0)
    torch.testing.assert_close(mixer(x, None, Context(positions=counted + 11))[0], mixer(x)[0])
    assert not torch.allclose(mixer(x, None, Context(positions=3 * counted))[0], mixer(x)[0])


@pytest.mark.parametrize(
    ("inner", "sentence"),
    [
        ("atention", "did you mean 'attention'"),
        ({"heads": 4}, "must name a mixer"),
        ({**ATTENTION, "causal": True}, "must not say 'causal'"),
        ({**ATTENTION, "hedas": 2}, "did you mean 'heads'"),
        ({"name": "bidirectional", "inner": "attention"}, "looks both ways already"),
    ],
)
def test_what_does_not_fit_is_one_sentence(inner, sentence):
    with pytest.raises(UserError, match=sentence):
        mixers.build("bidirectional", d_model=8, inner=inner)


def test_without_an_inner_mixer_it_says_what_to_write():
    with pytest.raises(UserError, match=r"needs option 'inner'; write \{name: bidirectional, inner: \.\.\.\}"):
        mixers.build("bidirectional", d_model=8)


def test_it_is_an_encoders():
    pattern = ({"name": "bidirectional", "inner": ATTENTION},)
    stack = config.Stack(depth=1, pattern=pattern)
    assert models.build(config.Model(topology="encoder", width=8, encoder=stack), 10)
    with pytest.raises(UserError, match="looks ahead, which a decoder must not"):
        models.build(config.Model(topology="decoder", width=8, decoder=stack), 10)
