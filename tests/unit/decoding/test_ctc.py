"""CTC: the beam against all alignments that there are; repeated letters; what is refused."""

import itertools
from itertools import groupby

import pytest
import torch

from jogak.decoding import ctc
from jogak.errors import UserError


def collapsed(path: tuple[int, ...], blank: int) -> tuple[int, ...]:
    return tuple(unit for unit, _ in groupby(path) if unit != blank)


@pytest.mark.parametrize("blank", [0, 2])
def test_a_wide_beam_is_exact(blank: int) -> None:
    """The probability of a text is the sum over every alignment that says it."""
    torch.manual_seed(blank)
    scores = torch.randn(5, 3).log_softmax(-1)
    wanted: dict[tuple[int, ...], float] = {}
    for path in itertools.product(range(3), repeat=5):
        mass = float(sum(scores[t, unit] for t, unit in enumerate(path)))
        text = collapsed(path, blank)
        wanted[text] = float(torch.logaddexp(torch.tensor(wanted.get(text, -torch.inf)), torch.tensor(mass)))
    found = ctc.beam(scores, blank, 1000, 1000)
    assert {tuple(ids): pytest.approx(score, abs=1e-4) for ids, score in found} == wanted
    assert [score for _, score in found] == sorted((score for _, score in found), reverse=True)


def test_greedy_joins_what_repeats_and_keeps_what_a_blank_parts() -> None:
    path = [1, 1, 0, 1, 2, 2, 0, 0]
    scores = torch.full((8, 3), -9.0)
    scores[torch.arange(8), torch.tensor(path)] = -0.5
    assert ctc.greedy(scores, 0) == ([1, 1, 2], -4.0)
    assert ctc.decode(scores, 0) == [([1, 1, 2], -4.0)]


def test_the_beam_adds_up_what_greedy_does_not() -> None:
    """Graves 2012, figure 7.5: the likeliest letters say nothing, the likeliest text is a letter."""
    scores = torch.tensor([[0.6, 0.4], [0.6, 0.4]]).log()
    assert ctc.greedy(scores, 0)[0] == []
    assert ctc.beam(scores, 0, 4)[0] == ([1], pytest.approx(torch.tensor(0.64).log().item()))


def test_refusals() -> None:
    for width, n_best in ((0, 1), (2, 3)):
        with pytest.raises(UserError, match="beam must be at least 1 and at least n_best"):
            ctc.beam(torch.zeros(1, 2), 0, width, n_best)
