"""What is held out: decided by a hash of the target text alone, so that it never depends on order or chance.

All rows with one target go to one side: no answer of the test can be read off in training.
"""

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from hashlib import blake2b
from heapq import heappop, heappush
from unicodedata import normalize

from jogak.data.sources import Row
from jogak.errors import UserError

Read = Callable[[], Iterator[Row]]


@dataclass(frozen=True)
class Split:
    """Rows held out, and a way to stream the others.

    test, validation: rows in the data's order. train_rows: how many rows `train()` gives. digest: a hash of
    all rows, so that what is derived from them can be kept and found again.
    """

    test: list[Row]
    validation: list[Row]
    train_rows: int
    digest: str
    _read: Read
    _held_out: frozenset[int]

    def train(self) -> Iterator[Row]:
        """The rows that are not held out, read afresh at each call."""
        return (row for row in self._read() if target_hash(row.target) not in self._held_out)


def split_rows(read: Read, test: int, validation: int) -> Split:
    """Hold out the `test` distinct targets with the smallest hashes, then the next `validation`.

    read: gives all rows afresh at each call. Memory grows with test + validation alone.

    Raises: UserError if nothing would be left to train on.
    """
    wanted = test + validation
    kept: dict[int, list[tuple[int, Row]]] = {}
    largest: list[int] = []  # hashes in `kept`, negated: the heap's first is the largest
    digest = blake2b(digest_size=16)
    count = 0
    for number, row in enumerate(read()):
        count += 1
        digest.update(f"{len(row.source)} {len(row.target)} {row.source}{row.target}".encode())
        key = target_hash(row.target)
        if key in kept:
            kept[key].append((number, row))
        elif len(kept) < wanted or (largest and key < -largest[0]):
            kept[key] = [(number, row)]
            heappush(largest, -key)
            if len(kept) > wanted:
                del kept[-heappop(largest)]
    if not count:
        raise UserError("the data holds no rows; check data.sources")
    held = sum(map(len, kept.values()))
    if len(kept) < wanted or held == count:
        raise UserError(
            f"holding out {wanted} targets leaves nothing to train on (the data has {count} rows); "
            "lower data.test and data.validation"
        )
    order = sorted(kept)
    sides = [_in_order([kept[key] for key in keys]) for keys in (order[:test], order[test:])]
    return Split(sides[0], sides[1], count - held, digest.hexdigest(), read, frozenset(order))


def _in_order(groups: list[list[tuple[int, Row]]]) -> list[Row]:
    numbered = sorted((pair for group in groups for pair in group), key=lambda pair: pair[0])
    return [row for _, row in numbered]


def target_hash(text: str) -> int:
    """A number of 128 bits that depends on the text alone (BLAKE2b of its NFC form in UTF-8)."""
    return int.from_bytes(blake2b(normalize("NFC", text).encode(), digest_size=16).digest(), "big")
