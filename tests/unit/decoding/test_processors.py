"""Every processor beside that of transformers, in several settings; those that it lacks beside plain counting."""

import pytest
import torch
from transformers.generation import logits_process as theirs

from jogak.decoding import processors
from jogak.decoding.processors import Chain, Forbidden
from jogak.decoding.settings import Sampling
from jogak.errors import UserError

OFF = -torch.inf
ROWS, VOCABULARY, END = 5, 700, 2  # beyond 2 * 256, so that a glance at the likeliest does not see everything
PROMPT = 6


def logits(width=VOCABULARY, scale=3.0, seed=0):
    return torch.randn(ROWS, width, generator=torch.Generator().manual_seed(seed)) * scale


def history(width=VOCABULARY, length=20, seed=1):
    return torch.randint(0, width, (ROWS, length), generator=torch.Generator().manual_seed(seed))


def chain(*rows, **changes):
    return Chain.of(rows or [Sampling(**changes)] * ROWS, END, torch.device("cpu"))


def same(ours, expected):
    assert torch.equal(ours == OFF, expected == OFF)
    assert torch.allclose(ours, expected, rtol=1e-6, atol=1e-6)


ALONE = [
    ({"temperature": 0.4}, lambda: theirs.TemperatureLogitsWarper(0.4)),
    ({"temperature": 7.5}, lambda: theirs.TemperatureLogitsWarper(7.5)),
    ({"top_k": 1}, lambda: theirs.TopKLogitsWarper(1)),
    ({"top_k": 40}, lambda: theirs.TopKLogitsWarper(40)),
    ({"top_k": 9999}, lambda: theirs.TopKLogitsWarper(9999)),
    ({"top_p": 0.0}, lambda: theirs.TopPLogitsWarper(0.0)),
    ({"top_p": 0.5}, lambda: theirs.TopPLogitsWarper(0.5)),
    ({"top_p": 0.999}, lambda: theirs.TopPLogitsWarper(0.999)),
    ({"min_p": 0.02}, lambda: theirs.MinPLogitsWarper(0.02)),
    ({"min_p": 0.9}, lambda: theirs.MinPLogitsWarper(0.9)),
    ({"typical_p": 0.2}, lambda: theirs.TypicalLogitsWarper(0.2)),
    ({"typical_p": 0.95}, lambda: theirs.TypicalLogitsWarper(0.95)),
    ({"repetition_penalty": 1.3}, lambda: theirs.RepetitionPenaltyLogitsProcessor(1.3)),
    ({"repetition_penalty": 0.5}, lambda: theirs.RepetitionPenaltyLogitsProcessor(0.5)),
    ({"min_new_tokens": 14}, lambda: theirs.MinNewTokensLengthLogitsProcessor(PROMPT, 14, END, device="cpu")),
    ({"min_new_tokens": 15}, lambda: theirs.MinNewTokensLengthLogitsProcessor(PROMPT, 15, END, device="cpu")),
]


@pytest.mark.parametrize(("setting", "other"), ALONE, ids=lambda value: str(value) if isinstance(value, dict) else "")
@pytest.mark.parametrize("scale", [0.3, 3.0, 30.0])
@pytest.mark.parametrize("width", [VOCABULARY, 2000])
def test_alone_it_does_as_transformers_does(setting, other, scale, width):
    given, past = logits(width, scale), history(width)
    same(chain(**setting)(given.clone(), past, PROMPT), other()(past, given.clone()))


@pytest.mark.parametrize("size", [1, 2, 3, 5])
def test_no_ngram_comes_twice(size):
    past, given = history(4, 30), logits(4)
    expected = theirs.NoRepeatNGramLogitsProcessor(size)(past, given.clone())
    assert bool((expected == OFF).any())
    same(processors.no_repeat_ngram(given.clone(), past, torch.full((ROWS,), size)), expected)


def test_bad_ids_are_as_transformers_bans_them():
    past, given = history(4, 12), logits(4)
    bad = [[0], [1, 2], [3, 1, 2], [2, 2], [1, 3]]
    expected = theirs.NoBadWordsLogitsProcessor(bad)(past, given.clone())
    same(chain(bad_ids=bad)(given.clone(), past, PROMPT), expected)
    assert bool((expected[:, 1:] == OFF).any())


def test_presence_and_frequency_count_the_answer():
    past, given = history(8), logits(8)
    ours = chain(presence_penalty=0.7, frequency_penalty=-0.2)(given.clone(), past, PROMPT)
    for row in range(ROWS):
        for unit in range(8):
            times = past[row, PROMPT:].tolist().count(unit)
            assert float(ours[row, unit]) == pytest.approx(
                float(given[row, unit]) - 0.7 * (times > 0) + 0.2 * times, abs=1e-5
            )


def test_all_of_them_together_run_in_the_documented_order():
    """Rows ask for different things: each gets what transformers' list gives it alone, in the order of the table."""
    width = 40
    asked = [
        Sampling(repetition_penalty=1.4, temperature=0.7, top_k=12, top_p=0.8),
        Sampling(no_repeat_ngram_size=2, temperature=1.5, min_p=0.05, typical_p=0.9),
        Sampling(bad_ids=((3,), (4, 5)), min_new_tokens=30, top_p=0.6),
        Sampling(repetition_penalty=1.2),  # greedy
        Sampling(top_k=5, typical_p=0.5, temperature=3.0),
    ]
    past, given = history(width, 20), logits(width)
    ours = chain(*asked)(given.clone(), past, PROMPT)
    for row, one in enumerate(asked):
        steps = []
        if one.repetition_penalty != 1:
            steps.append(theirs.RepetitionPenaltyLogitsProcessor(one.repetition_penalty))
        if one.no_repeat_ngram_size:
            steps.append(theirs.NoRepeatNGramLogitsProcessor(one.no_repeat_ngram_size))
        if one.bad_ids:
            steps.append(theirs.NoBadWordsLogitsProcessor([list(b) for b in one.bad_ids]))
        if one.min_new_tokens:
            steps.append(theirs.MinNewTokensLengthLogitsProcessor(PROMPT, one.min_new_tokens, END, device="cpu"))
        if one.temperature:
            steps.append(theirs.TemperatureLogitsWarper(one.temperature))
        if one.top_k:
            steps.append(theirs.TopKLogitsWarper(one.top_k))
        if one.top_p < 1:
            steps.append(theirs.TopPLogitsWarper(one.top_p))
        if one.min_p:
            steps.append(theirs.MinPLogitsWarper(one.min_p))
        if one.typical_p < 1:
            steps.append(theirs.TypicalLogitsWarper(one.typical_p))
        expected = given[row : row + 1].clone()
        for step in steps:
            expected = step(past[row : row + 1], expected)
        same(ours[row : row + 1], expected)


def test_the_order_is_the_one_that_is_told():
    every = Sampling(
        repetition_penalty=2.0,
        presence_penalty=1.0,
        no_repeat_ngram_size=2,
        bad_ids=((1,),),
        min_new_tokens=1,
        temperature=0.5,
        top_k=3,
        top_p=0.5,
        min_p=0.1,
        typical_p=0.5,
    )
    names = chain(every).names
    page = processors.__doc__ or ""
    steps = [line for line in page.splitlines() if line.startswith("| ") and line[2].isdigit()]
    places = [
        next(n for n, line in enumerate(steps) if ("`temperature`" if name == "heat" else f"`{name}`") in line)
        for name in names
    ]
    assert places == sorted(places)
    assert len(set(places)) == len(names) == 10
    assert not chain(Sampling(), Sampling(max_new_tokens=3))


def test_rows_do_not_see_each_other():
    """Padding on the left of one row, and what other rows ask for, change nothing."""
    asked = [
        Sampling(repetition_penalty=1.5, no_repeat_ngram_size=2, presence_penalty=0.5),
        Sampling(temperature=2.0, top_p=0.5),
    ]
    given = torch.randn(2, 10)
    short, long = torch.tensor([[3, 4, 3]]), torch.tensor([[1, 2, 3, 4, 5, 6]])
    together = torch.cat([torch.cat([torch.full((1, 3), -1), short], 1), long])
    ours = chain(*asked)(given.clone(), together, 5)
    same(ours[:1], chain(asked[0])(given[:1].clone(), short, 2))
    same(ours[1:], chain(asked[1])(given[1:].clone(), long, 5))
    picked = chain(*asked).select([1, 0, 1])(given[[1, 0, 1]].clone(), together[[1, 0, 1]], 5)
    same(picked, ours[[1, 0, 1]])


def test_ties_and_infinities_leave_something():
    given = torch.full((ROWS, VOCABULARY), OFF)
    given[:, 7:9] = 1.0
    for setting in ({"top_k": 1}, {"top_p": 0.0}, {"min_p": 1.0}, {"typical_p": 0.01}):
        kept = (chain(**setting)(given.clone(), history(), PROMPT) > OFF).sum(1)
        assert bool((kept >= 1).all())
        assert bool((kept <= 2).all())


def test_forbidden_units_are_put_off_row_by_row():
    given = torch.zeros(2, 6)
    ours = Forbidden([(1, 2), ()], torch.device("cpu"))(given.clone())
    assert (ours == OFF).nonzero().tolist() == [[0, 1], [0, 2]]


def test_a_row_that_is_left_with_nothing_is_told_unless_it_has_ended():
    past = torch.tensor([[0, 1, 2]] * 2)
    made = Chain.of([Sampling(no_repeat_ngram_size=1)] * 2, END, torch.device("cpu"))
    with pytest.raises(UserError, match="no_repeat_ngram_size and what was forbidden before leave nothing"):
        made(torch.zeros(2, 3), past, 1, [True, False])
    assert bool(torch.isfinite(made(torch.zeros(2, 3), past, 1, [True, True])).all())
