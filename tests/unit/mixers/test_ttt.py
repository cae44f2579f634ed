"""What test-time training owes beyond the laws: the inner loss can be read, falls, and memory is bounded in groups."""

import pytest
import torch
import torch.nn.functional as F

from jogak.errors import UserError
from jogak.mixers import Context
from jogak.mixers.ttt import TTT
from jogak.ops import ttt

WIDTH = 16


def _repeating(rows: int, seed: int, period: int = 6, times: int = 8) -> torch.Tensor:
    """Each row repeats a pattern of its own, which can only be learned while it is read."""
    pattern = torch.randn(rows, period, WIDTH, generator=torch.Generator().manual_seed(seed))
    return pattern.repeat(1, times, 1)


def _trained(inner: str, steps: int = 40) -> TTT:
    torch.manual_seed(0)
    mixer = TTT(WIDTH, 2, inner, mini_batch=4)
    optimiser = torch.optim.Adam(mixer.parameters(), lr=1e-2)
    for step in range(steps):
        x = _repeating(16, seed=step)
        F.mse_loss(mixer(x)[0][:, :-1], x[:, 1:]).backward()
        optimiser.step()
        optimiser.zero_grad()
    return mixer


@pytest.mark.parametrize("inner", ["linear", "mlp"])
def test_the_inner_loss_falls_along_a_sequence_after_training(inner):
    mixer = _trained(inner)
    with torch.no_grad():
        loss = mixer.inner_loss(_repeating(32, seed=999))
    assert loss.shape == (32, 48, 2)
    first, last = loss[:, :6].mean(), loss[:, -6:].mean()
    assert last < 0.8 * first


def test_the_inner_loss_is_that_of_the_weights_in_the_state():
    """Read on with a state = read whole; and zero where nothing is."""
    torch.manual_seed(0)
    mixer, x = TTT(WIDTH, 2, mini_batch=4), torch.randn(2, 21, WIDTH)
    with torch.no_grad():
        whole = mixer.inner_loss(x)
        _, state = mixer(x[:, :10])
        torch.testing.assert_close(mixer.inner_loss(x[:, 10:], state), whole[:, 10:], rtol=1e-4, atol=1e-6)
        mask = torch.ones(2, 21, dtype=torch.bool)
        mask[0, :5] = False
        padded = mixer.inner_loss(x, None, Context(mask=mask))
    assert (padded[0, :5] == 0).all()
    torch.testing.assert_close(padded[1], whole[1], rtol=1e-4, atol=1e-6)


@pytest.mark.parametrize("inner", ["linear", "mlp"])
def test_groups_that_are_made_again_change_nothing(inner, monkeypatch):
    """With room for the inner weights of two mini-batches only."""
    torch.manual_seed(0)
    mixer, x = TTT(WIDTH, 2, inner, mini_batch=4), torch.randn(2, 30, WIDTH)
    found = []
    for room in (ttt.GROUP, 2 * 2 * sum(w.numel() for w in (mixer.weight_1, mixer.weight_2) if w is not None)):
        monkeypatch.setattr(ttt, "GROUP", room)
        y, state = mixer(x)
        found.append((y, state["weight_1"], *torch.autograd.grad(y.square().sum(), list(mixer.parameters()))))
    for one, other in zip(*found, strict=True):
        torch.testing.assert_close(one, other, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize(
    ("options", "word"),
    [
        ({"heads": 3}, "heads"),
        ({"heads": 2, "inner": "linaer"}, "linear"),
        ({"heads": 2, "mini_batch": 0}, "mini_batch"),
        ({"heads": 2, "rate": 0.0}, "rate"),
        ({"heads": 2, "backend": "duel"}, "dual"),
    ],
)
def test_options_that_do_not_fit_are_refused(options, word):
    with pytest.raises(UserError, match=word):
        TTT(WIDTH, **options)
