"""Synthetic probes: what a mixer can carry, choose and find again, each a question with one right answer.

Every probe draws its sequences from a generator that it is given, all rows at once. Units that no position is asked
for are IGNORE in the targets. `chance` is the accuracy of the best guess that looks at nothing.
Legend: B rows, T length.
"""

from dataclasses import dataclass
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from jogak.data.batch import IGNORE
from jogak.errors import UserError

Ints = NDArray[np.int64]


class Probe(Protocol):
    """A synthetic question: `sample` gives units [B T] and targets [B T] of `rows` sequences."""

    @property
    def vocabulary(self) -> int:
        """Units are below it."""
        ...

    @property
    def chance(self) -> float: ...

    @property
    def length(self) -> int: ...

    def sample(self, random: np.random.Generator, rows: int) -> tuple[Ints, Ints]: ...


def _need(condition: bool, sentence: str) -> None:
    if not condition:
        raise UserError(sentence)


@dataclass(frozen=True)
class Copying:
    """`tokens` units, then `lag` blanks, then as many cues: at the n-th cue, the n-th unit. Scored: the cues.

    Everything stands where it always stands, so that a fixed delay solves it: a linear time-invariant system can
    (Gu & Dao 2023, 2312.00752, figure 2 left, after Arjovsky et al. 2016). Units 0 blank, 1 cue, from 2 the alphabet.
    """

    tokens: int = 8
    lag: int = 48
    alphabet: int = 14

    def __post_init__(self) -> None:
        _need(self.tokens >= 1 and self.lag >= 0 and self.alphabet >= 2, "copying: needs tokens, and 2 of an alphabet")

    @property
    def vocabulary(self) -> int:
        return self.alphabet + 2

    @property
    def chance(self) -> float:
        return 1 / self.alphabet

    @property
    def length(self) -> int:
        return 2 * self.tokens + self.lag

    def sample(self, random: np.random.Generator, rows: int) -> tuple[Ints, Ints]:
        content = random.integers(2, self.vocabulary, (rows, self.tokens))
        ids = np.zeros((rows, self.length), dtype=np.int64)
        ids[:, : self.tokens] = content
        return _asked_at_the_end(ids, content)


@dataclass(frozen=True)
class SelectiveCopying:
    """As Copying, with the units at random places among the blanks: the model must choose what to keep.

    A linear time-invariant system cannot, since it treats every position alike (Gu & Dao 2023, 2312.00752, section
    3.1 and figure 2; there 16 units in 4,096 places). Scored: the cues at the end.
    """

    tokens: int = 8
    context: int = 56
    alphabet: int = 14

    def __post_init__(self) -> None:
        _need(1 <= self.tokens <= self.context, "selective copying: context must be at least as long as tokens")

    @property
    def vocabulary(self) -> int:
        return self.alphabet + 2

    @property
    def chance(self) -> float:
        return 1 / self.alphabet

    @property
    def length(self) -> int:
        return self.context + self.tokens

    def sample(self, random: np.random.Generator, rows: int) -> tuple[Ints, Ints]:
        content = random.integers(2, self.vocabulary, (rows, self.tokens))
        places = np.sort(_distinct(random, rows, self.context, self.tokens), axis=1)
        ids = np.zeros((rows, self.length), dtype=np.int64)
        np.put_along_axis(ids, places, content, axis=1)
        return _asked_at_the_end(ids, content)


@dataclass(frozen=True)
class InductionHeads:
    """Random units with one mark among them; when the mark comes again, say what followed it the first time.

    After Gu & Dao 2023 (2312.00752, section 4.1.2 and table 2; Olsson et al. 2022, 2209.11895), where the mark comes
    again once, at the end of 256; here it comes `queries` times more, so that a short training sees enough of them.
    The unit behind a mark that is asked for is the right answer. Scored: every mark but the first. Units: 0 the
    mark, from 1 the alphabet.
    """

    context: int = 64
    queries: int = 4
    alphabet: int = 15

    def __post_init__(self) -> None:
        _need(
            self.queries >= 1 and 4 * (self.queries + 1) <= self.context,
            "induction heads: context must be 4 times as long as there are marks",
        )

    @property
    def vocabulary(self) -> int:
        return self.alphabet + 1

    @property
    def chance(self) -> float:
        return 1 / self.alphabet

    @property
    def length(self) -> int:
        return self.context

    def sample(self, random: np.random.Generator, rows: int) -> tuple[Ints, Ints]:
        ids = random.integers(1, self.vocabulary, (rows, self.context))
        answer = random.integers(1, self.vocabulary, (rows, 1))
        # Marks stand at even places, so that none is the answer to another.
        places = 2 * np.sort(_distinct(random, rows, self.context // 2, self.queries + 1), axis=1)
        np.put_along_axis(ids, places, np.zeros_like(places), axis=1)
        np.put_along_axis(ids, places + 1, np.broadcast_to(answer, places.shape), axis=1)
        targets = np.full_like(ids, IGNORE)
        np.put_along_axis(targets, places[:, 1:], np.broadcast_to(answer, places[:, 1:].shape), axis=1)
        return ids, targets


@dataclass(frozen=True)
class AssociativeRecall:
    """Key and value, `pairs` times, then every key once more among blanks: say its value. Scored: the keys behind.

    Multi-query associative recall (Arora et al. 2023, 2312.04927, section 3 and appendix E): the gap between a pair
    and its question follows a power law with exponent `power` - 1, so that some come soon and some late. Units: 0
    blank, then `keys` keys, then `values` values.
    """

    pairs: int = 8
    context: int = 64
    keys: int = 32
    values: int = 32
    power: float = 0.01

    def __post_init__(self) -> None:
        _need(self.pairs <= self.keys, "associative recall: there must be as many keys as pairs")
        _need(4 * self.pairs <= self.context, "associative recall: context must be 4 times as long as there are pairs")

    @property
    def vocabulary(self) -> int:
        return 1 + self.keys + self.values

    @property
    def chance(self) -> float:
        return 1 / self.values

    @property
    def length(self) -> int:
        return self.context

    def sample(self, random: np.random.Generator, rows: int) -> tuple[Ints, Ints]:
        keys = 1 + _distinct(random, rows, self.keys, self.pairs)
        values = 1 + self.keys + random.integers(0, self.values, (rows, self.pairs))
        ids = np.zeros((rows, self.context), dtype=np.int64)
        ids[:, 0 : 2 * self.pairs : 2], ids[:, 1 : 2 * self.pairs : 2] = keys, values
        room = (self.context - 2 * self.pairs) // 2
        weight = self.power * np.arange(1, room + 1, dtype=np.float64) ** (self.power - 1)
        # The largest of log p + Gumbel noise are draws without replacement, for all rows at once.
        noise = np.log(weight) + random.gumbel(size=(rows, room))
        places = 2 * self.pairs + 2 * np.argsort(-noise, axis=1)[:, : self.pairs]
        targets = np.full_like(ids, IGNORE)
        np.put_along_axis(ids, places, keys, axis=1)
        np.put_along_axis(targets, places, values, axis=1)
        return ids, targets


@dataclass(frozen=True)
class LongCopying:
    """A string of letters, a mark, and the string again: say each next letter. Scored: from the mark on.

    What is said is read again (teacher forcing). A two-layer Transformer copies strings exponentially longer than
    its size, a state of fixed size holds only so many letters (Jelassi et al. 2024, 2402.01032, sections 2 and 3.1).
    Strings are `shortest` to `longest` letters long; behind the second one stand blanks. Units: 0 blank, 1 begin, 2
    the mark, from 3 the alphabet.
    """

    longest: int = 64
    shortest: int = 64
    alphabet: int = 26

    def __post_init__(self) -> None:
        _need(1 <= self.shortest <= self.longest, "long copying: shortest must be from 1 to longest")

    @property
    def vocabulary(self) -> int:
        return self.alphabet + 3

    @property
    def chance(self) -> float:
        return 1 / self.alphabet

    @property
    def length(self) -> int:
        return 2 * self.longest + 1

    def sample(self, random: np.random.Generator, rows: int) -> tuple[Ints, Ints]:
        letters = random.integers(3, self.vocabulary, (rows, self.longest))
        sizes = random.integers(self.shortest, self.longest + 1, (rows, 1))
        at = np.arange(self.length + 1)
        first, second = at - 1, at - 2 - sizes  # which letter of the string a place holds: [T], [B T]
        string = np.take_along_axis(letters, np.broadcast_to(first, (rows, len(at))).clip(0, self.longest - 1), axis=1)
        again = np.take_along_axis(letters, second.clip(0, self.longest - 1), axis=1)
        whole = np.zeros((rows, self.length + 1), dtype=np.int64)
        whole = np.where((first >= 0) & (first < sizes), string, whole)
        whole = np.where((second >= 0) & (second < sizes), again, whole)
        whole[:, 0] = 1
        np.put_along_axis(whole, 1 + sizes, 2, axis=1)
        scored = (second[:, 1:] >= 0) & (second[:, 1:] < sizes)
        return whole[:, :-1], np.where(scored, whole[:, 1:], IGNORE)


PROBES: dict[str, type[Copying | SelectiveCopying | InductionHeads | AssociativeRecall | LongCopying]] = {
    "copying": Copying,
    "selective-copying": SelectiveCopying,
    "induction-heads": InductionHeads,
    "associative-recall": AssociativeRecall,
    "long-copying": LongCopying,
}


def _asked_at_the_end(ids: Ints, content: Ints) -> tuple[Ints, Ints]:
    """Cues in the last places of ids [B T], which ask for `content` [B n]."""
    targets = np.full_like(ids, IGNORE)
    ids[:, -content.shape[1] :] = 1
    targets[:, -content.shape[1] :] = content
    return ids, targets


def _distinct(random: np.random.Generator, rows: int, among: int, count: int) -> Ints:
    """`count` different numbers below `among` in each row: [B count]."""
    return np.argsort(random.random((rows, among)), axis=1)[:, :count]
