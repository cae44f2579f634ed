"""Stores of encoded examples: what goes in comes out, and a cache on disk is whole, right, and built once."""

import json
import resource
import signal
import subprocess
import sys
import tracemalloc
from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from jogak.data import tokens
from jogak.data.sources import Row
from jogak.data.tokens import ROWS_AT_ONCE, Limits, TokenStore
from jogak.errors import StorageError, UserError

ROWS = [Row("가" * (n % 7 + 1), "a" * (n % 5 + 1) + "b", f"말.tsv:{n}") for n in range(50)]
ANY = Limits()


class Characters:
    """A codec whose ids are code points; `calls` counts the pairs it was given."""

    def __init__(self, vocab_size: int = 2**17, digest: str = "one") -> None:
        self.vocab_size, self.digest, self.calls = vocab_size, digest, 0

    def encode_pairs(self, pairs: Sequence[tuple[str, str]]) -> list[tuple[list[int], list[int]]]:
        self.calls += len(pairs)
        return [([ord(c) for c in s], [ord(c) for c in t]) for s, t in pairs]


def texts(store: TokenStore) -> list[tuple[str, str]]:
    pairs = (store[index] for index in range(len(store)))
    return [("".join(map(chr, source)), "".join(map(chr, target))) for source, target in pairs]


def cached(folder: Path, codec: Characters, limits: Limits = ANY, digest: str = "data") -> TokenStore:
    return TokenStore.cached(folder, lambda: ROWS, codec, limits, digest)


def left(folder: Path) -> list[str]:
    """What is below the folder, apart from the locks of caches."""
    return sorted(path.name for path in folder.iterdir() if not path.name.endswith(".lock"))


@settings(deadline=None)
@given(
    pairs=st.lists(
        st.tuples(st.lists(st.integers(0, 2**32 - 1), max_size=5), st.lists(st.integers(0, 2**16), max_size=5)),
        min_size=1,
        max_size=20,
    )
)
def test_a_store_in_memory_gives_back_what_it_was_given(pairs: list[tuple[list[int], list[int]]]) -> None:
    store = TokenStore.of(pairs)
    assert len(store) == len(pairs)
    for index, (source, target) in enumerate(pairs):
        ours, theirs = store[index]
        assert ours.astype(np.uint32).tolist() == source
        assert theirs.tolist() == target
    assert store.lengths.tolist() == [[len(s), len(t)] for s, t in pairs]


def test_indices_and_places() -> None:
    store = TokenStore.of([([1], [2, 3]), ([4, 5], [])])
    assert [ids.tolist() for ids in store[-1]] == [[4, 5], []]
    for wrong in (2, -3):
        with pytest.raises(IndexError, match="of 2"):
            store[wrong]
    assert store.where(1) == "example 1"
    with pytest.raises(UserError, match="there are no training examples"):
        TokenStore.of([])


@pytest.mark.parametrize(("vocab_size", "width"), [(2**16, 2), (2**16 + 1, 4)])
def test_a_store_on_disk(vocab_size: int, width: int, tmp_path: Path) -> None:
    store = TokenStore.build(tmp_path / "store", ROWS, Characters(vocab_size), ANY)
    for found in (store, TokenStore.open(tmp_path / "store")):
        assert texts(found) == [(row.source, row.target) for row in ROWS]
        assert [found.where(index) for index in range(50)] == [row.where for row in ROWS]
        assert found.tokens.itemsize == width
    assert left(tmp_path) == ["store"]


def test_more_rows_than_are_encoded_at_once(tmp_path: Path) -> None:
    rows = [Row(str(n), str(-n), f"a:{n}") for n in range(2 * ROWS_AT_ONCE + 3)]
    store = TokenStore.build(tmp_path / "store", rows, Characters(), ANY)
    assert texts(store) == [(row.source, row.target) for row in rows]


def test_memory_while_building_does_not_grow_with_the_data(tmp_path: Path) -> None:
    rows = (Row("가나다라마" * 4, "a" * 20, f"a:{n}") for n in range(20 * ROWS_AT_ONCE))
    tracemalloc.start()
    try:
        store = TokenStore.build(tmp_path / "store", rows, Characters(), ANY)
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    assert len(store) == 20 * ROWS_AT_ONCE
    assert peak < 5_000_000  # the ids alone are 6.5 MB, as Python's lists ten times that


def test_what_is_left_out_is_counted(tmp_path: Path) -> None:
    rows = [Row("가" * s, "a" * t, f"a:{s}") for s, t in ((10, 10), (11, 3), (3, 11), (9, 3), (3, 9), (3, 10), (1, 4))]
    store = TokenStore.build(tmp_path / "store", rows, Characters(), Limits(max_length=10, ratio=3.0))
    assert store.lengths.tolist() == [[10, 10], [9, 3], [3, 9]]
    assert store.left_out == TokenStore.open(tmp_path / "store").left_out == {"too long": 2, "lengths too different": 2}


def test_nothing_left_is_told_and_leaves_nothing(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"no training example is left \(50 too long\); raise data.max_length"):
        TokenStore.build(tmp_path / "store", ROWS, Characters(), Limits(max_length=0))
    with pytest.raises(UserError, match="there are no training examples"):
        TokenStore.build(tmp_path / "store", [], Characters(), ANY)
    assert left(tmp_path) == []


def test_a_fault_in_the_data_leaves_nothing(tmp_path: Path) -> None:
    def read() -> Iterator[Row]:
        yield from ROWS
        raise UserError("a.tsv:51: not UTF-8")

    with pytest.raises(UserError, match=r"a\.tsv:51"):
        TokenStore.build(tmp_path / "store", read(), Characters(), ANY)
    assert left(tmp_path) == []


# ---------------------------------------------------------------- the cache


def test_a_cache_is_used_again(tmp_path: Path) -> None:
    codec = Characters()
    first = cached(tmp_path / "cache", codec)
    again = cached(tmp_path / "cache", codec)
    assert codec.calls == len(ROWS)
    assert texts(first) == texts(again)
    assert len(left(tmp_path / "cache")) == 1


@pytest.mark.parametrize(
    "change",
    [
        {"digest": "other data"},
        {"codec": Characters(digest="two")},
        {"limits": Limits(max_length=9)},
        {"limits": Limits(ratio=4.0)},
    ],
    ids=["data", "codec", "max_length", "ratio"],
)
def test_other_data_codec_or_limits_are_another_cache(change: dict, tmp_path: Path) -> None:
    cached(tmp_path, Characters())
    codec = change.setdefault("codec", Characters())
    before = codec.calls
    cached(tmp_path, **change)
    assert codec.calls == before + len(ROWS)
    assert len(left(tmp_path)) == 2


def _cut(folder: Path, name: str) -> None:
    whole = (folder / name).read_bytes()
    (folder / name).write_bytes(whole[: len(whole) // 2])


DAMAGE = {
    **{f"half {name}": (lambda folder, name=name: _cut(folder, name)) for name in (*tokens._FILES, "store.json")},
    **{f"no {name}": (lambda folder, name=name: (folder / name).unlink()) for name in (*tokens._FILES, "store.json")},
    "a list": lambda folder: (folder / "store.json").write_text("[]"),
    "no sizes": lambda folder: (folder / "store.json").write_text(
        json.dumps({"format": tokens.FORMAT, "order": sys.byteorder})
    ),
    "another version": lambda folder: _change(folder, format=tokens.FORMAT + 1),
    "another machine": lambda folder: _change(folder, order="middle"),
}


def _change(folder: Path, **facts: object) -> None:
    path = folder / "store.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), **facts}))


@pytest.mark.parametrize("damage", DAMAGE)
def test_a_damaged_store_is_named_and_a_damaged_cache_built_again(damage: str, tmp_path: Path) -> None:
    codec = Characters()
    whole = texts(cached(tmp_path, codec))
    folder = tmp_path / left(tmp_path)[0]
    DAMAGE[damage](folder)
    with pytest.raises(UserError, match=str(folder)):
        TokenStore.open(folder)
    assert texts(cached(tmp_path, codec)) == whole
    assert codec.calls == 2 * len(ROWS)
    assert left(tmp_path) == [folder.name]


TWO = """
import sys, time
from pathlib import Path
from jogak.data.sources import Row
from jogak.data.tokens import Limits, TokenStore

class Slow:
    vocab_size, digest = 100_000, "slow"
    def encode_pairs(self, pairs):
        with open(sys.argv[2], "a") as log:
            log.write("built\\n")
        time.sleep(1)
        return [([ord(c) for c in s], [ord(c) for c in t]) for s, t in pairs]

print("ready", flush=True)
sys.stdin.readline()
rows = [Row(f"말 {n}", f"word {n}", f"a:{n}") for n in range(100)]
store = TokenStore.cached(Path(sys.argv[1]), lambda: rows, Slow(), Limits(), "data")
print(sum(map(int, store.tokens)), store.where(99))
"""


def test_of_several_processes_one_builds(tmp_path: Path) -> None:
    command = [sys.executable, "-c", TWO, str(tmp_path / "cache"), str(tmp_path / "log")]
    environment = {"PYTHONPATH": str(Path(tokens.__file__).parents[2])}
    workers = [
        subprocess.Popen(command, env=environment, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
        for _ in range(3)
    ]
    for worker in workers:  # all have imported everything: they ask within the second that building takes
        assert worker.stdout is not None
        assert worker.stdout.readline() == "ready\n"
    for worker in workers:
        assert worker.stdin is not None
        worker.stdin.write("go\n")
        worker.stdin.flush()
    told = {worker.communicate(timeout=60)[0] for worker in workers}
    assert [worker.returncode for worker in workers] == [0, 0, 0]
    assert len(told) == 1
    assert told.pop().endswith(" a:99\n")
    assert (tmp_path / "log").read_text() == "built\n"
    assert len(left(tmp_path / "cache")) == 1


@pytest.fixture
def small_disk() -> Iterator[None]:
    """The kernel refuses to let any file grow beyond 4 KiB, as a full disk does."""
    handler = signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (4096, hard))
    yield
    resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    signal.signal(signal.SIGXFSZ, handler)


@pytest.mark.usefixtures("small_disk")
@pytest.mark.parametrize("rows", [600, 20_000], ids=["at the end", "in the middle"])
def test_a_disk_that_refuses_leaves_nothing_half(rows: int, tmp_path: Path) -> None:
    data = [Row("가나다", "abc", "a") for _ in range(rows)]
    kept = TokenStore.build(tmp_path / "kept", data[:50], Characters(), ANY)
    with pytest.raises(StorageError, match=r"could not be written: .*; what was saved before is unharmed"):
        TokenStore.build(tmp_path / "store", data, Characters(), ANY)
    with pytest.raises(StorageError):  # nor does building over it harm what is there
        TokenStore.build(tmp_path / "kept", data, Characters(), ANY)
    assert left(tmp_path) == ["kept"]
    assert texts(TokenStore.open(tmp_path / "kept")) == texts(kept) == [("가나다", "abc")] * 50
