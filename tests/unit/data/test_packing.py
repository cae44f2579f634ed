"""Packed rows: every example once, within the room, closely filled."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from jogak.data.packing import pack, shape_rows
from jogak.errors import UserError

Ints = NDArray[np.int64]
lengths_of = st.lists(st.tuples(st.integers(1, 60), st.integers(1, 60)), min_size=1, max_size=200).map(np.array)


def real_lengths(count: int, seed: int = 0) -> Ints:
    """Lengths as those of sentences: log-normal, the sides alike but not equal."""
    random = np.random.default_rng(seed)
    source = np.exp(random.normal(2.5, 0.8, count))
    target = source * np.exp(random.normal(0.1, 0.3, count))
    return np.clip(np.stack([source, target], axis=1), 1, 128).astype(np.int64) + 1


@settings(deadline=None)
@given(lengths=lengths_of, slack=st.integers(0, 500))
def test_rows_hold_every_example_within_budget_and_room(lengths: Ints, slack: int) -> None:
    budget = int(lengths.max(axis=0).sum()) + slack
    count, room = shape_rows(lengths, budget)
    assert count >= 1
    assert count * sum(room) <= budget
    assert (lengths.max(axis=0) <= room).all()
    rows = pack(lengths, np.arange(len(lengths)), room)
    assert sorted(example for row in rows for example in row) == list(range(len(lengths)))
    assert all((lengths[row].sum(axis=0) <= room).all() for row in rows)
    assert all(rows)


@settings(deadline=None)
@given(lengths=lengths_of, seed=st.integers(0, 9))
def test_packing_is_decided_by_lengths_and_order_alone(lengths: Ints, seed: int) -> None:
    order = np.random.default_rng(seed).permutation(len(lengths))
    room = (70, 80)
    assert pack(lengths, order, room) == pack(lengths.copy(), order.copy(), room)


def test_a_budget_that_cannot_hold_both_longest_sides_is_told() -> None:
    """Each example fits 100 positions, but no room of 100 fits the source of one and the target of the other."""
    lengths = np.array([[90, 5], [5, 90]])
    with pytest.raises(UserError, match=r"longest source \(90\) and the longest target \(90\).* to 180 or more"):
        shape_rows(lengths, 100)
    assert shape_rows(lengths, 180) == (1, (90, 90))


def test_a_row_takes_what_fills_it_best() -> None:
    lengths = np.array([[6, 6], [8, 8], [2, 2], [4, 4]])
    rows = pack(lengths, np.arange(4), (10, 10))
    assert sorted(sorted(row) for row in rows) == [[0, 3], [1, 2]]


def test_little_data_gets_no_more_room_than_it_needs() -> None:
    assert shape_rows(np.array([[3, 4], [2, 2]]), 13) == (1, (5, 6))


def test_rows_of_real_lengths_are_nearly_full() -> None:
    lengths = real_lengths(5000)
    _, room = shape_rows(lengths, 2000)
    rows = pack(lengths, np.arange(len(lengths)), room)
    assert lengths.sum() / (len(rows) * sum(room)) > 0.9


def test_memory_of_open_rows_is_bounded_and_the_order_mostly_kept() -> None:
    """Rows close as the data goes by: an example of the beginning never shares a row with one of the end."""
    lengths = real_lengths(20_000, seed=1)
    rows = pack(lengths, np.arange(len(lengths)), (200, 220))
    spread = max(max(row) - min(row) for row in rows)
    assert spread < 10_000
