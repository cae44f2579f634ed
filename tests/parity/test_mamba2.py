"""Mamba-2 beside `transformers`' plain torch path: the same weights, outputs, gradients and cached steps."""

import pytest
import torch
from transformers import Mamba2Config, Mamba2ForCausalLM

from jogak.errors import UserError
from jogak.mixers.mamba2 import Mamba2
from tests.parity import state_space as both

STATE, HEAD = 5, 8
MIXER = {
    "inner.weight": "in_proj.weight",
    "conv_weight": "conv1d.weight",
    "conv_bias": "conv1d.bias",
    "dt_bias": "dt_bias",
    "a_log": "A_log",
    "d": "D",
    "norm.weight": "norm.weight",
    "out.weight": "out_proj.weight",
}


def theirs(groups: int) -> Mamba2ForCausalLM:
    torch.manual_seed(0)
    given = Mamba2Config(
        vocab_size=both.VOCABULARY,
        hidden_size=both.WIDTH,
        state_size=STATE,
        head_dim=HEAD,
        num_heads=2 * both.WIDTH // HEAD,
        n_groups=groups,
        num_hidden_layers=both.DEPTH,
        chunk_size=16,
        tie_word_embeddings=True,
    )
    model = both.stirred(Mamba2ForCausalLM(given))
    assert isinstance(model, Mamba2ForCausalLM)
    return model


@pytest.mark.parametrize("groups", [1, 2])
@pytest.mark.parametrize("length", [2, 33, 70])
def test_layer(length, groups):
    mixer = Mamba2(both.WIDTH, state=STATE, head_dim=HEAD, groups=groups).eval()
    both.layers_agree(mixer, theirs(groups).backbone.layers[1].mixer, MIXER, length)


@pytest.mark.parametrize("groups", [1, 3])
def test_model(groups):
    model = both.decoder(name="mamba2", state=STATE, head_dim=HEAD, groups=groups)
    both.models_agree(model, theirs(groups), both.named(MIXER))


@pytest.mark.parametrize("groups", [1, 2])
def test_cached_steps(groups):
    model = both.decoder(name="mamba2", state=STATE, head_dim=HEAD, groups=groups)
    both.steps_agree(model, theirs(groups), both.named(MIXER))


def test_the_limit_of_steps_bites() -> None:
    """Steps outside of the limit are what the limit says, to the bit."""
    torch.manual_seed(0)
    free = Mamba2(16, state=4, head_dim=8)
    limited = Mamba2(16, state=4, head_dim=8, dt_limit=(0.05, 0.05))
    limited.load_state_dict(free.state_dict())
    x = torch.randn(2, 9, 16)
    assert not torch.equal(free(x)[0], limited(x)[0])
    with torch.no_grad():  # softplus(b) = 0.05, whatever the input says
        free.inner.weight[-free.heads :] = 0
        free.dt_bias.fill_(torch.tensor(0.05).expm1().log().item())
    assert torch.allclose(free(x)[0], limited(x)[0], atol=1e-6)
    with pytest.raises(UserError, match="dt_limit must be"):
        Mamba2(16, dt_limit=(0.2, 0.1))
