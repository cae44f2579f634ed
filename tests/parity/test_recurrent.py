"""rnn, lstm and gru beside torch.nn's modules: the same weights, inputs, outputs, states and gradients."""

import pytest
import torch
from torch import nn

from jogak import mixers
from jogak.mixers import Context
from tests.laws.support import close, noise

PEERS = {"rnn": nn.RNN, "lstm": nn.LSTM, "gru": nn.GRU}
WIDTH = 20


def _pair(name):
    """A mixer and torch's module with its weights, in float32."""
    mixer = mixers.build(name, d_model=WIDTH)
    peer = PEERS[name](WIDTH, WIDTH, batch_first=True)
    mixer.cell.load_state_dict({key.removesuffix("_l0"): value for key, value in peer.state_dict().items()})
    return mixer, peer


@pytest.mark.parametrize("name", PEERS)
@pytest.mark.parametrize("length", [1, 65])
def test_outputs_states_and_gradients_are_torchs(name, length):
    mixer, peer = _pair(name)
    x = noise(3, length, WIDTH, seed=0, device="cpu")
    ours, theirs = x.clone().requires_grad_(), x.clone().requires_grad_()
    y, state = mixer(ours)
    expected, last = peer(theirs)
    close(y, expected, "output")
    ends = last if name == "lstm" else (last,)
    for held, wanted in zip((state[n] for n in ("h", "c") if n in state), ends, strict=True):
        close(held, wanted[0], "state")
    weight = noise(*y.shape, seed=1, device="cpu")
    (y * weight).sum().backward()
    (expected * weight).sum().backward()
    close(ours.grad, theirs.grad, "gradient of x")
    for key, parameter in peer.named_parameters():
        close(getattr(mixer.cell, key.removesuffix("_l0")).grad, parameter.grad, f"gradient of {key}")


@pytest.mark.parametrize("name", PEERS)
def test_padded_rows_end_as_torchs_packed_sequences_do(name):
    mixer, peer = _pair(name)
    x, lengths = noise(3, 12, WIDTH, seed=2, device="cpu"), torch.tensor([12, 5, 1])
    mask = torch.arange(12) < lengths.unsqueeze(1)
    packed = nn.utils.rnn.pack_padded_sequence(x, lengths, batch_first=True)
    expected, last = peer(packed)
    expected, _ = nn.utils.rnn.pad_packed_sequence(expected, batch_first=True)
    y, state = mixer(x, None, Context(mask=mask))
    close(y, expected, "output")
    close(state["h"], (last[0] if name == "lstm" else last)[0], "h")
    if name == "lstm":
        close(state["c"], last[1][0], "c")
