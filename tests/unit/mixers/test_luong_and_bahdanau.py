"""Additive and dot attention beside their equations, and what they refuse."""

import pytest
import torch

from jogak import mixers
from jogak.errors import UserError
from jogak.mixers import Context
from jogak.ops import additive
from tests.laws.support import noise


def _given():
    """A query [1 3 6], a memory [1 4 6]."""
    return noise(1, 3, 6, seed=0, device="cpu"), noise(1, 4, 6, seed=1, device="cpu")


def test_additive_is_bahdanaus_equation():
    mixer = mixers.build("additive", d_model=6, hidden=5, cross=True)
    x, memory = _given()
    for t in range(3):
        scores = [mixer.score @ torch.tanh(mixer.q.weight @ x[0, t] + mixer.k(memory[0, s])) for s in range(4)]
        weights = torch.stack(scores).softmax(0)
        expected = mixer.out.weight @ (weights @ memory[0])
        context = Context(memory=memory)
        torch.testing.assert_close(mixer(x, None, context)[0][0, t], expected)
        torch.testing.assert_close(mixer.weights(x, context)[0, 0, t], weights.double())


@pytest.mark.parametrize("score", ["dot", "general"])
@pytest.mark.parametrize("scaled", [False, True])
def test_dot_is_luongs_equation(score, scaled):
    mixer = mixers.build("dot", d_model=6, score=score, scaled=scaled, cross=True)
    x, memory = _given()
    for t in range(3):
        keys = memory[0] if score == "dot" else memory[0] @ mixer.k.weight.T
        weights = (keys @ x[0, t] * (6**-0.5 if scaled else 1)).softmax(0)
        expected = mixer.out.weight @ (weights @ memory[0])
        context = Context(memory=memory)
        torch.testing.assert_close(mixer(x, None, context)[0][0, t], expected)
        torch.testing.assert_close(mixer.weights(x, context)[0, 0, t], weights.double(), atol=1e-6, rtol=1e-5)


def test_the_insides_are_held_a_part_at_a_time(monkeypatch):
    held, plain = [], additive.weights

    def noted(q, k, score, visible, rows=slice(None)):
        held.append(k.shape[0] * len(range(q.shape[1])[rows]) * k.shape[1] * k.shape[2])
        return plain(q, k, score, visible, rows)

    monkeypatch.setattr(additive, "weights", noted)
    monkeypatch.setattr(additive, "HELD", 4 * 6 * 2)
    mixer = mixers.build("additive", d_model=6, cross=True)
    x, memory = _given()
    mixer(x, None, Context(memory=memory))[0].sum().backward()
    assert max(held) == 4 * 6 * 2
    assert mixer.score.grad is not None


@pytest.mark.parametrize(
    ("name", "options", "sentence"),
    [
        ("dot", {"score": "generl"}, "did you mean 'general'"),
        ("dot", {"score": "dot", "d_memory": 8}, "needs d_memory"),
        ("additive", {"hidden": 0}, "hidden must be at least 1"),
    ],
)
def test_what_does_not_fit_is_one_sentence(name, options, sentence):
    with pytest.raises(UserError, match=sentence):
        mixers.build(name, d_model=6, cross=True, **options)


def test_they_read_memories_only():
    with pytest.raises(UserError, match="cannot mix a sequence with itself"):
        mixers.build("dot", d_model=6)
