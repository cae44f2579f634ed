"""What is held out depends on the texts alone, and no target is on two sides."""

import random
import tracemalloc
from collections.abc import Iterator, Sequence
from unicodedata import normalize

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from jogak.data.sources import Row
from jogak.data.split import Split, split_rows, target_hash
from jogak.errors import UserError

ROWS = [Row(f"말 {n}", f"word {n % 70}", f"a.tsv:{n}") for n in range(100)]  # thirty targets come twice


def split(rows: Sequence[Row], test: int = 10, validation: int = 5) -> Split:
    return split_rows(lambda: iter(rows), test, validation)


def targets(rows: Sequence[Row]) -> set[str]:
    return {normalize("NFC", row.target) for row in rows}


def test_the_numbers_are_those_of_distinct_targets() -> None:
    made = split(ROWS)
    assert len(targets(made.test)) == 10
    assert len(targets(made.validation)) == 5
    train = list(made.train())
    assert made.train_rows == len(train)
    assert sorted([*made.test, *made.validation, *train], key=lambda row: int(row.where[6:])) == ROWS


def test_each_part_keeps_the_order_of_the_data() -> None:
    made = split(ROWS)
    for part in (made.test, made.validation, list(made.train())):
        assert part == sorted(part, key=ROWS.index)


def test_training_rows_can_be_read_again_and_again() -> None:
    made = split(ROWS)
    assert list(made.train()) == list(made.train())


short = st.text("ab가나\u1100\u1161 ", min_size=1, max_size=3)


@settings(deadline=None)
@given(
    rows=st.lists(st.tuples(short, short), min_size=1, max_size=40),
    test=st.integers(0, 4),
    validation=st.integers(0, 4),
    seed=st.integers(0, 9),
)
def test_no_target_is_in_two_parts_and_the_order_of_the_data_changes_nothing(
    rows: list[tuple[str, str]], test: int, validation: int, seed: int
) -> None:
    data = [Row(s, t, str(n)) for n, (s, t) in enumerate(rows)]
    distinct = sorted(targets(data), key=target_hash)
    if len(distinct) <= test + validation:
        with pytest.raises(UserError, match="leaves nothing to train on"):
            split(data, test, validation)
        return
    made = split(data, test, validation)
    assert targets(made.test) == set(distinct[:test])
    assert targets(made.validation) == set(distinct[test : test + validation])
    assert targets(list(made.train())) == set(distinct[test + validation :])
    shuffled = random.Random(seed).sample(data, len(data))
    again = split(shuffled, test, validation)
    for ours, theirs in ((made.test, again.test), (made.validation, again.validation)):
        assert sorted(ours, key=lambda row: row.where) == sorted(theirs, key=lambda row: row.where)
    assert again.train_rows == made.train_rows


def test_rows_that_are_added_never_bring_a_held_out_target_into_both_sides() -> None:
    more = [*ROWS, *(Row("새 말", f"new word {n}", "b.tsv:1") for n in range(300))]
    before, after = split(ROWS), split(more)
    # A new target may push an old one out of the test; it cannot let a training target of old into it.
    assert targets(after.test) & targets(ROWS) <= targets(before.test)


def test_two_forms_of_one_target_are_one() -> None:
    decomposed = [Row(row.source, normalize("NFD", f"글 {row.target}"), row.where) for row in ROWS]
    composed = [Row(row.source, f"글 {row.target}", row.where) for row in ROWS]
    made = split([*decomposed, *composed])
    assert len(targets(made.test)) == 10
    assert not targets(made.test) & targets(list(made.train()))
    assert target_hash("\u1112\u1161\u11ab") == target_hash("한")


def test_the_hash_stays_the_same_in_every_version() -> None:
    """Pinned: if it changed, what an older run held out would come into a newer one's training."""
    assert target_hash("한글 and English") == 0xC338D32FBF505639C1345ECCC72BEAD1


def test_nothing_held_out_is_allowed() -> None:
    made = split(ROWS, 0, 0)
    assert (made.test, made.validation, list(made.train())) == ([], [], ROWS)


def test_the_digest_follows_every_character() -> None:
    made = {
        split(rows, 1, 1).digest
        for rows in (
            ROWS,
            ROWS[:-1],
            ROWS[::-1],
            [Row("말 0w", "ord 0", "x"), *ROWS[1:]],
            [Row("말 0", "word 0.", "x"), *ROWS[1:]],
        )
    }
    assert len(made) == 5
    elsewhere = [Row(row.source, row.target, "moved") for row in ROWS]
    assert split(elsewhere, 1, 1).digest == split(ROWS, 1, 1).digest


def test_too_little_data_is_told() -> None:
    with pytest.raises(UserError, match="holds no rows"):
        split([])
    with pytest.raises(UserError, match=r"holding out 70 targets .* \(the data has 100 rows\); lower data.test"):
        split(ROWS, 60, 10)
    with pytest.raises(UserError, match="holding out 71 targets"):
        split(ROWS, 61, 10)
    assert split(ROWS, 59, 10).train_rows > 0


def test_only_what_is_held_out_stays_in_memory() -> None:
    def read() -> Iterator[Row]:
        return (Row("말 " * 50, f"word {n}" * 20, f"a.tsv:{n}") for n in range(20_000))

    tracemalloc.start()
    try:
        made = split_rows(read, 20, 20)
        assert sum(1 for _ in made.train()) == made.train_rows == 19_960
        assert tracemalloc.get_traced_memory()[1] < 500_000  # the rows together have over 5 MB
    finally:
        tracemalloc.stop()
