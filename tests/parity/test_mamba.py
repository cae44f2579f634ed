"""Mamba beside `transformers`' plain torch path: the same weights, outputs, gradients and cached steps."""

import pytest
import torch
from transformers import MambaConfig, MambaForCausalLM

from jogak.mixers import Context
from jogak.mixers.mamba import Mamba
from tests.laws.support import close
from tests.parity import state_space as both

OPTIONS = {"state": 5, "dt_rank": 3}
MIXER = {
    "inner.weight": "in_proj.weight",
    "conv_weight": "conv1d.weight",
    "conv_bias": "conv1d.bias",
    "select.weight": "x_proj.weight",
    "dt_weight": "dt_proj.weight",
    "dt_bias": "dt_proj.bias",
    "a_log": "A_log",
    "d": "D",
    "out.weight": "out_proj.weight",
}


def theirs() -> MambaForCausalLM:
    torch.manual_seed(0)
    given = MambaConfig(
        vocab_size=both.VOCABULARY,
        hidden_size=both.WIDTH,
        state_size=5,
        time_step_rank=3,
        num_hidden_layers=both.DEPTH,
        use_mambapy=False,
    )
    model = both.stirred(MambaForCausalLM(given))
    assert isinstance(model, MambaForCausalLM)
    return model


@pytest.mark.parametrize("length", [1, 2, 33, 70])
def test_layer(length):
    both.layers_agree(Mamba(both.WIDTH, **OPTIONS).eval(), theirs().backbone.layers[1].mixer, MIXER, length)


def test_model():
    both.models_agree(both.decoder(name="mamba", **OPTIONS), theirs(), both.named(MIXER))


def test_cached_steps():
    both.steps_agree(both.decoder(name="mamba", **OPTIONS), theirs(), both.named(MIXER))


def test_right_padding():
    """Theirs is told of padding by a mask too, with which it silences padded places."""
    other, model = theirs(), both.decoder(name="mamba", **OPTIONS)
    both.copy(model, other, both.named(MIXER))
    ids = torch.randint(both.VOCABULARY, (2, 12), generator=torch.Generator().manual_seed(5))
    mask = torch.ones(2, 12, dtype=torch.bool)
    mask[1, 7:] = False
    with torch.no_grad():
        expected = other(ids, attention_mask=mask.long()).logits
        logits, _ = model.decode(ids, None, Context(mask=mask))
    close(logits[mask], expected[mask], "logits", tolerance=both.TOLERANCE)
