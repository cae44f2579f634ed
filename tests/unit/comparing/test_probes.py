"""The probes: each question has the answer that it asks for, worked out here again from the units alone."""

import numpy as np
import pytest

from jogak.comparing.probes import (
    PROBES,
    AssociativeRecall,
    Copying,
    InductionHeads,
    LongCopying,
    SelectiveCopying,
)
from jogak.data.batch import IGNORE
from jogak.errors import UserError

ROWS = 40


def drawn(probe, seed=0):
    return probe.sample(np.random.default_rng(seed), ROWS)


@pytest.mark.parametrize("name", PROBES)
def test_a_probe_keeps_its_word(name):
    probe = PROBES[name]()
    ids, targets = drawn(probe)
    assert ids.shape == targets.shape == (ROWS, probe.length)
    assert ids.dtype == targets.dtype == np.int64
    real = targets[targets != IGNORE]
    for units in (ids, real):
        assert units.min() >= 0
        assert units.max() < probe.vocabulary
    assert len(real) >= ROWS
    # The best answer that looks at nothing is right about as often as `chance` says.
    many = probe.sample(np.random.default_rng(5), 4000)[1]
    commonest = np.bincount(many[many != IGNORE]).max() / (many != IGNORE).sum()
    assert commonest == pytest.approx(probe.chance, rel=0.25)
    again, other = drawn(probe), drawn(probe, seed=1)
    assert (ids == again[0]).all()
    assert (targets == again[1]).all()
    assert (ids != other[0]).any()


def test_copying_asks_for_what_stood_a_fixed_lag_before():
    probe = Copying(tokens=5, lag=9, alphabet=6)
    ids, targets = drawn(probe)
    assert (targets[:, 14:] == ids[:, :5]).all()
    assert (targets[:, :14] == IGNORE).all()
    assert (ids[:, 5:14] == 0).all()
    assert (ids[:, 14:] == 1).all()


def test_selective_copying_asks_for_the_units_in_order_wherever_they_stand():
    probe = SelectiveCopying(tokens=4, context=20, alphabet=6)
    ids, targets = drawn(probe)
    for row, asked in zip(ids, targets, strict=True):
        assert [u for u in row[:20] if u] == asked[20:].tolist()
    assert len({tuple(np.flatnonzero(row[:20])) for row in ids}) > ROWS // 2


def test_induction_asks_what_followed_the_mark_the_first_time():
    ids, targets = drawn(InductionHeads(context=40, queries=3, alphabet=9))
    for row, asked in zip(ids, targets, strict=True):
        marks = np.flatnonzero(row == 0)
        assert len(marks) == 4
        assert np.flatnonzero(asked != IGNORE).tolist() == marks[1:].tolist()
        assert set(asked[marks[1:]]) == {row[marks[0] + 1]}


def test_recall_asks_for_the_value_of_a_key():
    probe = AssociativeRecall(pairs=5, context=40, keys=12, values=7)
    ids, targets = drawn(probe)
    for row, asked in zip(ids, targets, strict=True):
        table = dict(zip(row[0:10:2], row[1:10:2], strict=True))
        assert len(table) == 5
        places = np.flatnonzero(asked != IGNORE)
        assert places.min() >= 10
        assert sorted(row[places]) == sorted(table)
        assert asked[places].tolist() == [table[key] for key in row[places]]
        assert not set(row[0:10:2]) & set(row[1:10:2])


def test_gaps_of_recall_follow_the_power_law():
    many = AssociativeRecall(pairs=1, context=64).sample(np.random.default_rng(0), 20_000)[1]
    place = (np.argmax(many != IGNORE, axis=1) - 2) // 2
    weight = np.arange(1, 32, dtype=float) ** (0.01 - 1)
    np.testing.assert_allclose(np.bincount(place, minlength=31) / 20_000, weight / weight.sum(), atol=0.01)


def test_long_copying_says_the_string_again():
    probe = LongCopying(longest=12, shortest=5, alphabet=4)
    ids, targets = drawn(probe)
    lengths = set()
    for row, asked in zip(ids, targets, strict=True):
        mark = int(np.flatnonzero(row == 2)[0])
        string = row[1:mark].tolist()
        lengths.add(len(string))
        assert row[0] == 1
        assert min(string) >= 3
        assert asked[mark : mark + len(string)].tolist() == string
        assert row[mark + 1 : mark + len(string)].tolist() == string[:-1]
        assert (asked != IGNORE).sum() == len(string)
    assert lengths == set(range(5, 13))


@pytest.mark.parametrize(
    ("make", "sentence"),
    [
        (lambda: Copying(tokens=0), "copying"),
        (lambda: SelectiveCopying(tokens=9, context=8), "at least as long as tokens"),
        (lambda: InductionHeads(context=16, queries=4), "4 times as long"),
        (lambda: AssociativeRecall(pairs=9, keys=8), "as many keys"),
        (lambda: AssociativeRecall(pairs=9, context=30), "4 times as long"),
        (lambda: LongCopying(longest=3, shortest=4), "shortest"),
    ],
)
def test_a_probe_that_cannot_be_is_refused(make, sentence):
    with pytest.raises(UserError, match=sentence):
        make()
