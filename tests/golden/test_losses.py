"""Golden losses: a refactor that changes what a mixer computes or how it is drawn is seen here."""

import math

import pytest

from tests.golden import losses

RENEW = "python -m tests.golden.losses writes the numbers anew, if they were meant to change"


@pytest.mark.parametrize("name", losses.names())
def test_the_loss_is_what_it_was(name):
    known = losses.read()
    assert name in known, RENEW
    found = losses.loss_of(name)
    assert found < math.log(256) + 1
    assert found == pytest.approx(known[name], rel=2e-4), RENEW


def test_no_number_is_left_of_a_mixer_that_is_gone():
    assert set(losses.read()) == set(losses.names()), RENEW
