"""Batches: every example once an epoch, within the budget, in an order that can be taken up anywhere."""

import json
from collections import Counter
from collections.abc import Iterable, Sequence
from itertools import islice

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from jogak.data.batch import IGNORE, Batch, Units
from jogak.data.batching import Loader, read_once
from jogak.data.tokens import TokenStore
from jogak.errors import UserError

PAD, BOS, EOS, FIRST = 0, 1, 2, 10
Pair = tuple[list[int], list[int]]


def store_of(lengths: Iterable[tuple[int, int]]) -> TokenStore:
    """Examples of these lengths whose ids occur nowhere else, so that a lost or swapped one is seen."""
    ids = iter(range(FIRST, 10**9))
    return TokenStore.of([([*islice(ids, s)], [*islice(ids, t)]) for s, t in lengths])


def loader(store: TokenStore, batch_tokens: int = 100, seed: int = 0, **options) -> Loader:
    return Loader(store, batch_tokens=batch_tokens, seed=seed, pad_id=PAD, bos_id=BOS, eos_id=EOS, **options)


def epoch(batches: Loader) -> list[Batch]:
    """The batches of the loader's next epoch that this process gets; how many is known once it has begun."""
    first = next(batches)
    return [first, *(next(batches) for _ in range(batches.batches_per_epoch - 1))]


def rows(batches: Iterable[Batch]) -> list[int]:
    return [row for batch in batches for row in batch.rows]


def content(batch: Batch) -> list[tuple[Pair, Pair]]:
    """((source, what the decoder reads), (what it predicts, its rows' numbers)) of each document in the batch."""
    units, source = batch.units, batch.source
    found = []
    for row in range(len(units.ids)):
        for segment in documents(units, row):
            here = places(units, row, segment)
            read = source.ids[row][places(source, row, segment)].tolist() if source is not None else []
            found.append(((read, units.ids[row][here].tolist()), (batch.targets[row][here].tolist(), [])))
    return found


def documents(units: Units, row: int) -> list[int]:
    return [1] if units.segments is None else sorted({*units.segments[row].tolist()} - {0})


def places(units: Units, row: int, segment: int) -> torch.Tensor:
    """bool [T]: where document `segment` of `row` is."""
    real = torch.ones_like(units.ids[row], dtype=torch.bool) if units.mask is None else units.mask[row]
    return real if units.segments is None else real & (units.segments[row] == segment)


def expected(store: TokenStore, index: int) -> tuple[Pair, Pair]:
    source, target = (ids.tolist() for ids in store[index])
    return ([*source, EOS], [BOS, *target]), ([*target, EOS], [])


sizes = st.lists(st.tuples(st.integers(1, 40), st.integers(0, 40)), min_size=1, max_size=80)
budgets = st.integers(96, 400)  # 41 + 41, rounded up: whatever `sizes` gives fits
packing = pytest.mark.parametrize("pack", [False, True], ids=["padded", "packed"])


# ---------------------------------------------------------------- one epoch


@packing
@settings(deadline=None)
@given(lengths=sizes, budget=budgets, seed=st.integers(-5, 2**70))
def test_every_example_comes_once_an_epoch_within_the_budget(
    pack: bool, lengths: list[tuple[int, int]], budget: int, seed: int
) -> None:
    batches = loader(store_of(lengths), budget, seed, pack=pack)
    for number in range(2):
        given_out = epoch(batches)
        assert sorted(rows(given_out)) == list(range(len(lengths)))
        assert all(0 < batch.positions <= budget for batch in given_out)
        assert batches.epoch == number
        assert batches.examples_seen == (number + 1) * len(lengths)


@packing
@settings(deadline=None)
@given(lengths=sizes, budget=budgets, seed=st.integers(0, 9))
def test_a_batch_holds_its_examples_whole_and_nothing_else(
    pack: bool, lengths: list[tuple[int, int]], budget: int, seed: int
) -> None:
    store = store_of(lengths)
    for batch in epoch(loader(store, budget, seed, pack=pack)):
        assert batch.source is not None
        assert content(batch) == [expected(store, row) for row in batch.rows]
        assert batch.real_targets == sum(len(store[row][1]) + 1 for row in batch.rows)
        for units, filled in ((batch.units, batch.real_targets), (batch.source, None)):
            assert units.ids.dtype == torch.int64
            real = torch.ones_like(units.ids, dtype=torch.bool) if units.mask is None else units.mask
            assert (units.ids[~real] == PAD).all()
            assert filled is None or int(real.sum()) == filled
            if pack:
                assert units.segments is not None
                assert torch.equal(units.segments > 0, real)
            else:
                assert units.segments is None
                assert (real.long().diff(dim=1) <= 0).all()  # padding is on the right
        real = torch.ones_like(batch.targets, dtype=torch.bool) if batch.units.mask is None else batch.units.mask
        assert (batch.targets[~real] == IGNORE).all()


@settings(deadline=None)
@given(lengths=sizes, budget=budgets, seed=st.integers(0, 9))
def test_packed_rows_hold_the_documents_of_padded_ones(lengths: list[tuple[int, int]], budget: int, seed: int) -> None:
    store = store_of(lengths)
    padded, packed = (epoch(loader(store, budget, seed, pack=pack)) for pack in (False, True))
    assert sorted(d for batch in packed for d in content(batch)) == sorted(d for b in padded for d in content(b))


def test_segments_count_the_documents_of_a_row_and_all_rows_have_one_shape() -> None:
    batches = epoch(loader(store_of([(n % 7 + 1, n % 5 + 1) for n in range(200)]), 200, pack=True))
    shapes = {(batch.units.ids.shape[1], batch.source.ids.shape[1]) for batch in batches if batch.source is not None}
    assert len(shapes) == 1
    for batch in batches:
        assert batch.units.segments is not None
        assert batch.source is not None
        assert batch.source.segments is not None
        for row, segments in enumerate(batch.units.segments.tolist()):
            filled = [s for s in segments if s]
            assert filled == sorted(filled)
            assert set(filled) == set(range(1, max(filled) + 1))
            assert set(filled) == {*batch.source.segments[row].tolist()} - {0}
    assert max(int(b.units.segments.max()) for b in batches if b.units.segments is not None) > 2


def test_a_store_without_sources_has_batches_without() -> None:
    """A language model's."""
    store = store_of([(0, n % 9 + 1) for n in range(50)])
    for pack in (False, True):
        given_out = epoch(loader(store, 60, pack=pack))
        assert all(batch.source is None for batch in given_out)
        assert sorted(rows(given_out)) == list(range(50))
        assert all(batch.positions <= 60 for batch in given_out)
        made = {row: d for batch in given_out for row, d in zip(batch.rows, content(batch), strict=True)}
        assert all(made[row][0][1] == expected(store, row)[0][1] for row in range(50))


# ---------------------------------------------------------------- the order


def order(batches: Loader, count: int = 12) -> list[tuple[int, ...]]:
    return [next(batches).rows for _ in range(count)]


@packing
def test_seed_and_epoch_decide_the_order(pack: bool) -> None:
    store = store_of([(n % 13 + 1, n % 11 + 1) for n in range(300)])
    assert order(loader(store, pack=pack), 90) == order(loader(store, pack=pack), 90)
    assert order(loader(store, pack=pack)) != order(loader(store, seed=1, pack=pack))
    batches = loader(store, pack=pack)
    first, second = epoch(batches), epoch(batches)
    assert [batch.rows for batch in first] != [batch.rows for batch in second]


def test_the_state_of_torch_and_numpy_changes_nothing() -> None:
    store = store_of([(n % 13 + 1, n % 11 + 1) for n in range(300)])
    torch.manual_seed(1)
    np.random.seed(1)  # the global one is meant
    first = order(loader(store))
    torch.manual_seed(2)
    np.random.seed(2)
    assert order(loader(store)) == first


def test_lengths_do_not_come_in_order() -> None:
    """Batches are of like lengths; that the epoch went from short to long would bias training."""
    store = store_of([(n + 1, n + 1) for n in range(120)])
    widths = [batch.units.ids.shape[1] for batch in epoch(loader(store, 300))]
    assert widths != sorted(widths)
    assert widths != sorted(widths, reverse=True)


@packing
@settings(deadline=None)
@given(lengths=sizes, budget=budgets, before=st.integers(0, 40), world=st.integers(1, 3))
def test_a_loaded_state_goes_on_exactly(
    pack: bool, lengths: list[tuple[int, int]], budget: int, before: int, world: int
) -> None:
    store = store_of(lengths)
    for rank in range(world):
        ours = loader(store, budget, 3, pack=pack, rank=rank, world=world)
        order(ours, before)
        state = json.loads(json.dumps(ours.state_dict()))
        theirs = loader(store, budget, 3, pack=pack, rank=rank, world=world)
        theirs.load_state_dict(state)
        assert theirs.examples_seen == ours.examples_seen
        for _ in range(8):
            one, two = next(ours), next(theirs)
            assert one.rows == two.rows
            assert torch.equal(one.units.ids, two.units.ids)
            assert torch.equal(one.targets, two.targets)
        assert theirs.state_dict() == ours.state_dict()


@pytest.mark.parametrize(
    ("change", "named"),
    [
        ({"batch_tokens": 120}, "batch_tokens=100, now 120"),
        ({"seed": 1}, "seed=0, now 1"),
        ({"pack": True}, "pack=0, now 1"),
        ({"lengths": [(5, 5)] * 29}, "examples=30, now 29"),
        ({"lengths": [(5, 5)] * 29 + [(5, 6)]}, "positions=360, now 361"),
    ],
)
def test_a_state_of_other_data_or_settings_is_refused(change: dict, named: str) -> None:
    state = loader(store_of([(5, 5)] * 30)).state_dict()
    lengths: Sequence[tuple[int, int]] = change.pop("lengths", [(5, 5)] * 30)
    with pytest.raises(UserError, match=f"is of a run with {named}; resume with the same data and settings"):
        loader(store_of(lengths), **change).load_state_dict(state)


# ---------------------------------------------------------------- many processes


@packing
@settings(deadline=None)
@given(lengths=sizes, budget=budgets, world=st.integers(2, 5))
def test_ranks_get_equally_many_and_only_what_fills_up_comes_twice(
    pack: bool, lengths: list[tuple[int, int]], budget: int, world: int
) -> None:
    store = store_of(lengths)
    alone = epoch(loader(store, budget, pack=pack))
    ranks = [epoch(loader(store, budget, pack=pack, rank=rank, world=world)) for rank in range(world)]
    assert len({len(batches) for batches in ranks}) == 1
    together = [batch.rows for step in zip(*ranks, strict=True) for batch in step]
    assert together[: len(alone)] == [batch.rows for batch in alone]  # in the order of one process
    assert len(together) - len(alone) < world
    assert set(together[len(alone) :]) <= {batch.rows for batch in alone}
    assert set(Counter(rows(alone)).values()) == {1}


def test_another_number_of_processes_goes_on_nearby() -> None:
    store = store_of([(n % 13 + 1, n % 11 + 1) for n in range(300)])
    alone = loader(store)
    given_out = order(alone, 10)
    pair = [loader(store, rank=rank, world=2) for rank in range(2)]
    for one in pair:
        one.load_state_dict(alone.state_dict())
    rest = [batch for step in range(2) for batch in (next(one).rows for one in pair)]
    assert rest == order(alone, 4)
    assert not set(rest) & set(given_out)


@pytest.mark.parametrize(("rank", "world"), [(1, 1), (-1, 2), (0, 0)])
def test_a_rank_outside_the_world_is_told(rank: int, world: int) -> None:
    with pytest.raises(UserError, match=f"rank {rank} of {world} processes"):
        loader(store_of([(1, 1)]), rank=rank, world=world)


# ---------------------------------------------------------------- what does not fit


def test_an_example_beyond_the_budget_is_left_out_and_counted() -> None:
    store = store_of([(5, 5), (60, 60), (8, 3), (200, 1)])
    batches = loader(store)
    assert batches.left_out == 2
    assert sorted(rows(epoch(batches))) == [0, 2]
    with pytest.raises(UserError, match=r"no example fits train\.batch_tokens=10; raise it"):
        loader(store, 10)


def test_packing_says_when_a_row_cannot_hold_the_longest_of_both_sides() -> None:
    with pytest.raises(UserError, match=r"raise train\.batch_tokens from 100 to 182"):
        loader(store_of([(90, 5), (5, 90)]), 100, pack=True)


@settings(deadline=None)
@given(lengths=sizes, budget=st.integers(1, 200), world=st.integers(1, 3))
def test_reading_once_leaves_nothing_out_and_gives_nothing_twice(
    lengths: list[tuple[int, int]], budget: int, world: int
) -> None:
    store = store_of(lengths)
    options = {"batch_tokens": budget, "pad_id": PAD, "bos_id": BOS, "eos_id": EOS}
    batches = [batch for rank in range(world) for batch in read_once(store, **options, rank=rank, world=world)]
    assert sorted(rows(batches)) == list(range(len(lengths)))
    assert all(batch.positions <= budget or len(batch.rows) == 1 for batch in batches)
    assert all(content(batch) == [expected(store, row) for row in batch.rows] for batch in batches)


# ---------------------------------------------------------------- how much is padding


@pytest.mark.parametrize(("pack", "most"), [(False, 0.15), (True, 0.1)], ids=["padded", "packed"])
def test_little_is_padding_on_lengths_like_those_of_sentences(pack: bool, most: float) -> None:
    """Rows taken as they come would be more than half padding (first assertion)."""
    random = np.random.default_rng(0)
    source = np.exp(random.normal(2.5, 0.8, 6000))
    target = source * np.exp(random.normal(0.1, 0.3, 6000))
    lengths = np.clip(np.stack([source, target], axis=1), 1, 128).astype(int)
    shuffled = lengths[: len(lengths) // 40 * 40].reshape(-1, 40, 2)
    assert lengths.sum() / (shuffled.max(axis=1).sum() * 40) < 0.5
    batches = loader(store_of(lengths.tolist()), 1500, pack=pack)
    stated = batches.padding
    given_out = epoch(batches)
    filled = int((lengths + 1).sum())
    assert stated == pytest.approx(1 - filled / sum(batch.positions for batch in given_out), abs=0.02)
    assert stated < most


# ---------------------------------------------------------------- Batch and Units


def test_shapes_that_differ_are_refused() -> None:
    ids = torch.zeros(2, 3, dtype=torch.int64)
    with pytest.raises(UserError, match=r"mask must be \[2, 3\], got \[2, 4\]"):
        Units(ids, mask=torch.ones(2, 4, dtype=torch.bool))
    with pytest.raises(UserError, match=r"targets must be \[2, 3\], got \[3, 2\]"):
        Batch(Units(ids), ids.T)


def test_a_batch_moves_whole_and_keeps_what_it_counted() -> None:
    ids = torch.tensor([[1, 2, 3]])
    mask = torch.tensor([[True, True, False]])
    batch = Batch(Units(ids, mask, mask.long()), torch.tensor([[5, IGNORE, IGNORE]]), Units(ids), (4,))
    assert (batch.real_targets, batch.positions) == (1, 6)
    moved = batch.to("meta")
    assert moved.source is not None
    tensors = [moved.units.ids, moved.units.mask, moved.units.segments, moved.targets, moved.source.ids]
    assert {tensor.device.type for tensor in tensors if tensor is not None} == {"meta"}
    assert (moved.rows, moved.real_targets) == ((4,), 1)
    assert moved.source.mask is None
