"""Trials: the same budget, the same draws, and figures that mean what they say."""

import math
from dataclasses import replace

import numpy as np
import pytest
import torch

from jogak import config
from jogak.comparing import probes, trial
from jogak.comparing.problems import DigitsProblem, ProbeProblem, TextProblem, score
from jogak.comparing.trial import Budget, Shape
from jogak.data.batch import IGNORE
from jogak.errors import UserError

ATTENTION = [config.Mixer.model_validate({"name": "attention", "heads": 2, "position": "rotary"})]
SMALL = Shape(width=32)
COPYING = ProbeProblem("copying", probes.Copying(tokens=2, lag=3, alphabet=3), examples=64)


def test_attention_learns_to_copy_and_stops_when_it_can():
    budget = Budget(steps=400, rows=32, rate=5e-3, enough=0.95, look_every=25)
    found = trial.run(COPYING, "attention", ATTENTION, SMALL, budget)
    assert found.value >= 0.95
    assert found.steps < 400
    assert found.floor == pytest.approx(1 / 3)
    assert found.curve[-1] == (found.steps, found.value)
    assert found.tokens_per_second > 0
    again = trial.run(COPYING, "attention", ATTENTION, SMALL, budget)
    assert (again.value, again.steps, again.curve) == (found.value, found.steps, found.curve)


def test_a_finished_model_is_measured_on_longer_problems_too():
    longer = ProbeProblem("longer", probes.Copying(tokens=6, lag=3, alphabet=3), examples=64)
    problem = replace(COPYING, also=(replace(COPYING, name="the same"), longer))
    found = trial.run(problem, "attention", ATTENTION, SMALL, Budget(steps=150, rate=5e-3))
    assert found.also["the same"] == found.value  # the same problem, the same figure
    assert found.also["longer"] < found.value  # more units than it ever saw


def test_the_best_of_several_rates_counts():
    budget = Budget(steps=30, rows=16, rates=(1e-6, 1e-2))
    assert trial.run(COPYING, "attention", ATTENTION, SMALL, budget).rate == 1e-2


def test_seconds_end_a_trial():
    found = trial.run(COPYING, "attention", ATTENTION, SMALL, Budget(steps=10**6, seconds=0.05, rows=4))
    assert 1 <= found.steps < 10**5


def test_rates_rise_and_fall():
    budget = Budget(steps=100, warmup=10, rate=1.0)
    rates = [budget.rate_at(step) for step in range(100)]
    assert rates[0] == pytest.approx(0.1)
    assert max(rates) == rates[9] == pytest.approx(1.0)
    assert rates[9:] == sorted(rates[9:], reverse=True)
    assert replace(budget, steps=100).rate_at(100) == pytest.approx(0.1)


def test_text_is_measured_on_its_end_in_bits_per_byte():
    problem = TextProblem("가나다라 abc " * 100, length=16)
    data = ("가나다라 abc " * 100).encode()
    ids, targets = problem.batch(np.random.default_rng(0), 5)
    assert (ids[:, 0] == 0).all()
    assert (ids[:, 1:] == targets[:, :-1]).all()
    cut = len(data) - len(data) // 10
    assert all(bytes((t - 1).astype(np.uint8)) in data[:cut] for t in targets)
    held = np.concatenate([t.flatten() for _, t in problem.held_out(4)])
    assert bytes((held - 1).astype(np.uint8)) == data[cut : cut + len(held)]
    assert 2 < problem.floor < 8
    little = TextProblem("short", length=16)
    with pytest.raises(UserError, match="too few for windows of 16"):
        little.batch(np.random.default_rng(0), 1)


def test_digits_are_asked_for_at_their_last_pixel():
    pytest.importorskip("sklearn")
    problem = DigitsProblem.load()
    ids, targets = problem.batch(np.random.default_rng(0), 7)
    assert ids.shape == (7, 64)
    assert ids.max() <= 16
    assert (targets[:, :-1] == IGNORE).all()
    assert ((targets[:, -1] >= 17) & (targets[:, -1] < 27)).all()
    held = np.concatenate([i for i, _ in problem.held_out(50)])
    assert len(held) == len(range(0, len(problem.labels), 5))
    assert 0.1 <= problem.floor < 0.2


def test_scores():
    logits = torch.tensor([[2.0, 0.0], [0.0, 2.0], [2.0, 0.0]])
    targets = torch.tensor([0, 0, 0])
    assert score(COPYING, [(logits[:2], targets[:2]), (logits[2:], targets[2:])]) == pytest.approx(2 / 3)
    p = 1 / (1 + math.exp(-2.0))
    bits = -(2 * math.log2(p) + math.log2(1 - p)) / 3
    assert score(TextProblem("x" * 100, length=4), [(logits, targets)]) == pytest.approx(bits)
