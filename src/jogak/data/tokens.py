"""Encoded examples in flat files that are mapped, not read: a corpus larger than memory trains.

Legend: N examples. A store is a folder:
    tokens.bin      ids of source, then target, of example 0, then of example 1, ...: uint16 or uint32
    lengths.bin     int32 [N 2], ids in source and target
    where.bin       "file:line" of every example, joined; where_ends.bin: int64 [N], where each ends
    store.json      format, counts, and what was left out
"""

import os
import sys
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from hashlib import blake2b
from itertools import islice
from pathlib import Path
from typing import BinaryIO, Protocol, TypeVar

import numpy as np
from numpy.typing import NDArray

from jogak import storage
from jogak.data.sources import Row
from jogak.errors import UserError

FORMAT = 1
ROWS_AT_ONCE = 2048  # encoded together while building
_FILES = ("tokens.bin", "lengths.bin", "where.bin", "where_ends.bin")

Ids = NDArray[np.uint16 | np.uint32]


class PairCodec(Protocol):
    """What a store asks of a codec: see jogak.codecs.text.TextCodec."""

    vocab_size: int
    digest: str

    def encode_pairs(self, pairs: Sequence[tuple[str, str]]) -> list[tuple[list[int], list[int]]]: ...


@dataclass(frozen=True)
class Limits:
    """What is left out: above max_length ids in source or target, above ratio of longer to shorter."""

    max_length: int | None = None
    ratio: float | None = None

    def reason(self, source: int, target: int) -> str | None:
        """Why an example of these lengths is left out; None if it is kept."""
        if self.max_length is not None and max(source, target) > self.max_length:
            return "too long"
        if self.ratio is not None and max(source, target) > self.ratio * min(source, target):
            return "lengths too different"
        return None


@dataclass(frozen=True, eq=False)
class TokenStore:
    """Examples as ids. tokens: flat; lengths: int32 [N 2]; starts: int64 [N], where each source begins.

    left_out: how many examples were left out when this was built, by reason.
    """

    tokens: Ids
    lengths: NDArray[np.int32]
    left_out: dict[str, int] = field(default_factory=dict)
    starts: NDArray[np.int64] = field(init=False)
    _where: tuple[NDArray[np.uint8], NDArray[np.int64]] | None = None

    def __post_init__(self) -> None:
        ends = np.cumsum(self.lengths.sum(axis=1, dtype=np.int64))
        object.__setattr__(self, "starts", np.concatenate([np.zeros(1, np.int64), ends[:-1]]))

    def __len__(self) -> int:
        return len(self.lengths)

    def __getitem__(self, index: int) -> tuple[NDArray[np.int32], NDArray[np.int32]]:
        """The ids of example `index`, source and target, each int32 [length]."""
        if not -len(self) <= index < len(self):
            raise IndexError(f"example {index} of {len(self)}")
        start, (source, target) = int(self.starts[index]), self.lengths[index].tolist()
        ids = self.tokens[start : start + source + target].astype(np.int32)
        return ids[:source], ids[source:]

    def where(self, index: int) -> str:
        """Where example `index` comes from ("file:line")."""
        if self._where is None:
            return f"example {index}"
        text, ends = self._where
        return bytes(text[ends[index - 1] if index else 0 : ends[index]]).decode()

    # ------------------------------------------------------------ making

    @classmethod
    def of(cls, pairs: Iterable[tuple[Sequence[int], Sequence[int]]]) -> "TokenStore":
        """A store in memory, of (source ids, target ids)."""
        ids: list[int] = []
        lengths: list[tuple[int, int]] = []
        for source, target in pairs:
            ids += [*source, *target]
            lengths.append((len(source), len(target)))
        _refuse_empty(len(lengths), {})
        return cls(np.array(ids, dtype=np.uint32), np.array(lengths, dtype=np.int32))

    @classmethod
    def build(cls, folder: Path, rows: Iterable[Row], codec: PairCodec, limits: Limits) -> "TokenStore":
        """Encode `rows`, some at a time, into a store at `folder`, which appears only when it is whole.

        Raises: UserError if no example is left; StorageError if the disk refuses.
        """
        dtype = np.dtype(np.uint16 if codec.vocab_size <= 2**16 else np.uint32)
        with storage.new_folder(folder) as inside:
            with storage.storing(folder), _opened(inside) as files:
                count, left_out = _write(files, rows, codec, limits, dtype)
            _refuse_empty(count, left_out)
            sizes = {name: (inside / name).stat().st_size for name in _FILES}
            facts = {"format": FORMAT, "dtype": dtype.name, "order": sys.byteorder, "examples": count}
            storage.write_json(inside / "store.json", {**facts, "left_out": left_out, "sizes": sizes})
        return cls.open(folder)

    @classmethod
    def open(cls, folder: Path) -> "TokenStore":
        """The store at `folder`, mapped into memory.

        Raises: UserError if it is missing, damaged, or from another version or kind of machine.
        """
        facts = storage.read_json(folder / "store.json")
        if not isinstance(facts, dict) or (facts.get("format"), facts.get("order")) != (
            FORMAT,
            sys.byteorder,
        ):
            raise UserError(f"{folder}: a store of another version of jogak or kind of machine; delete it")
        for name in _FILES:
            file = folder / name
            if not file.is_file() or file.stat().st_size != facts.get("sizes", {}).get(name):
                raise UserError(f"{file}: damaged or truncated; delete {folder} and it is built again")
        tokens, lengths, where, where_ends = (folder / name for name in _FILES)
        return cls(
            _mapped(tokens, np.uint16 if facts["dtype"] == "uint16" else np.uint32),
            _mapped(lengths, np.int32).reshape(-1, 2),
            facts["left_out"],
            _where=(_mapped(where, np.uint8), _mapped(where_ends, np.int64)),
        )

    @classmethod
    def cached(
        cls,
        cache: Path,
        read: Callable[[], Iterable[Row]],
        codec: PairCodec,
        limits: Limits,
        data_digest: str,
    ) -> "TokenStore":
        """The store of these rows, codec and limits below `cache`; built if it is not there or damaged.

        data_digest: a hash of what `read()` gives (Split.digest). Several processes may ask; one builds.
        """
        key = f"{FORMAT} {data_digest} {codec.digest} {limits.max_length} {limits.ratio}"
        folder = cache / blake2b(key.encode(), digest_size=16).hexdigest()
        with storage.storing(cache):
            cache.mkdir(parents=True, exist_ok=True)
        with _alone(cache / f".{folder.name}.lock"):
            try:
                return cls.open(folder)
            except UserError:  # missing or damaged: it is only a cache
                return cls.build(folder, read(), codec, limits)


Number = TypeVar("Number", bound=np.generic)


def _mapped(file: Path, dtype: type[Number]) -> NDArray[Number]:
    return np.memmap(file, dtype=dtype, mode="r") if file.stat().st_size else np.empty(0, dtype)


@contextmanager
def _opened(folder: Path) -> Iterator[Sequence[BinaryIO]]:
    files = [(folder / name).open("wb") for name in _FILES]
    try:
        yield files
        for file in files:
            file.flush()
            os.fsync(file.fileno())
    finally:
        for file in files:
            file.close()


def _write(
    files: Sequence[BinaryIO], rows: Iterable[Row], codec: PairCodec, limits: Limits, dtype: np.dtype
) -> tuple[int, dict[str, int]]:
    """Encode and append; how many examples were kept, and how many left out by reason."""
    tokens, lengths, where, where_ends = files
    left_out: dict[str, int] = {}
    count, end = 0, 0
    rows = iter(rows)
    while chunk := list(islice(rows, ROWS_AT_ONCE)):
        for row, pair in zip(chunk, codec.encode_pairs([(r.source, r.target) for r in chunk]), strict=True):
            reason = limits.reason(*map(len, pair))
            if reason is not None:
                left_out[reason] = left_out.get(reason, 0) + 1
                continue
            place = row.where.encode()
            count, end = count + 1, end + len(place)
            tokens.write(np.array([*pair[0], *pair[1]], dtype=dtype).tobytes())
            lengths.write(np.array([len(pair[0]), len(pair[1])], dtype=np.int32).tobytes())
            where.write(place)
            where_ends.write(np.int64(end).tobytes())
    return count, left_out


def _refuse_empty(count: int, left_out: dict[str, int]) -> None:
    if not count:
        why = ", ".join(f"{number} {reason}" for reason, number in left_out.items())
        raise UserError(
            f"no training example is left ({why}); raise data.max_length or data.drop_longer_than"
            if why
            else "there are no training examples; check data.sources"
        )


@contextmanager
def _alone(path: Path) -> Iterator[None]:
    """One process at a time inside the block, where there are POSIX locks; elsewhere work is repeated."""
    try:
        import fcntl
    except ImportError:
        yield
        return
    with storage.storing(path):
        file = path.open("wb")
    with file:
        fcntl.flock(file, fcntl.LOCK_EX)
        yield
