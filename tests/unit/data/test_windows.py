"""Windows: what is read and predicted, where documents begin, and going on from any place."""

import json
from itertools import islice

import pytest
import torch

from jogak.data.tokens import TokenStore
from jogak.data.windows import WindowLoader, read_windows
from jogak.errors import UserError

BOS, EOS = 1, 2


def store_of(*lengths):
    ids = iter(range(10, 10**6))
    return TokenStore.of([([], [*islice(ids, n), EOS]) for n in lengths])


def loader(store, length=8, batch_tokens=32, seed=0, apart=False, **options):
    return WindowLoader(store, length=length, batch_tokens=batch_tokens, seed=seed, bos_id=BOS, apart=apart, **options)


def check(batch, store):
    """Each target stands where it stands in the store; what is read is the one before it, or the begin mark."""
    flat = store.tokens.tolist()
    begins = set(store.starts.tolist())
    for row, (ids, targets) in enumerate(zip(batch.units.ids.tolist(), batch.targets.tolist(), strict=True)):
        at = flat.index(targets[0]) if targets[0] != EOS else flat.index(targets[1]) - 1
        assert targets == flat[at : at + len(targets)]
        assert ids == [BOS if at + i in begins else flat[at + i - 1] for i in range(len(ids))]
        if batch.units.segments is not None:
            changes = batch.units.segments[row].diff().tolist()
            assert changes == [int(at + i + 1 in begins) for i in range(len(changes))]


@pytest.mark.parametrize("apart", [False, True])
def test_windows_are_stretches_of_the_text(apart):
    store = store_of(20, 3, 40, 1, 17)
    batches = loader(store, apart=apart)
    for _ in range(12):
        batch = next(batches)
        assert batch.units.ids.shape == (4, 8)
        assert batch.units.mask is None
        assert (batch.units.segments is not None) == apart
        check(batch, store)


def test_an_epoch_reads_no_position_twice_and_nearly_all():
    store = store_of(500)
    batches = loader(store)
    for _ in range(3):
        seen = [t for _ in range(batches.batches_per_epoch) for t in next(batches).targets.flatten().tolist()]
        assert len(seen) == len(set(seen))
        assert len(seen) > 501 - 8 - 32


def test_epochs_are_cut_elsewhere_and_seeds_differ():
    store = store_of(300)
    firsts = [sorted(loader(store, seed=s)._starts.tolist())[0] for s in range(8)]
    assert len(set(firsts)) > 2
    assert not torch.equal(next(loader(store, seed=1)).targets, next(loader(store, seed=2)).targets)


@pytest.mark.parametrize("drawn", [0, 1, 5, 40])
def test_it_goes_on_where_it_was(drawn):
    store = store_of(100, 30, 77)
    first, second = loader(store, seed=3), loader(store, seed=3)
    for _ in range(drawn):
        next(first)
    second.load_state_dict(json.loads(json.dumps(first.state_dict())))
    for _ in range(20):
        a, b = next(first), next(second)
        assert torch.equal(a.units.ids, b.units.ids)
        assert torch.equal(a.targets, b.targets)


def test_processes_share_an_epoch():
    store = store_of(400)
    alone = loader(store)
    shares = [loader(store, rank=r, world=2) for r in range(2)]
    together = [next(shares[n % 2]).targets for n in range(alone.batches_per_epoch)]
    assert all(torch.equal(next(alone).targets, t) for t in together)


def test_measuring_reads_every_position_once():
    store = store_of(30, 9, 2)
    batches = list(read_windows(store, length=8, batch_tokens=16, bos_id=BOS, apart=True))
    assert [t for b in batches for t in b.targets.flatten().tolist()] == store.tokens.tolist()
    for batch in batches:
        check(batch, store)


def test_what_cannot_be_is_told():
    with pytest.raises(UserError, match=r"train\.batch_tokens=7 has no room"):
        loader(store_of(50), batch_tokens=7)
    with pytest.raises(UserError, match="fewer than a window"):
        loader(store_of(5))
    with pytest.raises(UserError, match="rank 2 of 2"):
        loader(store_of(50), rank=2, world=2)
    with pytest.raises(UserError, match=r"length=8, now 16"):
        loader(store_of(50), length=16).load_state_dict(loader(store_of(50)).state_dict())
